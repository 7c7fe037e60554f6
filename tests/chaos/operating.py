"""Tells tales: what operators do, again and again until it is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from durable import (
    Handle,
    RetentionRule,
    Run,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    before,
)
from durable.client.keeping.retention import sweep
from tests.chaos import load
from tests.chaos.client import Client
from tests.chaos.tales import Kind, Tale

_PAUSED_SECONDS: Final = 0.3
_LOOK_SECONDS: Final = 0.02


class Teller:
    """Tells one tale to its end, wherever a killed client has left it."""

    def __init__(self, client: Client, tale: Tale) -> None:
        self._client = client
        self._engine = client.engine
        self._insist = client.insist
        self._tale = tale

    async def tell(self) -> None:
        ids = self._tale.workflow_ids
        for workflow_id in ids:
            await self._insist(
                f"start {workflow_id}",
                lambda i=workflow_id: self._start(i),  # type: ignore[misc]  # it binds the loop's name
            )
        await _HOW[self._tale.kind](self)

    async def _start(self, workflow_id: str) -> Handle[list[int]]:
        return await self._engine.start(
            load.operated(self._tale.places(workflow_id)),
            id=workflow_id,
            request_id=f"start-{workflow_id}",
            attributes={load.tale: self._tale.name},
        )

    @property
    def _id(self) -> str:
        return self._tale.workflow_ids[0]

    async def _do(
        self, what: str, how: Callable[[Handle[list[int]]], Awaitable[object]]
    ) -> None:
        """Do something to the newest run, until that is answered."""

        async def ask() -> object:
            return await how(await self._engine.get(self._id))

        await self._insist(f"{what} {self._id}", ask)

    async def _let_go(self) -> None:
        key = f"{self._id}:go"
        await self._do("let go", lambda h: h.signal(load.go(True), request_id=key))

    async def _result(self) -> None:
        await self._do("result", lambda h: h.result(timeout="20s"))

    async def pause(self) -> None:
        key = f"{self._id}:pause"
        await self._do("pause", lambda h: h.pause(request_id=key))
        if not self._client.was_asked(f"resume {self._id}"):
            await self._do("see paused", self._until_paused)
            await self._let_go()
            await asyncio.sleep(_PAUSED_SECONDS)
            self._client.note("resuming", of=self._id)
        key = f"{self._id}:resume"
        await self._do("resume", lambda h: h.resume(request_id=key))
        await self._result()

    async def _until_paused(self, handle: Handle[list[int]]) -> None:
        await _until(lambda: _is_paused(handle))
        self._client.note("paused", of=self._id)

    async def reset(self) -> None:
        await self._let_go()
        await self._do("first result", lambda h: h.result(timeout="20s"))
        key = f"{self._id}:reset"
        point = before(load.act, 2)
        await self._do("reset", lambda h: h.reset(to=point, request_id=key))
        await self._result()

    async def reset_while_open(self) -> None:
        await self._do("see begun", self._until_begun)
        key = f"{self._id}:reset"
        await self._do("reset", lambda h: h.reset(to="first_task", request_id=key))
        await self._let_go()
        await self._result()

    async def _until_begun(self, handle: Handle[list[int]]) -> None:
        await _until(lambda: _has_begun(handle))

    async def retry(self) -> None:
        await self._let_go()
        await self._do("failure", self._until_failed)
        load.mend(self._tale.places(self._id)[-1])
        key = f"{self._id}:retry"
        await self._do("retry", lambda h: h.retry(request_id=key))
        await self._result()

    async def _until_failed(self, handle: Handle[list[int]]) -> None:
        try:
            await handle.result(timeout="20s")
        except WorkflowFailedError:
            return
        self._client.note("wrong", key=self._id, text="it has not failed")

    async def delete(self) -> None:
        await self._let_go()
        await self._result()
        await self._remove(Handle.delete)

    async def expire(self) -> None:
        await self._let_go()
        await self._result()
        rules = [RetentionRule(keep=0, where=Run.id == self._id)]
        store = self._engine._store

        async def until_gone(handle: Handle[list[int]]) -> None:
            while True:
                await sweep(store, "default", rules)
                await handle.describe()

        await self._remove(until_gone)

    async def _remove(
        self, how: Callable[[Handle[list[int]]], Awaitable[object]]
    ) -> None:
        async def ask() -> None:
            # It may be gone by an earlier call; retention ends so, too.
            with contextlib.suppress(WorkflowNotFoundError):
                await how(await self._engine.get(self._id))

        await self._insist(f"delete {self._id}", ask)

    async def signal_all(self) -> None:
        batch = self._engine.batch(where=load.tale == self._tale.name)
        await self._insist(
            f"batch {self._tale.name}",
            lambda: batch.signal(load.go(True), id=self._tale.name, rate=None),
        )
        await self._batch_done()
        for self_id in self._tale.workflow_ids:
            handle = await self._find(self_id)
            await self._insist(
                f"result {self_id}",
                lambda h=handle: h.result(timeout="20s"),  # type: ignore[misc]  # as above
            )

    async def cancel_all(self) -> None:
        batch = self._engine.batch(where=load.tale == self._tale.name)
        await self._insist(
            f"batch {self._tale.name}",
            lambda: batch.cancel(id=self._tale.name, rate=None),
        )
        await self._batch_done()
        for workflow_id in self._tale.workflow_ids:
            handle = await self._find(workflow_id)
            await self._insist(
                f"result {workflow_id}",
                lambda h=handle: _until_cancelled(h),  # type: ignore[misc]  # as above
            )

    async def _find(self, workflow_id: str) -> Handle[list[int]]:
        found = await self._insist(
            f"find {workflow_id}", lambda: self._engine.get(workflow_id)
        )
        assert found is not None
        return found

    async def _batch_done(self) -> None:
        name = self._tale.name
        batch = self._engine.get_batch(name)
        done = await self._insist(
            f"batch done {name}", lambda: batch.result(timeout="20s")
        )
        many = len(self._tale.workflow_ids)
        if done is not None and (done.done, done.failed) != (many, {}):
            self._client.note("wrong", key=name, text=f"the batch has done {done}")


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    while not await is_so():  # noqa: ASYNC110 - another process makes it so
        await asyncio.sleep(_LOOK_SECONDS)


async def _is_paused(handle: Handle[list[int]]) -> bool:
    return (await handle.describe()).paused is not None


async def _has_begun(handle: Handle[list[int]]) -> bool:
    """Whether it has had a workflow task."""
    return any(event.task_number for event in (await handle.history())[1:])


async def _until_cancelled(handle: Handle[list[int]]) -> list[int] | None:
    try:
        return await handle.result(timeout="20s")
    except WorkflowCancelledError:
        return None


_HOW: Final[dict[Kind, Callable[[Teller], Awaitable[None]]]] = {
    "paused": Teller.pause,
    "reset": Teller.reset,
    "reset while open": Teller.reset_while_open,
    "retried": Teller.retry,
    "deleted": Teller.delete,
    "expired": Teller.expire,
    "signalled": Teller.signal_all,
    "cancelled": Teller.cancel_all,
}

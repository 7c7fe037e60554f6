"""What batches have engines do for them: an activity of the library's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import msgspec

from durable.api.activities.activity_context import ActivityInfo
from durable.batches.batch_workflow import ACT, FIND
from durable.batches.state import (
    Acted,
    ActWanted,
    BatchAction,
    FindWanted,
    Found,
    Target,
    pack,
    unpack_condition,
)
from durable.client.chain import Chain
from durable.client.client import Client
from durable.core.history.events import (
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionTerminated,
)
from durable.core.history.payload import Payload, Payloads
from durable.core.resetting import Before, Point
from durable.errors import (
    ApplicationError,
    DurableError,
    InboxFullError,
    QueryTooBroadError,
    StoreError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.search.orders import Order
from durable.store.queries import FindRun, ReadNews, SearchRuns
from durable.store.records import Deleted, DeleteRuns, MessageKind

_DONE = "done"
_MENDS = ("pause", "resume", "reset", "retry")
_FAILED = "failed: "


def batch_activities(
    client: Client,
) -> dict[str, Callable[[Payloads, ActivityInfo], Awaitable[Payload]]]:
    """The activities by which batches find and reach runs."""
    return {FIND: partial(_find, client), ACT: partial(_act, client)}


async def _find(client: Client, input: Payloads, _: ActivityInfo) -> Payload:
    wanted = msgspec.json.decode(input[0].json, type=FindWanted)
    where, order = unpack_condition(wanted.where), Order(is_descending=False)
    query = SearchRuns(client.namespace, where, order, wanted.after, wanted.size)
    try:
        page = await client.store.read(query)
    except QueryTooBroadError as error:
        raise ApplicationError(
            error.message, type="QueryTooBroadError", non_retryable=True
        ) from error
    targets = [
        Target(run.workflow_id, run.run_id, run.first_run_id, run.closed_at is None)
        for run in page
    ]
    after = None
    if len(page) == wanted.size:
        after = (page[-1].started_at, page[-1].run_id)
    return pack(Found(targets, after))


async def _act(client: Client, input: Payloads, info: ActivityInfo) -> Payload:
    wanted = msgspec.json.decode(input[0].json, type=ActWanted)
    sender = _Sender(client, wanted.action, info)
    found = await asyncio.gather(*map(sender.send, wanted.targets))
    outcomes = Counter(found)
    if wanted.action.kind == "delete":
        outcomes = await sender.delete(wanted.targets)
    done = outcomes.pop(_DONE, 0)
    failed = {
        why.removeprefix(_FAILED): count
        for why, count in outcomes.items()
        if why.startswith(_FAILED)
    }
    skipped = {w: n for w, n in outcomes.items() if not w.startswith(_FAILED)}
    failures = [
        (run.workflow_id, run.run_id, outcome.removeprefix(_FAILED))
        for run, outcome in zip(wanted.targets, found, strict=True)
        if outcome in outcomes and outcome.startswith(_FAILED)
    ]
    return pack(Acted(done, skipped, failed, failures))


class _Sender:
    """Acts on the runs of one step, and says of each what came of it."""

    def __init__(self, client: Client, action: BatchAction, info: ActivityInfo) -> None:
        self._client = client
        self._action = action
        self._info = info
        self._identity = info.workflow_id

    async def send(self, run: Target) -> str:
        """Send a run what it gets.

        Raises:
            StoreError: the database cannot be used; the step is tried again.
        """
        try:
            return await self._send(run)
        except WorkflowClosedError:
            return await self._closed(run)
        except WorkflowNotFoundError:
            return "gone"
        except StoreError:
            raise
        except (DurableError, InboxFullError) as error:
            return _FAILED + error.code

    async def _send(self, run: Target) -> str:
        action = self._action
        chain = Chain(
            self._client,
            run.workflow_id,
            run.run_id,
            run.first_run_id,
            is_pinned=True,
        )
        # The same for every attempt of the step, and for no other batch.
        request_id = f"{self._info.run_id}/{action.kind}"
        if action.kind in _MENDS:
            return await self._mend(run, f"{request_id}/{run.run_id}")
        if action.kind == "signal":
            signal = WorkflowExecutionSignaled(
                signal_name=action.signal_name,
                input=action.input,
                request_id=request_id,
                identity=self._identity,
            )
            kind = MessageKind.SIGNAL
            await chain.send(kind, request_id, signal, may_repeat=True)
        elif action.kind == "cancel":
            cancel = WorkflowExecutionCancelRequested(
                reason=action.reason, request_id=request_id, identity=self._identity
            )
            kind = MessageKind.CANCEL
            await chain.send(kind, request_id, cancel, may_repeat=True)
        elif action.kind == "terminate" or (action.terminates and run.is_open):
            event = WorkflowExecutionTerminated(
                reason=action.reason, identity=self._identity
            )
            await self._client.terminated(await chain.terminate(event))
        return _DONE

    async def _mend(self, run: Target, request_id: str) -> str:
        """Hold a run up, let it go on, or have another take its place."""
        action, client = self._action, self._client
        handle = await client.find(run.workflow_id, run.run_id, None)
        if action.kind == "pause":
            await handle.pause(note=action.reason, request_id=request_id)
        elif action.kind == "resume":
            await handle.resume(note=action.reason, request_id=request_id)
        else:
            newest = await client.store.read(FindRun(client.namespace, run.workflow_id))
            if newest is not None and newest.request_id == request_id:
                return _DONE
            if newest is not None and newest.run_id != run.run_id:
                return "superseded"
            if action.kind == "retry":
                await handle.retry(reason=action.reason, request_id=request_id)
            else:
                to = action.to
                place = Before(*to) if isinstance(to, tuple) else cast("Point", to)
                await handle.reset(
                    to=place,
                    reason=action.reason,
                    reapply=action.reapply,
                    request_id=request_id,
                )
        return _DONE

    async def _closed(self, run: Target) -> str:
        """Tell whether it is this batch that has closed a run, before it was killed."""
        if self._action.kind != "terminate" or self._info.attempt == 1:
            return "closed"
        for news in await self._client.store.read(ReadNews([run.run_id])):
            data = "" if news.last_row is None else news.last_row[5]
            found: Any = msgspec.json.decode(data) if data else {}
            if found.get("identity") == self._identity:
                return _DONE
        return "closed"

    async def delete(self, targets: list[Target]) -> Counter[str]:
        """Delete runs, all together: those of a chain may go only so."""
        if not targets:
            return Counter()
        run_ids = tuple(run.run_id for run in targets)
        operation = DeleteRuns(run_ids=run_ids, heeds_replies=False)
        deleted: Deleted = await self._client.store.perform(operation)
        outcomes = Counter(need.value for need in deleted.kept.values())
        missing = len(run_ids) - len(deleted.run_ids) - len(deleted.kept)
        # Before it was killed, this step may have deleted them.
        is_again = self._info.attempt > 1
        outcomes[_DONE] = len(deleted.run_ids) + (missing if is_again else 0)
        if missing and not is_again:
            outcomes["gone"] = missing
        return outcomes

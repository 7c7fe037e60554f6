"""Updates: requests to a run that are validated, recorded and answered.

Until a run has accepted an update, nothing of it is durable in the run's history. An
update that never reached its run is sent again under the same id, to the next run of
the chain if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from durable.client.chain import Chain
from durable.client.description import decode_stuck, stuck_error
from durable.converter.failures import exception_of
from durable.core.codec import decode_rows
from durable.core.events import (
    TERMINAL_EVENTS,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.payload import Failure, Payload
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.errors import (
    NoAnswerError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowClosedError,
)
from durable.options import Duration, to_microseconds
from durable.store.records import DropReplies, MessageKind

R_co = TypeVar("R_co", covariant=True)


class _Reply(msgspec.Struct):
    rejected: Failure


_reply_decoder: Final = msgspec.json.Decoder(_Reply)


class UpdateHandle(Generic[R_co]):
    """One update that was sent: wait for its answer.

    Attributes:
        update_id: its id; the same id in the same run is the same update.
        workflow_id: the run it was sent to.
        run_id: that run's id.
    """

    def __init__(
        self,
        chain: Chain,
        update_id: str,
        run_id: str,
        decode_result: Callable[[Payload], R_co],
        after_event_id: int = 0,
    ) -> None:
        self.update_id = update_id
        self.workflow_id = chain.workflow_id
        self.run_id = run_id
        self._chain = chain
        self._decode = decode_result
        self._outcome = chain.connection.answers.of(run_id, update_id)
        # Where to begin to look: a new update can only come after what was there.
        self._seen = after_event_id
        self._is_direct = False

    def __repr__(self) -> str:
        return f"<update {self.update_id!r} of run {self.workflow_id!r}>"

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the handler has answered, and return its result.

        Args:
            timeout: how long to wait; `timedelta`, seconds, or text like "30s".

        Raises:
            UpdateRejectedError: its validator refused it.
            UpdateFailedError: the handler raised, which is chained as `__cause__`, or
                the run ended before the handler did.
            NoAnswerError: `timeout` passed; the update itself goes on.
            WorkflowStuckError: the run's code must be mended first.
        """
        limit = None
        if timeout is not None:
            limit = to_microseconds(timeout, "the timeout of result()") / 1_000_000
        try:
            async with asyncio.timeout(limit):
                return await self._answer()
        except TimeoutError:
            if limit is None:
                raise
            raise self._no_answer("answered", limit) from None

    async def _answer(self) -> R_co:
        outcome = self._outcome
        while outcome.answer is None:
            self._raise_refusal()
            await self._news()
        answer = outcome.answer
        if answer.failure is None:
            return self._decode(answer.result or Payload())
        shown = answer.failure
        while shown.kind in ("activity", "child_workflow") and shown.cause is not None:
            shown = shown.cause
        error = UpdateFailedError(
            f"Update {self.update_id!r} of run {self.workflow_id!r} failed:"
            f" {shown.type}: {shown.message}",
            update_id=self.update_id,
        )
        raise error from exception_of(answer.failure)

    async def wait_accepted(self, limit: float | None) -> None:
        """Wait until the run has accepted the update.

        Raises: as `result`.
        """
        try:
            async with asyncio.timeout(limit):
                while not self._outcome.is_accepted:
                    self._raise_refusal()
                    await self._news()
        except TimeoutError:
            if limit is None:
                raise
            raise self._no_answer("accepted", limit) from None

    def _no_answer(self, what: str, limit: float) -> NoAnswerError:
        return NoAnswerError(
            f"Update {self.update_id!r} of run {self.workflow_id!r} was not {what}"
            f" within {limit:g} s; it may still be.",
            hint="Is a worker with its code running? Ask again under the same id.",
        )

    def _raise_refusal(self) -> None:
        refusal = self._outcome.refusal
        if refusal is not None:
            error = UpdateRejectedError(
                f"Run {self.workflow_id!r} rejected update {self.update_id!r}:"
                f" {refusal.message}",
                update_id=self.update_id,
            )
            raise error from exception_of(refusal)

    # --- news -------------------------------------------------------------------------

    async def _news(self) -> None:
        """Look into the store; if there is nothing new, wait until there may be."""
        outcome = self._outcome
        connection = self._chain.connection
        told = outcome.changed()
        changed = asyncio.ensure_future(connection.outcomes.of(self.run_id).changed())
        try:
            await asyncio.sleep(0)  # listen before looking
            if not outcome.is_given_back and not await self._look():
                await asyncio.wait([told, changed], return_when="FIRST_COMPLETED")
        finally:
            changed.cancel()
        if outcome.is_given_back and not outcome.is_accepted:
            outcome.is_given_back = False
            await self._send_by_store()

    async def _look(self) -> bool:
        """Read what history and replies say; True if that settles anything."""
        outcome, store = self._outcome, self._chain.connection.store
        worker = self._chain.connection.worker
        if self._is_direct and worker is not None and worker.is_live(self.run_id):
            return False  # its worker tells
        terminal: Any = None
        rows = await store.read_history(self.run_id, self._seen)
        for event in decode_rows(rows):
            what = event.attributes
            self._seen = event.event_id
            if (
                isinstance(
                    what,
                    WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted,
                )
                and what.update_id == self.update_id
            ):
                outcome.take(what)
            elif isinstance(what, TERMINAL_EVENTS):
                terminal = what
        if outcome.answer is not None:
            return True
        key = update_request_id(self.update_id)
        reply = await store.read_reply(self.run_id, key)
        if reply is not None:
            outcome.take(_reply_decoder.decode(reply).rejected)
            await store.perform(DropReplies(keys=((self.run_id, key),)))
            return True
        if terminal is not None:
            await self._run_ended(terminal)
            return True
        return await self._is_stuck()

    async def _is_stuck(self) -> bool:
        connection = self._chain.connection
        record = await connection.store.find_run(
            connection.namespace, self.workflow_id, self.run_id
        )
        if record is not None and record.stuck is not None:
            raise stuck_error(record, decode_stuck(record.stuck) or Failure())
        return False

    async def _run_ended(self, terminal: Any) -> None:
        if self._outcome.is_accepted:
            raise UpdateFailedError(
                f"Run {self.workflow_id!r} ended before its handler of update"
                f" {self.update_id!r} did.",
                update_id=self.update_id,
            )
        if isinstance(terminal, WorkflowExecutionContinuedAsNew):
            self._move(terminal.new_run_id)
            await self._send_by_store()
            return
        raise WorkflowClosedError(
            f"Run {self.workflow_id!r} has closed without taking update"
            f" {self.update_id!r}."
        )

    def _move(self, run_id: str) -> None:
        """Go on with the next run of the chain."""
        self.run_id, self._seen = run_id, 0
        self._chain.current = run_id
        self._outcome = self._chain.connection.answers.of(run_id, self.update_id)

    # --- sending ----------------------------------------------------------------------

    request: UpdateRequest

    async def send(self, request: UpdateRequest) -> None:
        """Give the update to its run: directly if that is live here.

        Raises:
            WorkflowNotFoundError, WorkflowClosedError: the run cannot take it.
        """
        self.request = request
        self._outcome.refusal = None  # of an earlier try under this id
        worker = self._chain.connection.worker
        self._is_direct = worker is not None and worker.request_update(
            self.run_id, request
        )
        if not self._is_direct:
            await self._send_by_store()

    async def _send_by_store(self) -> None:
        self._is_direct = False
        request_id = update_request_id(self.update_id)
        data = msgspec.json.encode(self.request).decode()
        try:
            run_id = await self._chain.put(MessageKind.UPDATE, request_id, data)
        except WorkflowClosedError:
            # It may have answered this very update before it closed.
            if not (await self._look() or self._outcome.is_accepted):
                raise
            return
        if run_id != self.run_id:
            self._move(run_id)


async def start_update(
    chain: Chain,
    request: UpdateRequest,
    decode_result: Callable[[Payload], Any],
    limit: float | None,
    after_event_id: int = 0,
) -> UpdateHandle[Any]:
    """Send an update and wait until it is accepted.

    No event up to `after_event_id` speaks of it.

    Raises: as `UpdateHandle.result`.
    """
    handle: UpdateHandle[Any] = UpdateHandle(
        chain, request.update_id, chain.current, decode_result, after_event_id
    )
    await handle.send(request)
    await handle.wait_accepted(limit)
    return handle

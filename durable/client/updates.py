"""Updates: requests to a run that are validated, recorded and answered.

Until a run has accepted an update, nothing of it is durable in the run's history. An
update that never reached its run is sent again under the same id, to the next run of
the chain if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from durable.client.chain import Chain
from durable.client.descriptions.description import decode_stuck, stuck_error
from durable.client.waiting.tails import RunTail
from durable.converter.failures import exception_of, show_remote
from durable.core.history.events import next_run_id
from durable.core.history.payload import Failure, Payload, is_paused, summary_of
from durable.core.messages import decode_update_reply, encode_message
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.errors import (
    NoAnswerError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowClosedError,
)
from durable.options import Duration, to_seconds
from durable.store.queries import FindRun, ReadReply
from durable.store.records import DropReplies, MessageKind

R_co = TypeVar("R_co", covariant=True)


class UpdateHandle(Generic[R_co]):
    """One update that was sent: wait for its answer.

    Attributes:
        update_id: its id; the same id in the same chain of runs is the same update.
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
        *,
        is_new: bool = False,
    ) -> None:
        self.update_id = update_id
        self.workflow_id = chain.workflow_id
        self.run_id = run_id
        self._chain = chain
        self._decode = decode_result
        self._outcome = chain.answers.of(run_id, update_id)
        # Where to begin to look: a new update can only come after what was there.
        self._seen = after_event_id
        # Nobody can have used its id before.
        self._is_new = is_new
        self._is_direct = False
        self._tail: RunTail | None = None
        # An earlier run of the chain has had it, and only that one's history says more.
        self._is_past = False
        self.request: UpdateRequest | None = None
        """What was sent; None if this handle only looks at it."""

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
        limit = to_seconds(timeout, "the timeout of result()")
        self._chain.connection.check()
        try:
            async with asyncio.timeout(limit):
                return await self._answer()
        except TimeoutError:
            if limit is None:
                raise
            raise self._no_answer("answered", limit) from None

    async def _answer(self) -> R_co:
        # The outcome is another one once the run has gone on as a new one.
        while (answer := self._outcome.answer) is None:
            self._raise_refusal()
            await self._news()
        if answer.failure is None:
            return self._decode(answer.result or Payload())
        error = UpdateFailedError(
            f"Update {self.update_id!r} of run {self.workflow_id!r} failed:"
            f" {summary_of(answer.failure)}",
            update_id=self.update_id,
        )
        raise error from show_remote(exception_of(answer.failure))

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
            raise error from show_remote(exception_of(refusal))

    # --- news -------------------------------------------------------------------------

    async def _news(self) -> None:
        """Look into the store; if there is nothing new, wait until there may be."""
        # Listen before looking.
        outcome, run = self._outcome, self._chain.connection.outcomes.of(self.run_id)
        told, changed = outcome.changed(), run.changed()
        try:
            if not self._must_send() and not await self._look():
                await asyncio.wait([told, changed], return_when="FIRST_COMPLETED")
        finally:
            run.forget(changed)
        if outcome is self._outcome and self._must_send():
            outcome.is_given_back = False
            await self._send_by_store()

    def _must_send(self) -> bool:
        """Whether the run's worker gave the update back to us, who sent it."""
        outcome = self._outcome
        return (
            outcome.is_given_back
            and not outcome.is_accepted
            and not self._is_past
            and self.request is not None
        )

    async def _look(self) -> bool:
        """Read what history and replies say; True if that settles anything."""
        outcome, store = self._outcome, self._chain.connection.store
        worker = self._chain.connection.worker
        if self._is_direct and worker is not None and worker.is_live(self.run_id):
            return False  # its worker tells
        if self._tail is None:
            tail = self._make_tail(self._seen)
            await tail.look()
            # From here on it is enough to hear what others read, too.
            self._tail = self._chain.connection.answers.share(tail)
        else:
            tail = self._tail
            await tail.look()
        terminal, record = tail.terminal, tail.record
        if outcome.answer is not None:
            return True
        if not outcome.is_accepted:
            key = update_request_id(self.update_id)
            reply = await store.read(ReadReply(self.run_id, key))
            if reply is not None:
                outcome.take(decode_update_reply(reply).rejected)
                await store.perform(DropReplies(keys=((self.run_id, key),)))
                return True
        if not outcome.is_accepted and self._go_back(tail):
            return True
        if self._is_past and record is None:
            raise UpdateFailedError(
                f"Run {self.workflow_id!r} has had update {self.update_id!r} before,"
                f" in its run {self.run_id}, which is not in the database any more.",
                update_id=self.update_id,
            )
        if terminal is not None:
            await self._run_ended(terminal)
            return True
        if record is None or is_paused(record.stuck):
            return False
        if record.stuck is not None:
            raise stuck_error(record, decode_stuck(record.stuck) or Failure())
        return False

    async def _run_ended(self, terminal: Any) -> None:
        if self._outcome.is_accepted:
            raise UpdateFailedError(
                f"Run {self.workflow_id!r} ended before its handler of update"
                f" {self.update_id!r} did.",
                update_id=self.update_id,
            )
        following = next_run_id(terminal)
        if following is not None and not self._is_past:
            self._move(following)
            if self.request is not None:
                await self._send_by_store()
            return
        raise WorkflowClosedError(
            f"Run {self.workflow_id!r} has closed without taking update"
            f" {self.update_id!r}."
        )

    def _go_back(self, tail: RunTail) -> bool:
        """Look at the run before if that, or one before it, has had the update."""
        started = tail.started
        if started is None:
            # Shared with those who began later, and perhaps too late for this one.
            return False
        known, before = started.known_request_ids, started.continued_from_run_id
        if before is None or known is msgspec.UNSET:
            return False
        if update_request_id(self.update_id) not in known:
            return False
        self._is_past = True
        self._look_at(before)
        return True

    def _move(self, run_id: str) -> None:
        """Go on with the next run of the chain."""
        self._chain.current = run_id
        self._look_at(run_id)

    def _look_at(self, run_id: str) -> None:
        self.run_id, self._seen, self._tail = run_id, 0, None
        self._outcome = self._chain.connection.answers.of(run_id, self.update_id)

    # --- sending ----------------------------------------------------------------------

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
            if self._is_new:
                self._tail = await self._join_tail()
            await self._send_by_store()

    async def _join_tail(self) -> RunTail:
        """What tells of a new update: nothing that was read before it is sent."""
        connection, run_id = self._chain.connection, self.run_id
        shared = connection.answers.shared_tail(run_id)
        if shared is not None:
            return shared
        record = await connection.store.read(
            FindRun(connection.namespace, self.workflow_id, run_id)
        )
        seen = 0 if record is None else record.checkpoint_event_id
        return connection.answers.share(self._make_tail(seen))

    def _make_tail(self, seen: int) -> RunTail:
        connection = self._chain.connection
        where = (connection.namespace, self.workflow_id, self.run_id)
        return RunTail(connection.store, where, seen, connection.answers.tell)

    async def _send_by_store(self) -> None:
        self._is_direct = False
        request_id = update_request_id(self.update_id)
        data = encode_message(self.request)
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
    *,
    is_new: bool = False,
) -> UpdateHandle[Any]:
    """Send an update and wait until it is accepted.

    No event up to `after_event_id` speaks of it; if it is new, none at all.

    Raises: as `UpdateHandle.result`.
    """
    handle: UpdateHandle[Any] = UpdateHandle(
        chain,
        request.update_id,
        chain.current,
        decode_result,
        after_event_id,
        is_new=is_new,
    )
    await handle.send(request)
    await handle.wait_accepted(limit)
    return handle

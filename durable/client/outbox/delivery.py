"""Delivers what committed transactions have asked for, beside all other work.

Rows of one target go in the order of writing, those of different ones beside each
other. A row and what it asks for are one operation of the store, so it does not matter
how many workers deliver, nor where they die. What is refused keeps only its own target
waiting, and not for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from durable import limits
from durable.client.chain import has_had
from durable.client.client import Client
from durable.client.found_runs import check_same, say_other_request, takes_no_message
from durable.client.home import Home
from durable.client.outbox.requests import OutboxStart, read_request
from durable.core.history.payload import Failure
from durable.errors import (
    CorruptHistoryError,
    DurableError,
    InboxFullError,
    InternalError,
    StoreError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.loggers import revive_loggers
from durable.options import USE_SAME
from durable.store.queries import FindOutbox, FindRun
from durable.store.records import (
    RUNNING,
    Delivered,
    DeliverOutbox,
    FoundRun,
    OutboxItem,
    OutboxRecord,
    PutMessage,
    SettleOutbox,
    Started,
    Terminated,
)

_log: Final = logging.getLogger("durable.worker")
# What nothing has told of is found once in so long.
_PATROL_SECONDS: Final = limits.LEASE_SECONDS / 2
# For what was written here: until it is found, or for so long.
_EXPECTED_SECONDS: Final = 10.0
_EXPECTED_PAUSE: Final = 0.04
# A commit is told of right before it, by some.
_NUDGED_SECONDS: Final = 0.2
_NUDGED_PAUSE: Final = 0.004
_FAILED_PAUSE: Final = 1.0
# So many times as long as looking took it rests, if it is to look again.
_PAUSE_OF_LOOKING: Final = 2
_FIRST_RETRY: Final = 100_000
_GROWTH: Final = 4
_RETRY_MAX: Final = 30_000_000
# A run that is started by other means may come late; what else nobody mends may not.
_TRIES: Final[dict[type[DurableError], int]] = {
    WorkflowNotFoundError: 4,
    InboxFullError: 100,
    StoreError: 10,
}


class Delivery:
    """Looks into the outbox of one namespace, and delivers.

    Nothing is delivered before `start`, which is for those who have a worker.
    """

    def __init__(self, client: Client, home: Home) -> None:
        self._client = client
        self._store = client.store
        self._home = home
        self._changed: Callable[[], None] = _do_nothing
        self._is_open = False
        self._look_task: asyncio.Task[None] | None = None
        self._look_again = False
        self._timer: asyncio.TimerHandle | None = None
        self._expected: dict[str, float] = {}
        self._nudged_until = 0.0

    def start(self, changed: Callable[[], None]) -> None:
        """Look now, and whenever there may be something.

        `changed` is called when something was delivered that a worker may take up.
        """
        self._changed = changed
        self._is_open = True
        self.changed()

    def stop(self) -> None:
        """Look no more."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        look = self._look_task
        if look is not None and not look.get_loop().is_closed():
            look.cancel()
        self._timer = self._look_task = None

    # --- when to look -----------------------------------------------------------------

    def expect(self, outbox_id: str) -> None:
        """A row was written in this process; any thread may say so."""
        if self._is_open:
            self._home.call(self._expect, outbox_id)

    def nudge(self) -> None:
        """Something was committed here, or is about to be; any thread may say so."""
        if self._is_open:
            self._home.call(self._nudge)

    def _expect(self, outbox_id: str) -> None:
        now = asyncio.get_running_loop().time()
        self._expected[outbox_id] = now + _EXPECTED_SECONDS
        self._wait(_EXPECTED_PAUSE)

    def _nudge(self) -> None:
        loop = asyncio.get_running_loop()
        self._nudged_until = loop.time() + _NUDGED_SECONDS
        self.changed()

    def changed(self) -> None:
        """Something was committed somewhere."""
        if not self._is_open:
            return
        if self._look_task is not None:
            self._look_again = True
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_task = asyncio.get_running_loop().create_task(self._look())

    def _wait(self, seconds: float) -> None:
        """Look in so long, or sooner."""
        loop = asyncio.get_running_loop()
        if not self._is_open or self._look_task is not None:
            return
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        wake = self.patrol if seconds >= _PATROL_SECONDS else self._wake
        self._timer = loop.call_later(seconds, wake)

    def patrol(self) -> None:
        """Look, though nothing speaks for it: a run has nothing to wait for there."""
        self._wake()

    def _wake(self) -> None:
        self._timer = None
        self.changed()

    def _pause(self) -> float:
        now = asyncio.get_running_loop().time()
        self._expected = {i: at for i, at in self._expected.items() if at > now}
        if now < self._nudged_until:
            return _NUDGED_PAUSE
        return _EXPECTED_PAUSE if self._expected else _PATROL_SECONDS

    # --- looking ----------------------------------------------------------------------

    async def _look(self) -> None:
        revive_loggers()
        next_in = _PATROL_SECONDS
        try:
            next_in = await self._look_until_empty()
        except StoreError as error:
            # Whoever needs the database says so, and so do other tasks of this one.
            _log.debug("The outbox cannot be read now: %s", error)
            next_in = _FAILED_PAUSE
        except Exception as error:  # noqa: BLE001 - it must go on
            _log.error("The outbox is not delivered now.", exc_info=error)
            next_in = _FAILED_PAUSE
        finally:
            self._look_task = None
            if self._is_open:
                self._wait(min(next_in, self._pause()))

    async def _look_until_empty(self) -> float:
        loop = asyncio.get_running_loop()
        while True:
            self._look_again = False
            began, now = loop.time(), self._store.now()
            query = FindOutbox(self._client.namespace, now, limits.OUTBOX_PAGE_MAX)
            page = await self._store.read(query)
            if page.rows:
                await self._deliver(page.rows)
                self._changed()
            elif not self._look_again:
                if page.next_at is None:
                    return _PATROL_SECONDS
                return max(0, page.next_at - now) / 1_000_000
            else:
                # Many others may commit all the time.
                await asyncio.sleep((loop.time() - began) * _PAUSE_OF_LOOKING)

    async def _deliver(self, rows: list[OutboxRecord]) -> None:
        targets: dict[str, list[OutboxRecord]] = {}
        for row in rows:
            targets.setdefault(row.target, []).append(row)
        done = await asyncio.gather(
            *map(self._deliver_to_one, targets.values()), return_exceptions=True
        )
        for failure in done:
            if isinstance(failure, BaseException):
                raise failure

    async def _deliver_to_one(self, rows: list[OutboxRecord]) -> None:
        """Deliver rows of one target, up to the first that is not done; settle that."""
        items: list[OutboxItem] = []
        unreadable: DurableError | None = None
        for row in rows:
            try:
                asked = read_request(row)
                if isinstance(asked, OutboxStart):
                    await self._client.defaults.read()
            except CorruptHistoryError as error:
                unreadable = error
                break
            if isinstance(asked, OutboxStart):
                how = asked.settings
                items.append(
                    OutboxItem(
                        row.sequence,
                        self._client.start_for_others(asked.started, how),
                    )
                )
            else:
                items.append(OutboxItem(row.sequence, asked))
        if items and not await self._carry_out(rows, items):
            return
        if unreadable is not None:
            await self._settle(rows[len(items)], unreadable)

    async def _carry_out(
        self, rows: list[OutboxRecord], items: list[OutboxItem]
    ) -> bool:
        """Deliver; whether all was done, or somebody else has done it."""
        try:
            outcomes = await self._store.perform(DeliverOutbox(items=tuple(items)))
        except StoreError as error:
            if type(error) is not StoreError:
                raise  # the database is at fault, not what is written
            if len(items) > 1:
                return await self._carry_out(rows[:1], items[:1]) and False
            outcomes = (error,)
        for row, outcome in zip(rows, outcomes, strict=False):
            if isinstance(outcome, Delivered) and outcome.is_gone:
                await self._told(row, outcome.result)
            else:
                await self._judge(row, outcome)
                return False
        return len(outcomes) == len(items)

    async def _told(self, row: OutboxRecord, result: Any) -> None:
        """Let this process know what has become of a row."""
        self._expected.pop(row.outbox_id, None)
        if isinstance(result, str):
            self._client.mailed(result)
        elif isinstance(result, Started):
            if result.terminated_run_id is not None and result.committed is not None:
                ended = Terminated(result.terminated_run_id, result.committed)
                await self._client.terminated(ended)
            for delivery in result.committed.deliveries if result.committed else ():
                if isinstance(delivery, str):
                    self._client.mailed(delivery)

    # --- what was not done ------------------------------------------------------------

    async def _judge(
        self, row: OutboxRecord, outcome: Delivered | DurableError
    ) -> None:
        asked = read_request(row)
        try:
            if isinstance(outcome, Delivered):
                if not isinstance(asked, OutboxStart) or not isinstance(
                    outcome.result, Started
                ):
                    raise InternalError(f"Row {row.sequence} was answered by a run.")
                await self._use_found(row, asked, outcome.result.found)
                return
            if isinstance(outcome, WorkflowClosedError) and await self._has_had(
                row, asked
            ):
                await self._finish(row, None)
                return
        except StoreError as error:
            if not isinstance(error, CorruptHistoryError):
                raise
            outcome = error
        except DurableError as error:
            outcome = error
        assert isinstance(outcome, DurableError)  # noqa: S101 - a found run was judged
        await self._settle(row, outcome)

    async def _finish(self, row: OutboxRecord, message: PutMessage | None) -> None:
        """Have a row deleted, with a message instead of what it asks for.

        Raises:
            DurableError: the message was refused.
        """
        item = OutboxItem(row.sequence, message)
        (outcome,) = await self._store.perform(DeliverOutbox(items=(item,)))
        if isinstance(outcome, DurableError):
            raise outcome
        await self._told(row, outcome.result)

    async def _use_found(
        self, row: OutboxRecord, start: OutboxStart, found: FoundRun | None
    ) -> None:
        """Answer a start with the run that there is, if that is what it asked for.

        Raises:
            DurableError: it is not.
        """
        if found is None:
            raise InternalError(f"Row {row.sequence} was answered by no run.")
        record, started, first = found.record, start.started, start.signal
        registry = self._client.registry
        definition = registry.workflows.get(started.workflow_type)
        signature = None if definition is None else definition.call_signature
        is_asked_again = started.request_id == record.request_id
        if is_asked_again:
            say_other_request(found, started, signature)
        elif start.on_conflict is USE_SAME:
            check_same(found, started, signature)
        had_it = is_asked_again and record.status is not RUNNING
        if first is None or start.on_conflict is not USE_SAME or had_it:
            await self._finish(row, None)
            return
        message = msgspec.structs.replace(
            self._client.message_of(record, first),
            run_id=None,
            first_run_id=record.first_run_id,
        )
        try:
            await self._finish(row, message)
        except WorkflowClosedError:
            raise takes_no_message(record) from None

    async def _has_had(
        self, row: OutboxRecord, asked: OutboxStart | PutMessage
    ) -> bool:
        """Whether a closed run has had a message, which was sent again."""
        if isinstance(asked, OutboxStart):
            return False
        run = await self._store.read(FindRun(row.namespace, row.target, asked.run_id))
        return run is not None and await has_had(
            self._store, run.run_id, asked.request_id
        )

    async def _settle(self, row: OutboxRecord, error: DurableError) -> None:
        """Say when a refused row is tried again, or set it aside."""
        tries = row.tries + 1
        due_at = None
        if tries <= _TRIES.get(type(error), 0):
            pause = min(_FIRST_RETRY * _GROWTH ** min(tries - 1, 10), _RETRY_MAX)
            due_at = self._store.now() + pause
        failure = Failure(message=str(error), type=type(error).__name__)
        is_done = await self._store.perform(
            SettleOutbox(
                sequence=row.sequence,
                due_at=due_at,
                tries=tries,
                failure=msgspec.json.encode(failure).decode(),
                # What of its row cannot be read is as nobody expects it.
                expected=row.tries if row.damage is None else None,
            )
        )
        if is_done and due_at is None:
            self._expected.pop(row.outbox_id, None)
            _log.warning(
                "Row %d of the outbox, for workflow id %r, is set aside: %s See it with"
                " `durable outbox list`; `durable outbox retry %d` tries it again.",
                row.sequence,
                row.target,
                error,
                row.sequence,
                extra={"workflow_id": row.target, "outbox_sequence": row.sequence},
            )


def _do_nothing() -> None:
    """For those who have no worker."""

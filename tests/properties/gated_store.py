"""A store whose writes and reads happen when a test says so.

A write that was submitted goes through two gates: it is applied, with whatever else was
submitted by then, and later its outcome is delivered. A read goes through two of its
own. So everything can happen in between that could happen in between with a database:
other processes see what this one does not know yet, and the other way round. The
contract of `durable.store.store` holds: writes are applied and answered in order, and
reads see every write whose outcome was delivered.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from durable.clock import Clock
from durable.errors import CommitUnknownError, DatabaseUnavailableError, DurableError
from durable.store.lease import DrainWorker, RegisterWorker, ReleaseWorker
from durable.store.memory.memory import MemoryStore
from durable.store.queries import Query
from durable.store.records import WorkerRecord
from durable.store.store import Operation, Outcome
from durable.store.submission import deliver, wait_for_outcome

T = TypeVar("T")
MOVES = ("apply", "deliver", "read", "hand")
FAULTS = ("refused", "lost", "unwritten")
"""Nothing was written; all was, but nobody could tell; nothing was, likewise."""

_Write = tuple[Any, Outcome]
_Answer = tuple[Outcome, Any, BaseException | None]


class GatedStore:
    """A memory store behind gates; `move` opens one of them for a moment."""

    def __init__(self, clock: Clock) -> None:
        self.inner = MemoryStore(clock=clock)
        self.database = self.inner._database
        self._submitted: deque[_Write] = deque()
        self._applied: deque[list[_Answer]] = deque()
        self._asked: deque[Callable[[], None]] = deque()
        self._found: deque[Callable[[], None]] = deque()
        self._fault: str | None = None
        self.is_dead = False
        self.is_failing_reads = False
        self.is_away = False
        """The database answers nothing but errors."""
        self.is_full = False
        """It can be read, but not written."""

    def share(self, database: Any) -> None:
        """Use the database of another store."""
        self.database = self.inner._database = database

    # --- gates ------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether anything waits at a gate."""
        return not self.is_dead and bool(
            self._submitted or self._applied or self._asked or self._found
        )

    def move(self, gate: str) -> bool:
        """Let through what waits at a gate; False if nothing does."""
        if self.is_dead:
            return False
        moved: bool = getattr(self, f"_{gate}")()
        return moved

    def mend(self) -> None:
        """Let the database work again."""
        self.is_away = self.is_full = False

    def fail_next(self, fault: str) -> None:
        """Let the next group of writes end in one of `FAULTS`."""
        self._fault = fault

    def kill(self) -> None:
        """The process is gone: nothing of it is written, answered or heard any more."""
        self.is_dead = True
        for queue in (self._submitted, self._applied, self._asked, self._found):
            queue.clear()
        inner: Any = self.inner
        inner._changed = None
        if inner._renewal is not None:
            inner._renewal.cancel()

    def _apply(self) -> bool:
        if not self._submitted:
            return False
        group, self._submitted = list(self._submitted), deque()
        fault, self._fault = self._fault, None
        if self.is_away or self.is_full:
            fault = "refused"
        answers: list[_Answer] = []
        for operation, done in group:
            if fault in ("refused", "unwritten"):
                answers.append((done, None, _error_of(fault)))
                continue
            try:
                result, error = self.inner._apply(operation), None
            except DurableError as refusal:
                result, error = None, refusal
            if fault is not None and not isinstance(error, DurableError):
                result, error = None, _error_of(fault)
            answers.append((done, result, error))
        self._applied.append(answers)
        self.inner._tell_others()
        return True

    def _deliver(self) -> bool:
        if not self._applied:
            return False
        answers = self._applied.popleft()
        loop = asyncio.get_event_loop()
        outcomes = [(result, error) for _, result, error in answers]
        loop.call_soon(deliver, loop, [answer[0] for answer in answers], outcomes)
        return True

    def _read(self) -> bool:
        if not self._asked:
            return False
        self._asked.popleft()()
        return True

    def _hand(self) -> bool:
        if not self._found:
            return False
        asyncio.get_event_loop().call_soon(self._found.popleft())
        return True

    # --- the store --------------------------------------------------------------------

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        """Let everything through that was submitted, then close."""
        while self.is_busy:
            for gate in MOVES:
                self.move(gate)
            await asyncio.sleep(0)
        await self.inner.close()

    def now(self) -> int:
        return self.inner.now()

    def submit(self, operation: Operation, done: Outcome) -> None:
        self._submit(operation, done)

    def _submit(self, operation: Any, done: Outcome) -> None:
        if not self.is_dead:
            self.inner._admission.check()
            self._submitted.append((operation, done))

    async def perform(self, operation: Operation) -> Any:
        return await wait_for_outcome(lambda done: self._submit(operation, done))

    async def register_worker(
        self,
        worker: WorkerRecord,
        lost: Callable[[], None],
        report: Callable[[], str] | None = None,
    ) -> WorkerRecord:
        operation = RegisterWorker(worker, lost)
        registered: WorkerRecord = await wait_for_outcome(
            lambda done: self._submit(operation, done)
        )
        return registered

    async def drain_worker(self) -> None:
        await wait_for_outcome(lambda done: self._submit(DrainWorker(), done))

    async def release_worker(self) -> None:
        await wait_for_outcome(lambda done: self._submit(ReleaseWorker(), done))

    def holds_lease(self) -> bool:
        return self.inner.holds_lease()

    def lease_seconds(self) -> float:
        return self.inner.lease_seconds()

    def watch(self, changed: Callable[[], None]) -> None:
        self.inner.watch(changed)

    # --- reads ------------------------------------------------------------------------

    async def read(self, query: Query[T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            outcome: Any
            try:
                if self.is_failing_reads or self.is_away:
                    self.is_failing_reads = False
                    raise DatabaseUnavailableError("The database was away.")
                outcome = _at_once(self.inner.read(query))
            except DurableError as error:
                refusal = error
                self._found.append(lambda: _set(future, None, refusal))
                return
            self._found.append(lambda: _set(future, outcome, None))

        if not self.is_dead:
            self.inner._admission.check()
            self._asked.append(answer)
        return await future


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("A read of the memory store waited.")


def _set(
    future: "asyncio.Future[Any]", result: Any, error: BaseException | None
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _error_of(fault: str) -> DurableError:
    if fault == "refused":
        return DatabaseUnavailableError("The database was away.")
    return CommitUnknownError("Nobody knows whether it was written.")

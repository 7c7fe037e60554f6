"""Rows and a harness for tests of stores: short to write, whole in every field."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable.store.activity_tasks import (
    ActivityTaskRecord,
    ClaimActivityTasks,
    SettleActivityTask,
)
from durable.store.queries import (
    FindActivityTask,
    ListRuns,
    LoadRuns,
    ReadMessages,
)
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    ClaimRuns,
    CommitTask,
    PutMessage,
    RunFilter,
    RunRecord,
    RunStatus,
    StartRun,
    TerminateRun,
    WorkerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.clock import Clock
    from durable.store.records import HistoryRow, LoadedRun
    from durable.store.store import Operation, Store

NAMESPACE = "default"
QUEUE = "queue"
START = 1_800_000_000_000_000
CLAIM = ClaimRuns(workflow_types=("order",), limit=10)
CLAIM_TASKS = ClaimActivityTasks(queues=((QUEUE, ("charge",)),), limit=10)


class SettableClock:
    """A clock that shows what the test sets."""

    def __init__(self, at: int = START) -> None:
        """Begin at an instant."""
        self.at = at
        self.passed = 0

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return self.at

    def monotonic_ns(self) -> int:
        """Nanoseconds that have passed, whatever the clock was set to."""
        return self.passed * 1_000

    def advance(self, seconds: float) -> None:
        """Move on, or be set back by a negative number."""
        change = round(seconds * 1_000_000)
        self.at += change
        self.passed += max(0, change)


def make_run(run_id: str, **changes: Any) -> RunRecord:
    """Build an open run without an owner; its workflow id is `wf-` and the run id."""
    record = RunRecord(
        namespace=NAMESPACE,
        workflow_id=f"wf-{run_id}",
        run_id=run_id,
        workflow_type="order",
        task_queue=QUEUE,
        status=RunStatus.RUNNING,
        started_at=START,
        first_run_id=run_id,
        request_id=f"start-{run_id}",
        root_run_id=run_id,
    )
    return msgspec.structs.replace(record, **changes)


def make_rows(run_id: str, first: int, last: int, data: str = "{}") -> list[HistoryRow]:
    """Build the rows of events `first` to `last`; the data names the event."""
    return [
        (run_id, event_id, event_id // 2 + 1, "TimerFired", START + event_id, data, 3)
        for event_id in range(first, last + 1)
    ]


def make_start(run_id: str, /, *, events: int = 2, **changes: Any) -> StartRun:
    """Build a start; `changes` are fields of the run or of the operation."""
    own = {
        name: changes.pop(name)
        for name in StartRun.__struct_fields__
        if name in changes
    }
    own.setdefault("rows", make_rows(run_id, 1, events))
    return StartRun(record=make_run(run_id, **changes), **own)


def make_owned(run_id: str, /, *, events: int = 2, **changes: Any) -> StartRun:
    """Build the start of a run that the worker `w` owns."""
    return make_start(run_id, events=events, owner="w", **changes)


def make_child(run_id: str, parent: str, policy: str, /, **changes: Any) -> StartRun:
    """Build the start of a run that event 2 of its parent has asked for."""
    family: dict[str, Any] = {
        "parent_workflow_id": f"wf-{parent}",
        "parent_run_id": parent,
        "parent_initiated_event_id": 2,
        "parent_close_policy": policy,
        "root_run_id": parent,
    }
    return make_start(run_id, **(family | changes))


def make_commit(
    run_id: str, first: int = 3, last: int = 3, **changes: Any
) -> CommitTask:
    """Build a task's commit of events; by default of the first that no start brings."""
    return CommitTask(run_id=run_id, rows=make_rows(run_id, first, last), **changes)


def make_closing(
    run_id: str, first: int = 3, last: int = 3, **changes: Any
) -> CommitTask:
    """Build a commit that completes the run."""
    fields = {"status": RunStatus.COMPLETED, "closed_at": START + 7} | changes
    return make_commit(run_id, first, last, **fields)


def make_attempt(run_id: str, attempt: int, /, **changes: Any) -> AttemptRecord:
    """Build an attempt of the activity that event 2 has scheduled."""
    record = AttemptRecord(
        run_id=run_id,
        scheduled_event_id=2,
        attempt=attempt,
        activity_type="charge",
        state=AttemptState.STARTED,
        due_at=START,
    )
    return msgspec.structs.replace(record, **changes)


def make_task(run_id: str, event_id: int = 2, /, **changes: Any) -> ActivityTaskRecord:
    """Build a task that waits and is due, for its first attempt."""
    record = ActivityTaskRecord(
        run_id=run_id,
        scheduled_event_id=event_id,
        namespace=NAMESPACE,
        task_queue=QUEUE,
        activity_type="charge",
        attempt=1,
        due_at=START,
        data='{"n": 1}',
    )
    return msgspec.structs.replace(record, **changes)


def make_settling(
    run_id: str, event_id: int = 2, /, **changes: Any
) -> SettleActivityTask:
    """Build the settling of a first attempt, which tells the run."""
    settling = SettleActivityTask(
        run_id=run_id,
        scheduled_event_id=event_id,
        attempt=1,
        request_id=f"done-{event_id}",
        message='{"result": 1}',
    )
    return msgspec.structs.replace(settling, **changes)


def make_message(
    run_id: str, /, request_id: str = "cancel-1", **changes: Any
) -> PutMessage:
    """Build a message for the open run of that run id's workflow id."""
    message = PutMessage(
        namespace=NAMESPACE,
        workflow_id=f"wf-{run_id}",
        run_id=None,
        kind="cancel",
        request_id=request_id,
        data='{"reason": "enough"}',
    )
    return msgspec.structs.replace(message, **changes)


def make_termination(run_id: str, /, **changes: Any) -> TerminateRun:
    """Build the termination of the open run of that run id's workflow id."""
    termination = TerminateRun(
        namespace=NAMESPACE,
        workflow_id=f"wf-{run_id}",
        run_id=None,
        data='{"reason": "enough"}',
    )
    return msgspec.structs.replace(termination, **changes)


def make_worker(worker_id: str, **changes: Any) -> WorkerRecord:
    """Build a worker that is not registered yet."""
    worker = WorkerRecord(
        worker_id=worker_id,
        namespace=NAMESPACE,
        host="host",
        pid=4711,
        process_started_at="boot+1",
        task_queue=QUEUE,
        started_at=START,
    )
    return msgspec.structs.replace(worker, **changes)


class Opened:
    """An open store, and what tests ask of it time and again."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self.open, self.close, self.now = store.open, store.close, store.now
        self.perform, self.submit, self.read = store.perform, store.submit, store.read
        self.watch, self.holds_lease = store.watch, store.holds_lease
        self.register_worker = store.register_worker
        self.drain_worker = store.drain_worker
        self.release_worker = store.release_worker
        self.lease_seconds = store.lease_seconds
        self._store = store

    async def together(self, *operations: Operation) -> list[Any]:
        """Submit operations at once; see `perform_all`."""
        return await perform_all(self._store, *operations)

    async def load(self, run_id: str) -> LoadedRun:
        """Load one run, which must be there."""
        (loaded,) = await self.read(LoadRuns([run_id]))
        return loaded

    async def task(self, run_id: str, event_id: int = 2) -> ActivityTaskRecord | None:
        """Return an activity's row, if it has one."""
        return await self.read(FindActivityTask(run_id, event_id))

    async def waiting(self, run_id: str) -> list[str]:
        """Return the request ids that wait for a run, in order."""
        return [one.request_id for one in await self.read(ReadMessages(run_id))]

    async def statuses(self) -> dict[str, str]:
        """Return the status of every run."""
        runs = await self.read(ListRuns(NAMESPACE, RunFilter()))
        return {run.run_id: run.status.value for run in runs}


class Harness:
    """Opens the stores of one test, all on one database, and closes them."""

    def __init__(
        self, make_store: Callable[[Clock], Store], *, shares_database: bool = True
    ) -> None:
        """Take the function that makes a store; without sharing only one is opened."""
        self._make_store = make_store
        self._shares_database = shares_database
        self._stores: list[Store] = []
        self.clock = SettableClock()
        self.lost: list[str] = []
        """The ids of workers whose lease was lost."""

    def make(self, clock: Clock | None = None) -> Store:
        """Make a store that is not opened yet; it is closed after the test."""
        if self._stores and not self._shares_database:
            pytest.skip("needs a second store")
        store = self._make_store(clock or self.clock)
        self._stores.append(store)
        return store

    async def open(self, worker_id: str | None = None) -> Opened:
        """Open a store, and register a worker if an id is given."""
        store = Opened(self.make())
        await store.open()
        if worker_id is not None:
            await self.register(store, worker_id)
        return store

    async def register(
        self, store: Opened, worker_id: str, **changes: Any
    ) -> WorkerRecord:
        """Register a worker and note when its lease is lost."""
        return await store.register_worker(
            make_worker(worker_id, **changes), lambda: self.lost.append(worker_id)
        )

    async def close(self) -> None:
        """Close every store."""
        for store in self._stores:
            await store.close()


class Gathering:
    """Collects outcomes in the order in which they are delivered."""

    def __init__(self) -> None:
        """Begin empty."""
        self.outcomes: list[Any] = []
        """Results, or the exceptions themselves."""

    def receive(self, result: Any, error: BaseException | None) -> None:
        """Be the receiver of an outcome."""
        self.outcomes.append(result if error is None else error)


async def perform_all(store: Store, *operations: Operation) -> list[Any]:
    """Submit operations at once and return their results or exceptions, in order."""
    gathering = Gathering()
    for operation in operations[:-1]:
        store.submit(operation, gathering.receive)
    try:
        last = await store.perform(operations[-1])
    except Exception as error:  # noqa: BLE001 - it is the outcome
        last = error
    return [*gathering.outcomes, last]


async def wait_until(condition: Any) -> None:
    """Let the loop run until something holds; the test's timeout is the bound."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)

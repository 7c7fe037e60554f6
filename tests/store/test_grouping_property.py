"""However operations are grouped, they end as if they had come one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from durable.errors import DurableError
from durable.options import IdConflictPolicy, IdReusePolicy
from durable.store import statements, tables
from durable.store.batches import Batch, Outcomes
from durable.store.database import Session
from durable.store.groups import GroupExecutor
from durable.store.lease import RegisterWorker, ReleaseWorker
from durable.store.memory import MemoryStore
from durable.store.records import (
    AttemptState,
    ClaimRuns,
    CommitTask,
    ParkRun,
    PutMessage,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RunStatus,
    StartRun,
    TerminateRun,
)
from durable.store.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.transaction import Transaction
from durable.testing.store_rows import (
    START,
    SettableClock,
    make_attempt,
    make_message,
    make_rows,
    make_run,
    make_termination,
    make_worker,
)

RUN_IDS = list("abcdefghijkl")
WORKFLOW_IDS = ["wf-a", "wf-b", "wf-c", "wf-d"]


class Takeover:
    """Another process has taken over everything; not an operation of this store."""


def ignore() -> None:
    pass


run_ids = st.sampled_from(RUN_IDS)
wake_ups = st.sampled_from([None, START - 1, START, START + 1])


@st.composite
def starts(draw: st.DrawFn) -> StartRun:
    run_id = draw(run_ids)
    record = make_run(
        run_id,
        workflow_id=draw(st.sampled_from(WORKFLOW_IDS)),
        request_id=draw(st.sampled_from([f"start-{run_id}", "q1", "q2"])),
        namespace=draw(st.sampled_from(["default", "default", "other"])),
        owner=draw(st.sampled_from(["w", "w", "w", None, "old"])),
        started_at=START + draw(st.integers(0, 3)),
        is_active=draw(st.booleans()),
        wake_at=draw(wake_ups),
    )
    return StartRun(
        record=record,
        rows=make_rows(run_id, 1, draw(st.integers(1, 2))),
        reuse_policy=draw(st.sampled_from(IdReusePolicy)),
        conflict_policy=draw(st.sampled_from(IdConflictPolicy)),
        terminated_data="{}",
    )


@st.composite
def attempts(draw: st.DrawFn, run_id: str) -> tuple[Any, ...]:
    state = st.sampled_from(AttemptState)
    numbers = draw(st.lists(st.integers(1, 2), max_size=2))
    return tuple(make_attempt(run_id, n, state=draw(state)) for n in numbers)


@st.composite
def commits(draw: st.DrawFn) -> CommitTask:
    run_id = draw(run_ids)
    first = draw(st.integers(2, 5))
    return CommitTask(
        run_id=run_id,
        rows=make_rows(run_id, first, first + draw(st.integers(-1, 1))),
        status=draw(st.sampled_from([None, RunStatus.COMPLETED, RunStatus.FAILED])),
        closed_at=START + 5,
        update_run=draw(st.booleans()),
        is_active=draw(st.booleans()),
        wake_at=draw(wake_ups),
        attempts=draw(attempts(run_id)),
        consumed=tuple(draw(st.lists(st.integers(1, 3), max_size=2, unique=True))),
    )


@st.composite
def recordings(draw: st.DrawFn) -> RecordAttempts:
    run_id = draw(run_ids)
    return RecordAttempts(
        run_id=run_id,
        attempts=draw(attempts(run_id)),
        is_active=draw(st.booleans()),
        wake_at=draw(wake_ups),
    )


def requests(make: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda run_id, workflow_id: make("a", run_id=run_id, workflow_id=workflow_id),
        st.none() | run_ids,
        st.sampled_from(WORKFLOW_IDS),
    )


rare = st.one_of(
    requests(make_message),
    st.builds(
        lambda workflow_id, key: make_message("a", key, workflow_id=workflow_id),
        st.sampled_from(WORKFLOW_IDS),
        st.sampled_from(["m1", "m2"]),
    ),
    requests(make_termination),
    st.builds(ParkRun, run_id=run_ids, stuck=st.just("{}")),
    st.builds(ClaimRuns, workflow_types=st.just(("order",)), limit=st.integers(0, 3)),
    st.builds(ReleaseRuns, run_ids=st.lists(run_ids, max_size=2).map(tuple)),
    st.builds(ReapWorkers, presumed_dead=st.sampled_from([(), ("w",), ("old",)])),
    st.sampled_from(
        [
            RegisterWorker(make_worker("w"), ignore),
            RegisterWorker(make_worker("old"), ignore),
            ReleaseWorker(),
        ]
    ),
)
REGISTER = RegisterWorker(make_worker("w"), ignore)


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    # `one_of` counts a strategy once, however often it is given.
    table = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


# Most operations are of the hot kinds, so that there is something to batch.
operations = weighted(
    (5, starts()),
    (9, commits()),
    (2, recordings()),
    (2, requests(make_message)),
    (2, rare),
)
# Drawn blindly, nearly every operation would be refused. Most are aimed at what is
# there when their turn comes: at which run, and at which place of its history.
aims = weighted((1, st.none()), (9, st.integers(0, 5)))
upheavals: list[list[tuple[Any, int | None]]] = [
    [(Takeover(), None)],
    [(REGISTER, None)],
    [(ReleaseWorker(), None), (REGISTER, None)],
]
steps = st.lists(
    weighted(
        (9, st.lists(st.tuples(operations, aims), min_size=1, max_size=10)),
        (1, st.sampled_from(upheavals)),
    ),
    min_size=1,
    max_size=8,
)


def aim(operation: Any, at: int | None, store: MemoryStore) -> Any:
    database = store._database
    if at is None:
        return operation
    if isinstance(operation, PutMessage | TerminateRun):
        found = sorted(run.workflow_id for run in database.open_runs())
        return (
            replace(operation, workflow_id=found[at % len(found)])
            if found
            else operation
        )
    if isinstance(operation, StartRun):
        unused = [run_id for run_id in RUN_IDS if run_id not in database.runs]
        if not unused:
            return operation
        run_id = unused[0]
        request_id = f"start-{run_id}" if at else operation.record.request_id
        record = replace(operation.record, run_id=run_id, request_id=request_id)
        rows = [(run_id, *row[1:]) for row in operation.rows]
        return replace(operation, record=record, rows=rows)
    owned = sorted(run.run_id for run in database.owned_runs("w"))
    if not isinstance(operation, CommitTask | RecordAttempts | ParkRun) or not owned:
        return operation
    run_id = owned[at % len(owned)]
    if not isinstance(operation, CommitTask):
        return replace(operation, run_id=run_id)
    first = max(database.history[run_id], default=0) + 1
    messages = tuple(message.sequence for message in database.messages_of(run_id))
    return replace(
        operation,
        run_id=run_id,
        rows=make_rows(run_id, first, first + len(operation.rows) - 1),
        attempts=tuple(replace(a, run_id=run_id) for a in operation.attempts),
        consumed=messages if at % 2 else operation.consumed,
    )


def show(result: Any, error: BaseException | None) -> Any:
    return result if error is None else (type(error).__name__, str(error))


def read_sqlite(session: Session) -> dict[str, Any]:
    connection = session.connection
    rows = {
        table.name: connection.execute(sa.select(table)).all()
        for table in tables.METADATA.sorted_tables
    }
    runs = connection.execute(sa.select(*statements.RUN_COLUMNS)).all()
    return {
        "runs": {run.run_id: run for run in map(statements.to_run, runs)},
        "open": {r.run_id for r in rows["runs"] if r.open_key is not None},
        "history": {(r.run_id, r.event_id): tuple(r) for r in rows["history"]},
        "inbox": {r.sequence: (r.run_id, r.request_id) for r in rows["inbox"]},
        "attempts": {(*tuple(r)[:4], r.state) for r in rows["attempts"]},
        "workers": {(r.worker_id, r.fence) for r in rows["workers"]},
        "fence": {r.value for r in rows["counters"]},
    }


def read_memory(store: MemoryStore) -> dict[str, Any]:
    database = store._database
    return {
        "runs": database.runs,
        "open": set(database.open_run_ids.values()),
        "history": {
            (run_id, event_id): (*row, database.fences[run_id, event_id])
            for run_id, rows in database.history.items()
            for event_id, row in rows.items()
        },
        "inbox": {
            sequence: (message.run_id, message.request_id)
            for sequence, message in database.inbox.items()
        },
        "attempts": {
            (a.run_id, a.scheduled_event_id, a.attempt, a.activity_type, a.state.value)
            for a in database.attempts.values()
        },
        "workers": {(w.worker_id, w.fence) for w in database.workers.values()},
        "fence": {database._latest_fence},
    }


class Databases:
    """One SQLite database that is emptied for each example."""

    def __init__(self) -> None:
        self.clock = SteadyClock(SettableClock())
        self.database = SqliteDatabase(None)
        self.session = self.database.open_writer()

    def open_writer(self) -> Session:
        connection = self.session.connection
        self.session.begin()
        for table in reversed(tables.METADATA.sorted_tables):
            if table is not tables.COUNTERS:
                connection.execute(sa.delete(table))
        connection.execute(sa.update(tables.COUNTERS).values(value=0))
        connection.exec_driver_sql("DELETE FROM sqlite_sequence")
        self.session.commit()
        return self.session

    def executor(self) -> GroupExecutor:
        executor = GroupExecutor(self.database, self.clock)
        executor._session = self.open_writer()
        return executor


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    databases = Databases()
    yield databases
    databases.session.close()


def perform_in_memory(store: MemoryStore, operation: Any) -> Any:
    if isinstance(operation, Takeover):
        database = store._database
        for worker_id in list(database.workers):
            database._remove_worker(worker_id)
        return None
    try:
        return show(store._apply(operation), None)
    except DurableError as error:
        return show(None, error)


def perform_group(executor: GroupExecutor, group: Sequence[Any]) -> list[Any]:
    if isinstance(group[0], Takeover):
        session = executor.open()
        session.begin()
        session.connection.execute(sa.update(tables.RUNS).values(owner=None))
        session.connection.execute(sa.delete(tables.WORKERS))
        session.commit()
        return [None]
    outcomes, _ = executor.execute(list(group))
    return [show(*outcome) for outcome in outcomes]


@pytest.mark.slow
@settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(groups=steps)
def test_groups_end_like_single_operations(
    databases: Databases, groups: list[list[tuple[Any, int | None]]]
) -> None:
    executor = databases.executor()
    memory = MemoryStore(clock=SettableClock())
    opening: list[tuple[Any, int | None]] = [(REGISTER, None)]
    for run_id, workflow_id in zip(RUN_IDS, WORKFLOW_IDS, strict=False):
        run = make_run(run_id, workflow_id=workflow_id, owner="w")
        opening.append((StartRun(record=run, rows=make_rows(run_id, 1, 2)), None))

    for drawn in [opening, *groups]:
        group: list[Any] = []
        expected: list[Any] = []
        for operation, at in drawn:
            group.append(aim(operation, at, memory))
            expected.append(perform_in_memory(memory, group[-1]))
        assert perform_group(executor, group) == expected
        assert read_sqlite(databases.session) == read_memory(memory)


def test_generated_groups_do_fill_batches(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The property would hold trivially if every batch held one operation."""
    sizes: list[int] = []
    apply = Batch.apply

    def spy(batch: Batch, transaction: Transaction, outcomes: Outcomes) -> None:
        sizes.append(len(batch.operations))
        apply(batch, transaction, outcomes)

    monkeypatch.setattr(Batch, "apply", spy)
    executor = databases.executor()
    perform_group(executor, [RegisterWorker(make_worker("w"), ignore)])
    names = RUN_IDS[:3]
    created = perform_group(
        executor,
        [
            StartRun(record=make_run(n, owner="w"), rows=make_rows(n, 1, 2))
            for n in names
        ],
    )

    assert [outcome.created for outcome in created] == [True] * 3
    assert max(sizes) == 3


def test_run_that_was_taken_away_does_not_slow_its_neighbours(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, a large group would take a hundred times as long."""
    executor = databases.executor()
    perform_group(executor, [REGISTER])
    names = RUN_IDS[:4]
    runs = [make_run(name, workflow_id=f"wf-{name}", owner="w") for name in names]
    perform_group(
        executor,
        [StartRun(record=run, rows=make_rows(run.run_id, 1, 2)) for run in runs],
    )
    perform_group(executor, [make_termination("b")])
    monkeypatch.setattr(GroupExecutor, "_apply_alone", None)

    first, taken, *others = perform_group(
        executor, [CommitTask(run_id=n, rows=make_rows(n, 3, 3)) for n in names]
    )

    assert [first, *others] == [None, None, None]
    assert taken[0] == "HistoryTakenError"

"""However operations are grouped, they end as if they had come one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from durable import limits
from durable.options import IdConflictPolicy, IdReusePolicy
from durable.store.database import Session
from durable.store.lease import DrainWorker, RegisterWorker, ReleaseWorker
from durable.store.memory.memory import MemoryStore
from durable.store.memory.memory_database import MemoryDatabase
from durable.store.records import (
    AttemptState,
    ClaimRuns,
    CommitTask,
    Committed,
    DropReplies,
    ParkRun,
    PutMessage,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    ReplyRecord,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    Terminated,
    TerminateRun,
)
from durable.store.sql import salvage, statements, tables
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    START,
    SettableClock,
    make_attempt,
    make_child,
    make_message,
    make_rows,
    make_run,
    make_start,
    make_termination,
    make_worker,
)
from tests.sizes import examples
from tests.store.tracing import traced

RUN_IDS = list("abcdefghijklmnopqrstuvwxyz")
WORKFLOW_IDS = ["wf-a", "wf-b", "wf-c", "wf-d"]


class Takeover:
    """Another process has taken over everything; not an operation of this store."""


def ignore() -> None:
    pass


run_ids = st.sampled_from(RUN_IDS)
# The earliest runs are the likeliest to be there.
old_run_ids = st.sampled_from(RUN_IDS[:8])
workflow_ids = st.sampled_from(WORKFLOW_IDS)
# Mostly right: runs begin in the first.
epochs = st.sampled_from([0, 0, 0, 1, 1, 2])
wake_ups = st.sampled_from([None, START - 1, START, START + 1])


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    # `one_of` counts a strategy once, however often it is given.
    table = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


messages = st.builds(
    lambda run_id, workflow_id, first_run_id, key, kind: make_message(
        "a",
        key,
        run_id=run_id,
        workflow_id=workflow_id,
        first_run_id=first_run_id,
        kind=kind,
        data=f'"{key}"',
    ),
    st.none() | old_run_ids,
    workflow_ids,
    st.none() | st.none() | old_run_ids,
    st.sampled_from(["m1", "m2", "m3"]),
    st.sampled_from(["signal", "child", "query"]),
)


def few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Mostly none, else one or two."""
    some = st.lists(strategy, min_size=1, max_size=2).map(tuple)
    return weighted((3, st.just(())), (1, some))


@st.composite
def parents(draw: st.DrawFn) -> dict[str, Any]:
    if not draw(st.booleans()):
        return {}
    policies = ["terminate", "terminate", "request_cancel", "abandon", None]
    return {
        "parent_run_id": draw(old_run_ids),
        "parent_workflow_id": "wf-a",
        "parent_initiated_event_id": draw(st.sampled_from([1, 2, None])),
        "parent_close_policy": draw(st.sampled_from(policies)),
    }


@st.composite
def starts(draw: st.DrawFn, depth: int = 2) -> StartRun:
    run_id = draw(run_ids)
    closed: dict[str, Any] = {}
    if draw(st.integers(0, 5)) == 5:
        closed = {"status": RunStatus.COMPLETED, "closed_at": START + 4}
        closed |= {"owner": None, "wake_at": None}
    record = make_run(
        run_id,
        workflow_id=draw(workflow_ids),
        request_id=draw(st.sampled_from([f"start-{run_id}", "q1", "q2"])),
        namespace=draw(st.sampled_from(["default", "default", "other"])),
        owner=draw(st.sampled_from(["w", "w", "w", None, None, "old"])),
        first_run_id=draw(st.just(run_id) | old_run_ids),
        started_at=START + draw(st.integers(0, 3)),
        wake_at=draw(wake_ups),
        state=draw(st.sampled_from([None, None, "{}"])),
        **draw(parents()),
    )
    record = replace(record, **closed)
    return StartRun(
        record=record,
        rows=make_rows(run_id, 1, draw(st.integers(1, 2))),
        reuse_policy=draw(st.sampled_from(IdReusePolicy)),
        conflict_policy=draw(st.sampled_from(IdConflictPolicy)),
        wants_found=draw(st.booleans()),
        terminated_data="{}",
        message_if_open=draw(st.none() | messages),
        messages=draw(few(messages)),
        starts=draw(few(starts(depth - 1))) if depth else (),
    )


@st.composite
def attempts(draw: st.DrawFn, run_id: str) -> tuple[Any, ...]:
    state = st.sampled_from(AttemptState)
    numbers = draw(st.lists(st.integers(1, 2), max_size=2))
    return tuple(make_attempt(run_id, n, state=draw(state)) for n in numbers)


CLOSED = [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CONTINUED_AS_NEW]
OLD = START - round(limits.REPLY_SECONDS_MAX * 1_000_000)
replies = st.builds(
    ReplyRecord,
    run_id=old_run_ids,
    request_id=st.sampled_from(["m1", "m2"]),
    data=st.sampled_from(["1", "2"]),
    created_at=st.sampled_from([START, OLD, OLD - 1]),
)


@st.composite
def commits(draw: st.DrawFn) -> CommitTask:
    run_id = draw(old_run_ids)
    first = draw(st.integers(2, 5))
    is_closing = draw(st.booleans())
    return CommitTask(
        run_id=run_id,
        rows=make_rows(run_id, first, first + draw(st.integers(-1, 1))),
        status=draw(st.sampled_from(CLOSED)) if is_closing else None,
        closed_at=draw(st.sampled_from([START + 5, None])),
        update_run=draw(st.booleans()),
        is_active=draw(st.booleans()),
        wake_at=draw(wake_ups),
        epoch=draw(epochs),
        known=draw(few(st.integers(1, 3))),
        attempts=draw(attempts(run_id)),
        consumed=tuple(draw(st.lists(st.integers(1, 3), max_size=2, unique=True))),
        consumed_requests=draw(few(st.sampled_from(["m1", "m2", "m3"]))),
        replies=draw(few(replies)),
        state=draw(st.sampled_from([None, None, '{"at": 1}', '{"at": 2}'])),
        checkpoint_event_id=draw(st.sampled_from([None, None, 0, 2, 3])),
        messages=draw(few(messages)),
        starts=draw(few(starts(1))) if is_closing else (),
        has_children=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def recordings(draw: st.DrawFn) -> RecordAttempts:
    run_id = draw(run_ids)
    return RecordAttempts(
        run_id=run_id,
        attempts=draw(attempts(run_id)),
        is_active=draw(st.booleans()),
        wake_at=draw(wake_ups),
        epoch=draw(epochs),
        known=draw(few(st.integers(1, 3))),
    )


def requests(make: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda run_id, workflow_id, first_run_id: make(
            "a", run_id=run_id, workflow_id=workflow_id, first_run_id=first_run_id
        ),
        st.none() | old_run_ids,
        workflow_ids,
        st.none() | st.none() | old_run_ids,
    )


rare = st.one_of(
    requests(make_message),
    requests(make_termination),
    st.builds(
        DropReplies,
        keys=few(st.tuples(old_run_ids, st.sampled_from(["m1", "m2"]))),
    ),
    st.builds(ParkRun, run_id=run_ids, stuck=st.just("{}")),
    st.builds(ClaimRuns, workflow_types=st.just(("order",)), limit=st.integers(0, 3)),
    st.builds(ReleaseRuns, run_ids=st.lists(run_ids, max_size=2).map(tuple)),
    st.builds(ReapWorkers, presumed_dead=st.sampled_from([(), ("w",), ("old",)])),
    st.sampled_from(
        [
            RegisterWorker(make_worker("w"), ignore),
            RegisterWorker(make_worker("old"), ignore),
            DrainWorker(),
            ReleaseWorker(),
        ]
    ),
)
REGISTER = RegisterWorker(make_worker("w"), ignore)


# Most operations are of the hot kinds, so that there is something to batch.
operations = weighted(
    (5, starts()),
    (9, commits()),
    (2, recordings()),
    (4, messages),
    (3, rare),
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
        found = sorted(database.open_runs(), key=lambda run: run.run_id)
        return aim_request(operation, found[at % len(found)]) if found else operation
    if isinstance(operation, StartRun):
        unused = [run_id for run_id in RUN_IDS if run_id not in database.runs]
        return aim_start(aim_family(operation, at, database), at, iter(unused))
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
        messages=tuple(aim(m, at + n, store) for n, m in enumerate(operation.messages)),
        starts=aim_nested(operation, at, database, run_id),
    )


def aim_request(operation: Any, run: RunRecord) -> Any:
    """Aim at an open run: by its id, its chain or neither, as was drawn."""
    return replace(
        operation,
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        run_id=operation.run_id and run.run_id,
        first_run_id=operation.first_run_id and run.first_run_id,
    )


def aim_family(operation: StartRun, at: int, database: MemoryDatabase) -> StartRun:
    """Give a child an open run as its parent, and most children ids that are free."""
    open_runs = sorted(run.run_id for run in database.open_runs())
    if operation.record.parent_run_id is None or not open_runs:
        return operation
    changes = {"parent_run_id": open_runs[at % len(open_runs)]}
    if at % 3:
        changes["workflow_id"] = f"child-{operation.record.request_id}-{at}"
    return replace(operation, record=replace(operation.record, **changes))


def aim_start(operation: StartRun, at: int, unused: Iterator[str]) -> StartRun:
    run_id = next(unused, None)
    if run_id is None:
        return operation
    request_id = f"start-{run_id}" if at else operation.record.request_id
    record = replace(operation.record, run_id=run_id, request_id=request_id)
    rows = [(run_id, *row[1:]) for row in operation.rows]
    nested = tuple(aim_start(start, at, unused) for start in operation.starts)
    return replace(operation, record=record, rows=rows, starts=nested)


def aim_nested(
    operation: CommitTask, at: int, database: MemoryDatabase, run_id: str
) -> tuple[StartRun, ...]:
    """Aim the starts of a closing run at unused run ids, some at its workflow id."""
    unused = iter([run_id for run_id in RUN_IDS if run_id not in database.runs])
    starts = [aim_start(start, at, unused) for start in operation.starts]
    if starts and at % 2:
        run = database.runs[run_id]
        record = replace(
            starts[0].record, workflow_id=run.workflow_id, namespace="default"
        )
        starts[0] = replace(starts[0], record=record)
    return tuple(starts)


def show(result: Any, error: BaseException | None) -> Any:
    return comparable(result if error is None else error)


def comparable(value: Any) -> Any:
    """Turn structs and the exceptions in them into something with equality."""
    if isinstance(value, BaseException):
        return (type(value).__name__, str(value))
    if isinstance(value, tuple):
        return tuple(map(comparable, value))
    if isinstance(value, Started | Terminated | Committed):
        return (type(value).__name__, comparable(astuple(value)))
    return value


def read_sqlite(session: Session) -> dict[str, Any]:
    connection = session.connection
    rows = {
        table.name: connection.execute(sa.select(table)).all()
        for table in tables.METADATA.sorted_tables
    }
    runs = connection.execute(sa.select(*statements.RUN_COLUMNS)).all()
    return {
        "runs": {run.run_id: _kept(run) for run in map(salvage.to_run, runs)},
        "open": {r.run_id for r in rows["durable_runs"] if r.open_key is not None},
        "history": {(r.run_id, r.event_id): tuple(r) for r in rows["durable_history"]},
        "inbox": {r.sequence: tuple(r)[1:] for r in rows["durable_inbox"]},
        "replies": {tuple(r) for r in rows["durable_replies"]},
        "attempts": {(*tuple(r)[:4], r.state) for r in rows["durable_attempts"]},
        "workers": {r.worker_id for r in rows["durable_workers"]},
    }


def _kept(run: RunRecord) -> RunRecord:
    """The row without an epoch that nobody can write in any more."""
    is_open = run.status is RunStatus.RUNNING
    return run if is_open else replace(run, epoch=0)


def read_memory(store: MemoryStore) -> dict[str, Any]:
    database = store._database
    return {
        "runs": {run_id: _kept(run) for run_id, run in database.runs.items()},
        "open": set(database.open_run_ids.values()),
        "history": {
            (run_id, event_id): row
            for run_id, rows in database.history.items()
            for event_id, row in rows.items()
        },
        "inbox": {
            m.sequence: (m.run_id, m.kind, m.request_id, m.data, m.created_at)
            for m in database.inbox.values()
        },
        "replies": {astuple(reply) for reply in database.replies.values()},
        "attempts": {
            (a.run_id, a.scheduled_event_id, a.attempt, a.activity_type, a.state.value)
            for a in database.attempts.values()
        },
        "workers": set(database.workers),
    }


class Databases:
    """One SQLite database that is emptied for each example."""

    def __init__(self) -> None:
        self.clock = SteadyClock(SettableClock())
        self.database = SqliteDatabase(None)
        self.session = self.database.open_writer()

    def open_writer(self) -> Session:
        connection = self.session.connection
        # An example that failed may have left its transaction open.
        self.session.rollback()
        self.session.begin()
        for table in reversed(tables.METADATA.sorted_tables):
            connection.execute(sa.delete(table))
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


def perform_in_memory(store: MemoryStore, group: Sequence[Any]) -> list[Any]:
    if isinstance(group[0], Takeover):
        workers = list(store._database.workers)
        store._database.remove_workers(workers, START)
        return [None]
    return [show(*outcome) for outcome in store._apply_group(list(group))]


def perform_group(executor: GroupExecutor, group: Sequence[Any]) -> list[Any]:
    if isinstance(group[0], Takeover):
        session = executor.open()
        session.begin()
        runs = tables.RUNS.c
        at_rest = {"owner": None, "wake_at": START, "epoch": runs.epoch + 1}
        session.connection.execute(
            sa.update(tables.RUNS).where(runs.owner.is_not(None)).values(at_rest)
        )
        session.connection.execute(sa.delete(tables.WORKERS))
        session.commit()
        return [None]
    outcomes, _ = executor.execute(list(group))
    return [show(*outcome) for outcome in outcomes]


OPENING: list[Any] = [
    REGISTER,
    *(
        make_start(run_id, workflow_id=workflow_id, owner="w")
        for run_id, workflow_id in zip(RUN_IDS, WORKFLOW_IDS, strict=False)
    ),
    make_child("e", "a", "terminate", owner="w"),
    make_child("f", "a", "request_cancel", owner="w"),
    make_child("g", "e", "terminate", owner="w"),
    make_child("h", "b", "terminate", owner="w"),
]


@pytest.mark.slow
@pytest.mark.timeout(300)  # for all of its examples, each with a database of its own
@settings(
    max_examples=examples(300),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(groups=steps)
def test_groups_end_like_single_operations(
    databases: Databases, groups: list[list[tuple[Any, int | None]]]
) -> None:
    executor = databases.executor()
    single, grouped = (MemoryStore(clock=SettableClock()) for _ in range(2))

    opening: list[tuple[Any, int | None]] = [(o, None) for o in OPENING]
    for drawn in [opening, *groups]:
        group: list[Any] = []
        expected: list[Any] = []
        for operation, at in drawn:
            group.append(aim(operation, at, single))
            expected += perform_in_memory(single, group[-1:])
        assert perform_in_memory(grouped, group) == expected
        assert read_memory(grouped) == read_memory(single)
        assert perform_group(executor, group) == expected
        assert read_sqlite(databases.session) == read_memory(single)


def test_run_that_was_taken_away_does_not_slow_its_neighbours(
    databases: Databases,
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

    with traced(executor.open()) as texts:
        first, taken, *others = perform_group(
            executor, [CommitTask(run_id=n, rows=make_rows(n, 3, 3)) for n in names]
        )

    assert [first, *others] == [None, None, None]
    assert taken[0] == "HistoryTakenError"
    assert [text.split()[0] for text in texts] == [
        "BEGIN",
        "SELECT",
        "SELECT",  # of the one that is not as its worker believes
        "INSERT",
        "INSERT",
        "COMMIT",
    ]

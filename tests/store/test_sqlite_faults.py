"""What becomes of operations when the database fails in the midst of them."""

import asyncio
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable.clock import SystemClock
from durable.errors import (
    CommitUnknownError,
    CorruptHistoryError,
    DatabaseFullError,
    DatabaseUnavailableError,
    EngineClosedError,
    HistoryTakenError,
    LeaseLostError,
    StoreError,
    WorkflowClosedError,
)
from durable.options import IdConflictPolicy
from durable.store.connect import connect
from durable.store.database import Blame
from durable.store.deciding.rows import Rows
from durable.store.lease import RegisterWorker
from durable.store.queries import FindRun, LoadRuns, ReadAttempts
from durable.store.records import Committed, MailArrived, Started
from durable.store.sqlite import session as sqlite_session
from durable.store.sqlite.session import SqliteSession
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.sqlite.tables import SqliteTables
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    make_attempt,
    make_closing,
    make_commit,
    make_message,
    make_rows,
    make_start,
    make_worker,
)
from tests.store.tracing import traced


def make_executor(path: Path) -> GroupExecutor:
    executor = GroupExecutor(SqliteDatabase(path), SteadyClock(SystemClock()))
    executor.execute([RegisterWorker(make_worker("w"), lambda: None)])
    return executor


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[GroupExecutor]:
    executor = make_executor(tmp_path / "x.db")
    yield executor
    executor.close()


def execute(executor: GroupExecutor, *operations: Any) -> list[Any]:
    outcomes, _ = executor.execute(list(operations))
    return [result if error is None else error for result, error in outcomes]


def count(executor: GroupExecutor, table: str) -> int:
    text = f"SELECT count(*) FROM durable_{table}"  # noqa: S608 - names are written here
    found: int = executor.open().connection.exec_driver_sql(text).scalar_one()
    return found


def set_pages(executor: GroupExecutor, more: int) -> None:
    connection = executor.open().connection
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more}")


def test_full_database_ends_the_group_and_keeps_nothing_of_it(
    executor: GroupExecutor,
) -> None:
    execute(executor, make_start("r0", owner="w"))
    set_pages(executor, 10)

    outcomes = execute(executor, *(make_start(f"r{n}") for n in range(1, 500)))

    assert {type(outcome) for outcome in outcomes} == {DatabaseFullError}
    assert len({id(outcome) for outcome in outcomes}) == len(outcomes)
    assert (count(executor, "runs"), count(executor, "history")) == (1, 2)


def test_full_database_works_again_once_there_is_space(
    executor: GroupExecutor,
) -> None:
    operations = [make_start(f"r{n}", owner="w") for n in range(500)]
    set_pages(executor, 10)
    execute(executor, *operations)
    set_pages(executor, 10_000)

    outcomes = execute(executor, *operations)

    assert [outcome.created for outcome in outcomes] == [True] * 500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_disk_is_survived(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        check_full_disk(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_full_disk(disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(bytes(1024 * 1024))
    executor = make_executor(disk / "x.db")
    acknowledged = 0
    while True:
        starts = [make_start(f"r{acknowledged + n}", owner="w") for n in range(50)]
        outcomes = execute(executor, *starts)
        if isinstance(outcomes[0], DatabaseFullError):
            break
        assert {type(outcome) for outcome in outcomes} == {Started}
        acknowledged += 50
    assert acknowledged > 0
    assert count(executor, "runs") == acknowledged

    filler.unlink()

    assert execute(executor, make_start("later", owner="w"))[0].created
    assert count(executor, "runs") == acknowledged + 1
    executor.close()


# --- commits whose answer is lost -----------------------------------------------------


def lose_answer(
    monkeypatch: pytest.MonkeyPatch, commit: Callable[[SqliteSession], None]
) -> None:
    """Make the next commit do `commit` and then report an I/O error."""
    original = SqliteSession.commit

    def fail(session: SqliteSession, **_: object) -> None:
        monkeypatch.setattr(SqliteSession, "commit", original)
        if commit is not None:
            commit(session)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    monkeypatch.setattr(SqliteSession, "commit", fail)


def test_lost_answer_is_settled_by_reading(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(executor, make_start("r1", owner="w"), make_start("r2", owner="w"))
    lose_answer(monkeypatch, SqliteSession.commit)

    outcomes = execute(
        executor,
        make_message("r2"),
        make_closing("r1", 3, 3),
        make_start("r3", owner="w"),
        make_start("r4", workflow_id="wf-r3"),
    )

    assert outcomes[:3] == ["r2", None, Started(run_id="r3", created=True)]
    assert "wf-r3" in str(outcomes[3])
    assert execute(executor, make_commit("r3", 3, 3)) == [None]


def test_lost_answer_of_a_commit_with_messages_is_settled(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(executor, make_start("r1", owner="w"), make_start("r2", owner="w"))
    lose_answer(monkeypatch, SqliteSession.commit)
    messages = (make_message("r2"),)

    outcomes = execute(executor, make_closing("r1", 3, 3, messages=messages))

    assert outcomes == [Committed(deliveries=("r2",))]


def test_lost_answer_of_a_start_alone_is_settled(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answer(monkeypatch, SqliteSession.commit)

    assert execute(executor, make_start("r1"))[0].created


def test_lost_answer_is_not_sought_in_what_was_not_written(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(executor, make_start("r1", owner="w"), make_message("r1"))
    lose_answer(monkeypatch, SqliteSession.commit)

    known, mailed, taken, kept = execute(
        executor,
        make_start("r2", request_id="start-r1"),
        make_closing("r1", 3, 3),
        make_commit("r1", 1, 1),
        make_commit("r1", 3, 4),
    )

    assert known == Started(run_id="r1", created=False)
    assert isinstance(mailed, MailArrived)
    assert isinstance(taken, HistoryTakenError)
    assert kept is None


def test_commit_that_cannot_be_found_is_unknown(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(executor, make_start("r1", owner="w"))
    lose_answer(monkeypatch, SqliteSession.rollback)

    start, commit, message, lost = execute(
        executor,
        make_start("r2", owner="w"),
        make_commit("r1", 3, 3),
        make_message("r1"),
        make_start("r3", owner="other"),
    )

    assert isinstance(start, CommitUnknownError)
    assert "'start-r2'" in str(start)
    assert isinstance(commit, CommitUnknownError)
    assert "'r1'" in str(commit)
    assert isinstance(message, CommitUnknownError)
    assert "'cancel-1'" in str(message)
    assert isinstance(lost, LeaseLostError)
    assert execute(executor, make_commit("r1", 3, 3)) == [None]


@pytest.mark.parametrize(("data", "after"), [('"other"', 0), ("{}", 1)])
def test_commit_that_another_row_contradicts_is_unknown(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch, data: str, after: int
) -> None:
    execute(executor, make_start("r1", owner="w"))
    (row,) = make_rows("r1", 3, 3, data)
    another = (*row[:4], row[4] + after, *row[5:])

    def commit_something_else(session: SqliteSession) -> None:
        session.rollback()
        session.begin()
        session.tables.write(Rows(history=[another]))
        session.commit()

    lose_answer(monkeypatch, commit_something_else)

    (outcome,) = execute(executor, make_commit("r1", 3, 3))

    assert isinstance(outcome, CommitUnknownError)


def test_error_within_the_transaction_is_no_doubt(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    monkeypatch.setattr(SqliteTables, "write", fail)
    outcomes = execute(executor, make_start("r1"), make_start("r2"))
    monkeypatch.undo()

    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailableError}
    assert count(executor, "runs") == 0
    assert execute(executor, make_start("r1"))[0].created


# --- operations that no database can keep ---------------------------------------------


def test_value_that_cannot_be_stored_harms_only_its_operation(
    executor: GroupExecutor,
) -> None:
    surrogate = make_start("r2", events=0)
    surrogate.rows.append(("r2", 1, 1, "TimerFired", 1, '"\ud800"', 0))
    huge = make_start("r3", events=0)
    huge.rows.append(("r3", 1, 1, "TimerFired", 2**80, "{}", 0))

    first, second, third, fourth = execute(
        executor, make_start("r1"), surrogate, huge, make_start("r4")
    )

    assert (first.created, fourth.created) == (True, True)
    assert isinstance(second, StoreError)
    assert isinstance(third, StoreError)
    assert "ud800" not in str(second)
    assert count(executor, "runs") == 2


def test_part_that_cannot_be_stored_is_refused_with_its_operation(
    executor: GroupExecutor,
) -> None:
    execute(executor, *(make_start(n, owner="w") for n in ("r1", "r2", "p")))
    surrogate = make_start("s", owner="w", events=0)
    surrogate.rows.append(("s", 1, 1, "TimerFired", 1, '"\ud800"', 0))
    closing = make_closing(
        "r1", 3, 3, messages=(make_message("p", "a"),), starts=(surrogate,)
    )

    before, refused, after = execute(
        executor, make_start("q"), closing, make_commit("r2", 3, 3)
    )

    assert (before.created, after) == (True, None)
    assert isinstance(refused, StoreError)
    assert "CommitTask" in str(refused)
    assert (count(executor, "runs"), count(executor, "inbox")) == (4, 0)
    assert execute(executor, make_commit("r1", 3, 3)) == [None]


def test_guilty_operation_is_found_without_trying_all_by_themselves(
    executor: GroupExecutor,
) -> None:
    surrogate = make_start("r77", events=0)
    surrogate.rows.append(("r77", 1, 1, "TimerFired", 1, '"\ud800"', 0))
    operations = [make_start(f"r{n}") for n in range(100)]
    operations[77] = surrogate

    with traced(executor.open()) as texts:
        outcomes = execute(executor, *operations)

    refused = [n for n, outcome in enumerate(outcomes) if not is_started(outcome)]
    assert refused == [77]
    assert count(executor, "runs") == 99
    assert texts.count("BEGIN IMMEDIATE") < 16


def is_started(outcome: Any) -> bool:
    return isinstance(outcome, Started) and outcome.created


def test_message_follows_what_was_undone_in_its_group(
    executor: GroupExecutor,
) -> None:
    execute(executor, make_start("r1", owner="w"), make_start("r2", owner="w"))
    # Run id r2 is taken, but r1 is terminated before that shows.
    undone = make_start(
        "r2",
        workflow_id="wf-r1",
        request_id="again",
        conflict_policy=IdConflictPolicy.TERMINATE_EXISTING,
        terminated_data="{}",
    )

    before, refused, after = execute(
        executor,
        make_message("r1", "a", run_id="r1"),
        undone,
        make_message("r1", "b", run_id="r1"),
    )

    assert isinstance(refused, HistoryTakenError)
    assert (before, after) == ("r1", "r1")
    assert count(executor, "inbox") == 2


@pytest.mark.parametrize(
    ("table", "column"), [("runs", "status"), ("attempts", "state")]
)
async def test_row_of_a_newer_release_is_named(
    tmp_path: Path, table: str, column: str
) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    await store.register_worker(make_worker("w"), lambda: None)
    await store.perform(make_start("r1", owner="w"))
    attempts = (make_attempt("r1", 1),)
    await store.perform(make_commit("r1", 3, 3, attempts=attempts))
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute(f"UPDATE durable_{table} SET {column} = 'paused'")  # noqa: S608 - as above
    other.commit()
    other.close()

    (loaded,) = await store.read(LoadRuns(["r1"]))
    assert re.search(r"'r1'.*'paused'", loaded.record.damage or "")
    if table == "runs":
        found = await store.read(FindRun("default", "wf-r1"))
        assert found is not None
        assert found.damage == loaded.record.damage
    else:
        with pytest.raises(CorruptHistoryError, match=r"'r1'.*'paused'"):
            await store.read(ReadAttempts("r1"))
    await store.close()


# --- others are in the way --------------------------------------------------------


def stand_in_the_way(monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """Let writing fail so often as if others were in the way; return the pauses."""
    pauses: list[float] = []
    write, left = SqliteTables.write, [True] * times

    def fail(tables: SqliteTables, rows: Rows) -> None:
        write(tables, rows)
        if left:
            left.pop()
            raise ConnectionAbortedError

    def judge(*_: object) -> Blame:
        return Blame.AGAIN

    monkeypatch.setattr(SqliteTables, "write", fail)
    monkeypatch.setattr(SqliteDatabase, "judge", judge)
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_group_that_others_were_in_the_way_of_is_repeated_as_it_is(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(executor, make_start("r1", owner="w"))
    pauses = stand_in_the_way(monkeypatch, 3)

    outcomes = execute(executor, make_closing("r1", 3, 3), make_message("r1"))

    assert outcomes[0] is None
    assert isinstance(outcomes[1], WorkflowClosedError)
    assert len(pauses) == 3
    assert count(executor, "history") == 3


def test_group_is_not_repeated_for_ever(
    executor: GroupExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = stand_in_the_way(monkeypatch, 1_000)

    outcomes = execute(executor, make_start("r1"), make_start("r2"))

    assert {type(outcome) for outcome in outcomes} == {StoreError}
    assert 1 < len(pauses) < 50
    assert sum(pauses) < 5
    assert count(executor, "runs") == 0


# --- a busy database ------------------------------------------------------------------


def test_locked_database_is_waited_for_and_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_session, "BUSY_SECONDS", 0.05)
    executor = make_executor(tmp_path / "x.db")
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    refused = execute(executor, make_start("r1", owner="w"), make_start("r2"))
    with pytest.raises(DatabaseUnavailableError):
        executor.renew()
    other.execute("ROLLBACK")
    other.close()

    assert {type(outcome) for outcome in refused} == {DatabaseUnavailableError}
    assert "locked" in str(refused[0])
    assert execute(executor, make_start("r1", owner="w"))[0].created
    assert executor.renew() == []
    executor.close()


async def test_reader_that_fails_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    await store.perform(make_start("r1"))

    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    monkeypatch.setattr(SqliteSession, "begin_reading", fail)
    with pytest.raises(DatabaseUnavailableError):
        await store.read(LoadRuns(["r1"]))
    monkeypatch.undo()

    assert len(await store.read(LoadRuns(["r1"]))) == 1
    await store.close()


async def test_writer_survives_errors_while_it_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(*_: object) -> bool:
        loop.call_soon_threadsafe(failed.set)
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    monkeypatch.setattr(SqliteSession, "has_changed", fail)
    store.watch(lambda: None)
    await failed.wait()
    monkeypatch.undo()

    assert (await store.perform(make_start("r1"))).created
    await store.close()


# --- forks ----------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{path}/x.db"])
async def test_forked_copy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    store = connect(url.format(path=tmp_path))
    await store.open()
    process_id = os.getpid()

    monkeypatch.setattr(os, "getpid", lambda: process_id + 1)
    with pytest.raises(EngineClosedError, match="fork"):
        store.submit(make_start("r1"), lambda *_: None)
    with pytest.raises(EngineClosedError, match="fork"):
        await store.read(LoadRuns([]))
    monkeypatch.undo()

    assert (await store.perform(make_start("r1"))).created
    await store.close()

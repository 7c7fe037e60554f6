"""Turns that only go on take one trip to PostgreSQL, and promise what two trips do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import psycopg
import pytest

from durable import Engine, activity, workflow
from durable.errors import CommitUnknownError, HistoryTakenError, LeaseLostError
from durable.store.connect import connect
from durable.store.lease import RegisterWorker
from durable.store.postgresql.driver import Statement
from durable.store.postgresql.session import Appended, PostgresSession
from durable.store.queries import ReadHistory
from durable.store.records import RecordAttempts
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    make_attempt,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_worker,
)
from tests.proxy import Proxy
from tests.servers import PostgresServer
from tests.store.stage import ignore, make_executor

pytestmark = pytest.mark.slow

WAIT_SECONDS_MAX = 20
# What the writer asks for by itself, now and then.
OWN = {"told", "latest", "heard", "listen", "life"}

Look = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def look(postgres_url: str) -> Iterator[Look]:
    """Asks, or changes, past the one that is tested."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:

        def ask(text: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

        yield ask


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
def executor(proxy: Proxy) -> Iterator[GroupExecutor]:
    """A worker `w` behind the proxy, with open runs `r` and `s` of its own."""
    executor = make_executor(proxy.url)
    execute(executor, RegisterWorker(make_worker("w"), ignore))
    execute(executor, make_owned("r"), make_owned("s"))
    yield executor
    executor.close()


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of what each trip asks for, but for what is no group's."""
    send = PostgresSession.send
    trips: list[list[str]] = []

    def note(session: PostgresSession, asked: dict[str, Statement]) -> Any:
        if OWN.isdisjoint(asked):
            trips.append(list(asked))
        return send(session, asked)

    monkeypatch.setattr(PostgresSession, "send", note)
    return trips


def execute(executor: GroupExecutor, *operations: Any) -> list[Any]:
    outcomes, _ = executor.execute(list(operations))
    return [result if error is None else error for result, error in outcomes]


def session_of(executor: GroupExecutor) -> PostgresSession:
    session = executor.open()
    assert isinstance(session, PostgresSession)
    return session


def events_of(look: Look, run_id: str = "r") -> list[int]:
    text = f"SELECT event_id FROM durable_history WHERE run_id = '{run_id}' ORDER BY 1"  # noqa: S608 - a constant
    return [event_id for (event_id,) in look(text)]


# --- how many -------------------------------------------------------------------------

ONE_TRIP: dict[str, list[Any]] = {
    "a turn": [make_commit("r")],
    "turns of two runs": [make_commit("s"), make_commit("r")],
    "two turns of a run": [make_commit("r"), make_commit("r", 4, 5)],
}
MORE_TRIPS: dict[str, list[Any]] = {
    "an end": [make_closing("r")],
    "a turn and an end": [make_commit("s"), make_closing("r")],
    "a turn and a message": [make_commit("s"), make_message("r")],
    "a wake-up": [make_commit("r", update_run=True, wake_at=7)],
    "what had come by the inbox": [make_commit("r", consumed=(7,))],
    "attempts": [
        RecordAttempts(
            run_id="r", attempts=(make_attempt("r", 2),), is_active=True, wake_at=None
        )
    ],
}


@pytest.mark.parametrize("group", [*ONE_TRIP, *MORE_TRIPS])
def test_what_only_goes_on_takes_one_trip(
    executor: GroupExecutor, trips: list[list[str]], look: Look, group: str
) -> None:
    operations = (ONE_TRIP | MORE_TRIPS)[group]

    execute(executor, *operations)

    assert (len(trips) == 1) is (group in ONE_TRIP), trips
    for run_id in ("r", "s"):
        rows = [row for one in operations for row in getattr(one, "rows", ())]
        written = [row[1] for row in rows if row[0] == run_id]
        assert events_of(look, run_id) == [1, 2, *written]


@activity(name="appends.step")
async def step(number: int) -> int:
    return number + 1


@workflow(name="appends.steps")
async def steps(count: int) -> int:
    number = 0
    for _ in range(count):
        number = await step(number)
    return number


async def test_each_activity_of_a_run_takes_one_trip(
    postgres_url: str, trips: list[list[str]]
) -> None:
    counts: list[int] = []
    async with Engine(postgres_url) as engine:
        for count in (1, 11):
            await engine.execute(steps(1))
            trips.clear()
            assert await engine.execute(steps(count)) == count
            counts.append(len([trip for trip in trips if "appended" in trip]))
            assert len(trips) <= counts[-1] + 10, trips
    assert counts == [0, 10]


# --- not as was believed --------------------------------------------------------------

CHANGES: dict[str, tuple[str, type[Exception]]] = {
    "the worker is dead": ("DELETE FROM durable_workers", LeaseLostError),
    "another has it": ("UPDATE durable_runs SET owner = 'x'", HistoryTakenError),
    "it was away": ("UPDATE durable_runs SET epoch = 7", HistoryTakenError),
    "it has ended": (
        "UPDATE durable_runs SET status = 'terminated', owner = NULL",
        HistoryTakenError,
    ),
    "it is further on": (
        "INSERT INTO durable_history (run_id, event_id, task_number, type, time, data,"
        " flags) SELECT run_id, 3, task_number, type, time, data, flags"
        " FROM durable_history WHERE event_id = 2",
        HistoryTakenError,
    ),
    "it is not so far": (
        "DELETE FROM durable_history WHERE event_id = 2",
        HistoryTakenError,
    ),
    "it is gone": ("DELETE FROM durable_runs", HistoryTakenError),
}


@pytest.mark.parametrize("change", CHANGES)
def test_turn_of_a_run_that_is_not_as_believed_is_refused_and_leaves_nothing(
    executor: GroupExecutor, look: Look, change: str
) -> None:
    text, expected = CHANGES[change]
    session = session_of(executor)
    look(text)
    before = events_of(look, "r"), events_of(look, "s")

    outcomes = execute(executor, make_commit("r"), make_commit("s"))

    assert [type(outcome) for outcome in outcomes] == [expected] * 2
    assert (events_of(look, "r"), events_of(look, "s")) == before
    assert session_of(executor) is session, "a refusal has cost the connection"


def test_one_that_is_refused_harms_no_other(
    executor: GroupExecutor, look: Look, trips: list[list[str]]
) -> None:
    look("UPDATE durable_runs SET epoch = 7 WHERE run_id = 'r'")

    outcomes = execute(executor, make_commit("r"), make_commit("s"))

    assert [type(outcome) for outcome in outcomes] == [HistoryTakenError, type(None)]
    assert events_of(look, "s") == [1, 2, 3]
    assert len(trips) == 3, "it was tried once more than once"
    assert execute(executor, make_commit("s", 4, 4)) == [None]
    assert len(trips) == 4, "it looks first for ever"


# --- a transaction whose answer is lost -----------------------------------------------


@pytest.mark.parametrize("way", ["to_server", "to_client"])
@pytest.mark.parametrize("part", range(8))
def test_turn_that_is_cut_off_at_any_byte_takes_place_once(
    executor: GroupExecutor,
    look: Look,
    proxy: Proxy,
    way: Literal["to_server", "to_client"],
    part: int,
) -> None:
    execute(executor, make_commit("r"))
    proxy.reset()
    execute(executor, make_commit("r", 4, 4))
    size = proxy.passed[way]
    proxy.reset()
    proxy.cut_after(max(1, size * (part + 1) // 8), way)

    outcomes = execute(executor, make_commit("r", 5, 6), make_commit("s"))

    assert proxy.struck.is_set()
    assert outcomes == [None, None]
    assert events_of(look, "r") == [1, 2, 3, 4, 5, 6]
    assert events_of(look, "s") == [1, 2, 3]


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_turn_whose_answer_is_swallowed_takes_place_once(
    executor: GroupExecutor,
    look: Look,
    proxy: Proxy,
    way: Literal["to_server", "to_client"],
) -> None:
    # Neither end hears that the other one has gone: the server's must be ended.
    session_of(executor).raw.patience = 0.5
    execute(executor, make_commit("r"))
    proxy.reset()
    execute(executor, make_commit("r", 4, 4))
    count = proxy.passed[way]
    proxy.reset()
    proxy.swallow_after(count - 1, way)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(execute, executor, make_commit("r", 5, 5))
        assert proxy.struck.wait(WAIT_SECONDS_MAX)
        proxy.heal()

        assert found.result(WAIT_SECONDS_MAX) == [None]
    assert events_of(look) == [1, 2, 3, 4, 5]


def test_turn_that_is_under_way_when_its_caller_is_cut_off_cannot_happen_later(
    executor: GroupExecutor, look: Look, postgres_url: str
) -> None:
    session = session_of(executor)
    assert session.may_append
    pid = session.raw.info.backend_pid
    session.raw.patience = 0.5
    busy = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608 - a number
    with psycopg.connect(postgres_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT 1 FROM durable_runs WHERE run_id = 'r' FOR UPDATE")
        found = pool.submit(execute, executor, make_commit("r"))
        # It waits for the lock, and nobody waits for it any more.
        while look(busy):
            assert not found.done()
        other.rollback()

        assert found.result(WAIT_SECONDS_MAX) == [None]
    assert events_of(look) == [1, 2, 3]


def _tell_nobody(session: PostgresSession, *, is_idle: bool) -> bool:
    del session, is_idle
    return True


async def test_turn_that_a_frozen_server_was_sent_is_in_doubt(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else it may be in the middle of telling others of the commit before.
    monkeypatch.setattr(PostgresSession, "maintain", _tell_nobody)
    url = own_postgres.create_database()
    store = connect(url)
    await store.open()
    await store.register_worker(make_worker("w"), ignore)
    await store.perform(make_owned("r"))
    own_postgres.freeze()
    try:
        with pytest.raises(CommitUnknownError):
            await store.perform(make_commit("r"))
    finally:
        own_postgres.thaw()

    with contextlib.suppress(HistoryTakenError):  # then it took place after all
        await store.perform(make_commit("r"))
    rows = await store.read(ReadHistory("r", 0))
    assert [row[1] for row in rows] == [1, 2, 3]
    await store.close()


@pytest.mark.parametrize("is_committed", [True, False])
def test_fate_of_a_turn_is_told_once_its_session_has_ended(
    executor: GroupExecutor, look: Look, postgres_url: str, *, is_committed: bool
) -> None:
    commit = make_commit("r")
    if is_committed:
        execute(executor, commit)
    pid = session_of(executor).raw.info.backend_pid
    text = f"SELECT backend_start::text FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608 - a number
    ((began_at,),) = look(text)
    other = make_executor(postgres_url)
    session = session_of(other)
    appended = Appended(pid, began_at, commit.rows[-1])

    with pytest.raises(TimeoutError):
        session.read_fate(appended)
    while look(text):
        pass
    assert session.read_fate(appended) is is_committed

    # The number of its process may be another one's by now.
    mine = session.raw.info.backend_pid
    appended = Appended(mine, began_at, commit.rows[-1])
    assert session.read_fate(appended) is is_committed
    other.close()

"""What becomes of operations when PostgreSQL, or the network before it, fails."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from durable import limits
from durable.errors import CommitUnknownError, DatabaseUnavailableError
from durable.store.connect import connect
from durable.store.lease import RegisterWorker
from durable.store.postgresql.driver import Statement
from durable.store.postgresql.session import PostgresSession
from durable.store.queries import ListRuns
from durable.store.records import Committed, RunFilter, Started
from durable.store.threads import patience
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    NAMESPACE,
    make_closing,
    make_commit,
    make_message,
    make_start,
    make_worker,
    wait_until,
)
from tests.proxy import Proxy
from tests.servers import PostgresDatabases, PostgresServer
from tests.store.stage import ignore, make_executor

pytestmark = [pytest.mark.slow, pytest.mark.sweep(6, of_class=True)]

WAIT_SECONDS_MAX = 20
LEASE = limits.LEASE_SECONDS


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


class Looker:
    """Looks at a database past whatever is between it and the tested."""

    def __init__(self, server: PostgresDatabases, url: str) -> None:
        self._server = server
        self.name = url.rpartition("/")[2]

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        return self._server.execute(text, self.name)

    def count(self, table: str) -> int:
        ((count,),) = self.ask(f"SELECT count(*) FROM durable_{table}")  # noqa: S608 - names are written here
        return int(count)

    def sessions(self, condition: str = "true") -> list[int]:
        text = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'durable'"
            " AND datname = current_database() AND "
        )
        return [pid for (pid,) in self.ask(text + condition)]

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not is_so():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    def end(self, pid: int) -> None:
        self.ask(f"SELECT pg_terminate_backend({pid})")
        self.wait_until(lambda: not self.sessions(f"pid = {pid}"), "it goes on")


@pytest.fixture
def looker(postgres_server: PostgresDatabases, postgres_url: str) -> Iterator[Looker]:
    looker = Looker(postgres_server, postgres_url)
    yield looker
    looker.wait_until(
        lambda: not looker.sessions("state LIKE 'idle in transaction%'"),
        "a session has kept its transaction open",
    )


@pytest.fixture
def executor(proxy: Proxy) -> Iterator[GroupExecutor]:
    """A worker `w` behind the proxy, with an open run `r` of its own."""
    executor = make_executor(proxy.url)
    execute(executor, RegisterWorker(make_worker("w"), ignore))
    execute(executor, make_start("r", owner="w"))
    yield executor
    executor.close()


def execute(executor: GroupExecutor, *operations: Any) -> list[Any]:
    outcomes, _ = executor.execute(list(operations))
    return [result if error is None else error for result, error in outcomes]


def pid_of(executor: GroupExecutor) -> int:
    session = executor.open()
    assert isinstance(session, PostgresSession)
    return session.raw.info.backend_pid


# --- sessions that end ----------------------------------------------------------------


def test_session_that_was_ended_while_idle_is_replaced(
    executor: GroupExecutor, looker: Looker
) -> None:
    looker.end(pid_of(executor))

    assert execute(executor, make_commit("r")) == [None]
    assert looker.count("history") == 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_session_that_was_ended_between_two_trips_loses_nothing(
    executor: GroupExecutor,
    looker: Looker,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    send, numbers = PostgresSession.send, itertools.count(1)

    def send_and_end(session: PostgresSession, asked: Any) -> Any:
        answers = send(session, asked)
        if next(numbers) == number:
            looker.end(session.raw.info.backend_pid)
        return answers

    monkeypatch.setattr(PostgresSession, "send", send_and_end)

    outcomes = execute(executor, make_commit("r"), make_message("r"))

    assert next(numbers) > number
    assert outcomes == [None, "r"]
    assert (looker.count("history"), looker.count("inbox")) == (3, 1)


def test_session_that_was_ended_within_a_trip_loses_nothing(
    executor: GroupExecutor, looker: Looker, postgres_url: str
) -> None:
    pid = pid_of(executor)
    with psycopg.connect(postgres_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT 1 FROM durable_runs WHERE run_id = 'r' FOR UPDATE")
        found = pool.submit(execute, executor, make_commit("r"))
        waiting = f"pid = {pid} AND wait_event_type = 'Lock'"
        looker.wait_until(lambda: looker.sessions(waiting), "it does not wait")
        looker.end(pid)
        other.rollback()

        assert found.result(WAIT_SECONDS_MAX) == [None]
    assert looker.count("history") == 3


# --- others that let nobody in --------------------------------------------------------


async def test_worker_that_waits_for_a_lock_keeps_its_lease(
    postgres_url: str, looker: Looker
) -> None:
    store = connect(postgres_url)
    await store.open()
    worker = await store.register_worker(make_worker("w"), ignore)
    await store.perform(make_start("r", owner="w"))
    text = "SELECT lease_expires_at FROM durable_workers"
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM durable_runs WHERE run_id = 'r' FOR UPDATE")
        waiting = asyncio.create_task(store.perform(make_commit("r")))
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while looker.ask(text) == [(worker.lease_expires_at,)]:
            assert time.monotonic() < deadline, "the lease is not renewed"
            await asyncio.sleep(0.05)
        assert not waiting.done()
        other.rollback()

    assert await waiting is None
    await store.close()


def test_lock_that_is_never_let_go_is_told(
    executor: GroupExecutor,
    looker: Looker,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "_BUSY_SECONDS", 0.1)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM durable_runs WHERE run_id = 'r' FOR UPDATE")
        (refused,) = execute(executor, make_commit("r"))
        other.rollback()

    assert isinstance(refused, DatabaseUnavailableError)
    assert "busy" in str(refused)
    assert "lock timeout" in str(refused)
    assert execute(executor, make_commit("r")) == [None]


def test_statement_that_takes_too_long_is_told(
    executor: GroupExecutor, looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = PostgresSession.send

    def dawdle(session: PostgresSession, asked: Any) -> Any:
        slow = {
            "timeout": Statement("SET LOCAL statement_timeout = 50"),
            "slow": Statement("SELECT pg_sleep(60)"),
        }
        begun = {name: asked[name] for name in ("begin", "header") if name in asked}
        return send(session, begun | (slow if begun else {}) | asked)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresSession, "send", dawdle)
        patched.setattr(patience, "_OUTAGE_SECONDS", 0.0)
        (refused,) = execute(executor, make_commit("r"))

    assert isinstance(refused, DatabaseUnavailableError)
    assert "statement timeout" in str(refused)
    assert execute(executor, make_commit("r")) == [None]


# --- commits whose answer is lost -----------------------------------------------------


GROUPS: dict[str, tuple[list[Any], list[Any]]] = {
    "start": ([make_start("s")], [Started("s", created=True)]),
    "message": ([make_message("r")], ["r"]),
    "commit": ([make_commit("r")], [None]),
    "close": (
        [make_closing("r", messages=(make_message("r"),), starts=(make_start("s"),))],
        [],
    ),
    "many": (
        [make_start("s", owner="w"), make_message("s"), make_commit("r")],
        [Started("s", created=True), "s", None],
    ),
}


def rows_of(looker: Looker) -> list[list[tuple[Any, ...]]]:
    texts = (
        "SELECT run_id, status, owner, epoch FROM durable_runs ORDER BY 1",
        "SELECT run_id, event_id FROM durable_history ORDER BY 1, 2",
        "SELECT run_id, request_id FROM durable_inbox ORDER BY 1, 2",
    )
    return [looker.ask(text) for text in texts]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("fault", ["cut_before", "drop_answer_to"])
def test_commit_that_is_cut_off_is_told_exactly(
    executor: GroupExecutor, looker: Looker, proxy: Proxy, group: str, fault: str
) -> None:
    operations, expected = GROUPS[group]
    executor.close()  # statements are prepared: only a new session says COMMIT
    executor.open()
    getattr(proxy, fault)(b"COMMIT")

    outcomes = execute(executor, *operations)

    assert proxy.struck.is_set() or fault == "drop_answer_to"
    assert pid_of(executor)
    if group == "close":
        (committed,) = outcomes
        assert isinstance(committed, Committed), committed
        assert committed.started == (Started("s", created=True),)
    else:
        assert outcomes == expected
    runs, history, inbox = rows_of(looker)
    has_start = group in ("start", "many", "close")
    assert [run_id for run_id, *_ in runs] == ["r", "s"][: 1 + has_start]
    has_event = group in ("commit", "many", "close")
    assert len(history) == 2 + has_event + 2 * has_start
    assert len(inbox) == (group in ("message", "many"))


@pytest.mark.parametrize("way", ["to_server", "to_client"])
@pytest.mark.parametrize("part", range(24))
def test_connection_that_is_cut_at_any_byte_loses_and_doubles_nothing(
    executor: GroupExecutor, looker: Looker, proxy: Proxy, way: Any, part: int
) -> None:
    def group(event_id: int, name: str) -> list[Any]:
        return [
            make_commit("r", event_id, event_id),
            make_start(name),
            make_message(name),
            make_message("r", name),
        ]

    execute(executor, *group(3, "a"))
    proxy.reset()
    execute(executor, *group(4, "b"))
    size = proxy.passed[way]
    proxy.reset()
    proxy.cut_after(max(1, size * part // 24), way)

    outcomes = execute(executor, *group(5, "c"))

    assert proxy.struck.is_set()
    assert outcomes == [None, Started("c", created=True), "c", "r"]
    runs, history, inbox = rows_of(looker)
    assert [run_id for run_id, *_ in runs] == ["a", "b", "c", "r"]
    assert [event_id for run_id, event_id in history if run_id == "r"] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert len(history) == 11
    assert len(inbox) == 6


@pytest.mark.parametrize("way", ["to_client", "to_server"])
def test_answer_that_is_swallowed_is_given_up_and_found_out(
    executor: GroupExecutor, looker: Looker, proxy: Proxy, way: Any
) -> None:
    executor.close()
    session = executor.open()
    assert isinstance(session, PostgresSession)
    assert 0 < session.raw.patience < LEASE
    session.raw.patience = 0.5
    execute(executor, make_message("r", "warm"))
    proxy.reset()
    execute(executor, make_message("r", "measured"))
    count = proxy.passed[way]
    proxy.reset()
    # The last byte of the commit, or of what tells that it has succeeded.
    proxy.swallow_after(count - 1, way)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(execute, executor, make_message("r", "swallowed"))
        assert proxy.struck.wait(WAIT_SECONDS_MAX)
        proxy.heal()

        assert found.result(WAIT_SECONDS_MAX) == ["r"]
    assert looker.count("inbox") == 3


# --- a server that dies, stops, or hangs ----------------------------------------------


@pytest.fixture(scope="module")
def harmed_server(
    needs_postgres: None, servers_folder: Any
) -> Iterator[PostgresServer]:
    """A server for the tests below: each leaves it running."""
    server = PostgresServer(servers_folder)
    yield server
    server.close()


@pytest.fixture
def harmed(harmed_server: PostgresServer) -> Iterator[str]:
    url = harmed_server.create_database()
    yield url
    harmed_server.drop_database(url)


def commit_and_crash(
    monkeypatch: pytest.MonkeyPatch, server: PostgresServer, *, commits: bool
) -> None:
    """The server is killed as the next commit is answered, or before it is made."""
    commit = PostgresSession.commit

    def crash(session: PostgresSession, **_: object) -> None:
        monkeypatch.undo()
        if commits:
            commit(session)
        server.kill()
        server.start()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(PostgresSession, "commit", crash)


@pytest.mark.parametrize("commits", [True, False])
def test_commit_at_which_the_server_crashes_is_known_by_its_rows(
    harmed_server: PostgresServer,
    harmed: str,
    monkeypatch: pytest.MonkeyPatch,
    commits: bool,
) -> None:
    executor = make_executor(harmed)
    execute(executor, RegisterWorker(make_worker("w"), ignore))
    execute(executor, make_start("r", owner="w"))
    commit_and_crash(monkeypatch, harmed_server, commits=commits)

    started, sent = execute(executor, make_start("s"), make_message("r"))

    if commits:
        assert (started, sent) == (Started("s", created=True), "r")
    else:
        # Transactions of before and after a crash may have the same number.
        assert isinstance(started, CommitUnknownError)
        assert isinstance(sent, CommitUnknownError)
    again = execute(executor, make_start("s"), make_message("r"))
    assert again == [Started("s", created=not commits), "r"]
    looker = Looker(harmed_server, harmed)
    assert (looker.count("runs"), looker.count("inbox")) == (2, 1)
    executor.close()


async def test_server_that_is_restarted_while_idle_is_not_noticed(
    harmed_server: PostgresServer, harmed: str
) -> None:
    store = connect(harmed)
    await store.open()
    await store.perform(make_start("r1"))
    await asyncio.to_thread(harmed_server.restart)

    assert (await store.perform(make_start("r2"))).created
    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 2
    await store.close()


async def test_server_that_is_restarted_while_busy_loses_and_doubles_nothing(
    harmed_server: PostgresServer, harmed: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = connect(harmed)
    await store.open()
    is_over = False
    numbers = itertools.count()

    acknowledged: list[Any] = []

    async def go_on() -> None:
        while not is_over:
            run_id = f"r{next(numbers)}"
            acknowledged.append(await store.perform(make_start(run_id)))
            acknowledged.append(await store.perform(make_message(run_id)))

    tasks = [asyncio.create_task(go_on()) for _ in range(10)]
    await wait_until(lambda: len(acknowledged) > 40)
    await asyncio.to_thread(harmed_server.restart)
    await store.perform(make_start("later"))
    is_over = True
    await asyncio.gather(*tasks)

    looker = Looker(harmed_server, harmed)
    assert looker.count("runs") + looker.count("inbox") == len(acknowledged) + 1
    assert caplog.records == []
    await store.close()


async def test_outage_is_two_lines_however_many_meet_it(
    harmed_server: PostgresServer,
    harmed: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "_OUTAGE_SECONDS", 0.2)
    store = connect(harmed)
    await store.open()
    await store.register_worker(make_worker("w"), ignore)
    await store.read(ListRuns(NAMESPACE, RunFilter()))
    store.watch(ignore)
    await asyncio.to_thread(harmed_server.stop, "immediate")
    try:
        for _ in range(3):
            refused = await asyncio.gather(
                *(store.perform(make_start(f"r{n}")) for n in range(50)),
                store.read(ListRuns(NAMESPACE, RunFilter())),
                return_exceptions=True,
            )
            assert {type(one) for one in refused} == {DatabaseUnavailableError}
            assert all(getattr(one, "is_told", False) for one in refused)
    finally:
        await asyncio.to_thread(harmed_server.start)

    assert (await store.perform(make_start("r"))).created
    away, back = (record.getMessage() for record in caplog.records)
    assert "cannot be reached" in away
    assert "is back after" in back
    await store.close()


def test_those_who_wait_for_a_server_come_back_at_different_moments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(50):
        waiting = patience.Patience()
        for _ in range(8):
            assert waiting.waits(is_lost=True)

    late = pauses[7::8]
    assert max(pauses) <= 0.5
    assert max(late) - min(late) > 0.2
    assert len({round(pause, 3) for pause in late}) > 20


async def test_server_that_is_frozen_for_less_than_a_lease_is_waited_for(
    harmed_server: PostgresServer, harmed: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = connect(harmed)
    await store.open()
    await store.register_worker(make_worker("w"), ignore)
    harmed_server.freeze()
    waiting = asyncio.create_task(store.perform(make_start("r", owner="w")))
    await asyncio.sleep(1)  # how long it is frozen; nothing is awaited
    assert not waiting.done()
    harmed_server.thaw()

    assert (await waiting).created
    assert store.holds_lease()
    assert caplog.records == []
    await store.close()


# Of an open connection, or of one that is to be made.
SILENCE = "does not answer|connection timeout expired"


async def test_server_that_is_frozen_for_longer_than_a_lease_is_given_up(
    harmed_server: PostgresServer, harmed: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = connect(harmed)
    await store.open()
    lost = asyncio.Event()
    await store.register_worker(make_worker("w"), lost.set)
    await store.perform(make_start("r", owner="w"))
    harmed_server.freeze()
    try:
        # Unlike a turn, which is sent as a whole, a message is looked for first.
        with pytest.raises(DatabaseUnavailableError, match=SILENCE):
            await store.perform(make_message("r"))
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while store.holds_lease():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        harmed_server.thaw()

    # Nobody has taken its runs in the meantime.
    assert await store.perform(make_commit("r")) is None
    assert not lost.is_set()
    away, back = (record.getMessage() for record in caplog.records)
    assert re.search(SILENCE, away)
    assert "is back after" in back
    await store.close()
    looker = Looker(harmed_server, harmed)
    looker.wait_until(lambda: not looker.sessions(), "a session was left")

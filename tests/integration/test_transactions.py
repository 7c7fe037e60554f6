"""Activities that are transactions: rows of the user's, and results, in one commit."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from durable import (
    ActivityState,
    DefinitionError,
    Engine,
    ExecuteActivityInput,
    Interceptor,
    Next,
    ResourceError,
    RetryPolicy,
    TransactionEndedError,
    WorkflowFailedError,
    WrongDatabaseError,
    activity,
    activity_info,
    complete_later_sync,
    heartbeat,
    resource,
    workflow,
)
from durable.api.definitions import ACTIVITIES
from durable.errors import InvalidCallError, InvalidOptionError
from durable.store.callers.transactions import Transaction, _make_engine
from durable.testing.replaying import replay

SOON = RetryPolicy(max_attempts=3, initial_interval="1ms", max_interval="1ms")
INSERT = sa.text("INSERT INTO booked (n) VALUES (:n)")
Body = Callable[[Any, int], object]
BODY: list[Body] = []
"""What is done once the row is written."""
STARTED: list[threading.Event] = []
ATTEMPTS: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    BODY[:], ATTEMPTS[:] = [], []


def do(given: Any, n: int) -> None:
    ATTEMPTS.append(activity_info().attempt)
    given.execute(INSERT, {"n": n})
    if BODY:
        BODY[0](given, n)


@activity(name="transactions.by_session", effect="transaction", retry=SOON)
def by_session(n: int, *, session: Session = resource(Session)) -> int:
    do(session, n)
    return n + 1


@activity(name="transactions.by_connection", effect="transaction", retry=SOON)
def by_connection(n: int, connection: sa.Connection = resource(sa.Connection)) -> int:
    do(connection, n)
    return n + 1


@activity(name="transactions.late", effect="transaction", start_to_close_timeout=1.5)
def late(n: int, *, session: Session = resource(Session)) -> int:
    do(session, n)
    return n + 1


@activity(name="transactions.awaiting", effect="transaction", retry=SOON)
async def awaiting(n: int, *, session: AsyncSession = resource(AsyncSession)) -> int:
    ATTEMPTS.append(activity_info().attempt)
    await session.execute(INSERT, {"n": n})
    if n < 0:
        await session.commit()
    if activity_info().attempt == 1 and n == 1:
        raise ValueError("not at the first attempt")
    return n + 1


@activity(name="transactions.awaited", effect="transaction", retry=SOON)
async def awaited(
    n: int, *, connection: AsyncConnection = resource(AsyncConnection)
) -> int:
    await connection.execute(INSERT, {"n": n})
    return n + 1


KNOWN = {one.name: one for one in (by_session, by_connection, late, awaiting, awaited)}


@workflow(name="transactions.run")
async def run(name: str, n: int) -> int:
    return await KNOWN[name](n)


@workflow(name="transactions.other")
async def other() -> str:
    return "other"


def home(url: str, **options: Any) -> Engine:
    return Engine(url, definitions=[run, other, *KNOWN.values()], **options)


class Table:
    """The user's own table, beside the engine's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = _make_engine(engine._store)
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE booked (n INTEGER NOT NULL)"))

    def rows(self) -> list[int]:
        with self.engine.begin() as connection:
            found = connection.execute(sa.text("SELECT n FROM booked ORDER BY n"))
            return [n for (n,) in found]


@pytest.fixture
def url(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


async def fails(engine: Engine, name: str, n: int = 1) -> BaseException:
    with pytest.raises(WorkflowFailedError) as caught:
        await engine.execute(run(name, n), id=f"{name} {n}")
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


# --- both or neither ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["by_session", "by_connection"])
async def test_a_retry_keeps_nothing_of_the_attempt_before(
    shared_url: str, name: str
) -> None:
    def fail_once(_: object, n: int) -> None:
        if activity_info().attempt == 1:
            raise ValueError(n)

    BODY.append(fail_once)
    async with home(shared_url) as engine:
        table = Table(engine)
        name = f"transactions.{name}"
        assert await engine.execute(run(name, 7), id="a") == 8
        assert table.rows() == [7]
    assert ATTEMPTS == [1, 2]


class Meddling(Interceptor):
    """Fails, or says something else, once the attempt is over."""

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        result = await next(input)
        if result == 8:
            raise ValueError("too late")
        return result + 100


@pytest.mark.parametrize("n", [7, 8])
async def test_what_is_committed_is_what_interceptors_leave_alone(
    url: str, n: int
) -> None:
    async with home(url, interceptors=[Meddling()]) as engine:
        table = Table(engine)
        assert await engine.execute(run(by_session.name, n), id="a") == n + 1
        assert table.rows() == [n]
    assert ATTEMPTS == [1]


async def test_what_fails_for_good_has_written_nothing(url: str) -> None:
    def fail(_: object, n: int) -> None:
        raise ValueError(n)

    BODY.append(fail)
    async with home(url) as engine:
        table = Table(engine)
        assert isinstance(await fails(engine, by_session.name), ValueError)
        assert table.rows() == []


async def test_what_the_database_refuses_is_its_outcome_and_is_replayed(
    shared_url: str,
) -> None:
    def repeat_a_key(given: Any, n: int) -> None:
        for _ in range(2):
            given.execute(sa.text("INSERT INTO keyed (n) VALUES (:n)"), {"n": n})

    @workflow(name="transactions.refused")
    async def refused(n: int) -> str:
        try:
            await by_session.options(retry=None)(n)
        except sa.exc.IntegrityError as error:
            return type(error).__name__
        return "nothing was refused"

    BODY.append(repeat_a_key)
    async with Engine(shared_url, definitions=[refused, by_session]) as engine:
        table = Table(engine)
        with table.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE keyed (n INTEGER UNIQUE)"))
        handle = await engine.start(refused(7), id="a")
        assert await handle.result(timeout=20) == "IntegrityError"
        assert table.rows() == []
        assert replay(await handle.history(), [refused]).terminal is not None
    assert ATTEMPTS == [1]


async def test_code_that_goes_on_after_a_refused_statement_commits_all_or_nothing(
    shared_url: str,
) -> None:
    def swallow(given: Any, n: int) -> None:
        with contextlib.suppress(sa.exc.DBAPIError):
            given.execute(sa.text("INSERT INTO nowhere (n) VALUES (1)"))

    BODY.append(swallow)
    async with home(shared_url) as engine:
        table = Table(engine)
        if shared_url.startswith("postgresql"):  # its transaction is lost with that
            assert "aborted" in str(await fails(engine, by_session.name, 7))
            assert table.rows() == []
        else:
            assert await engine.execute(run(by_session.name, 7), id="a") == 8
            assert table.rows() == [7]


def end_by(way: str) -> Body:
    def end(given: Any, n: int) -> None:
        getattr(given, way)()
        given.execute(INSERT, {"n": n + 100})

    return end


@pytest.mark.parametrize("way", ["commit", "rollback"])
@pytest.mark.parametrize("name", ["by_session", "by_connection"])
async def test_code_that_ends_its_own_transaction_is_refused(
    url: str, name: str, way: str
) -> None:
    BODY.append(end_by(way))
    async with home(url) as engine:
        table = Table(engine)
        problem = await fails(engine, f"transactions.{name}")
        assert table.rows() == []
    assert isinstance(problem, TransactionEndedError)
    assert "begin_nested()" in str(problem)


@pytest.mark.parametrize("words", ["COMMIT", " rollback;", "BEGIN IMMEDIATE", "END"])
async def test_statements_that_end_it_are_refused_too(url: str, words: str) -> None:
    BODY.append(lambda given, _: given.execute(sa.text(words)))
    async with home(url) as engine:
        table = Table(engine)
        problem = await fails(engine, by_session.name)
        assert table.rows() == []
    assert isinstance(problem, TransactionEndedError)


async def test_statements_with_which_mariadb_commits_are_refused(
    mariadb_url: str,
) -> None:
    words = ["CREATE TEMPORARY TABLE kept (n INTEGER)", "create table lost (n INTEGER)"]

    def change(given: Any, n: int) -> None:
        given.execute(sa.text(words[n]))

    BODY.append(change)
    async with home(mariadb_url) as engine:
        table = Table(engine)
        problem = await fails(engine, by_session.name, 1)
        assert isinstance(problem, TransactionEndedError)
        assert table.rows() == []
        assert await engine.execute(run(by_session.name, 0), id="a") == 1
        assert table.rows() == [0]


async def test_a_transaction_is_not_left_to_others(url: str) -> None:
    BODY.append(lambda _given, _n: complete_later_sync())
    async with home(url) as engine:
        table = Table(engine)
        problem = await fails(engine, by_session.name)
        assert table.rows() == []
    assert isinstance(problem, InvalidCallError)
    assert "its result is committed with what it writes" in str(problem)


async def test_a_commit_that_code_swallows_the_refusal_of_is_rolled_back(
    url: str,
) -> None:
    def swallow(given: Any, _: int) -> None:
        with contextlib.suppress(TransactionEndedError):
            given.commit()

    BODY.append(swallow)
    async with home(url) as engine:
        table = Table(engine)
        problem = await fails(engine, by_connection.name)
        assert isinstance(problem, TransactionEndedError)
        assert table.rows() == []


async def test_savepoints_are_the_activitys_own(shared_url: str) -> None:
    def undo(given: Any, n: int) -> None:
        with given.begin_nested() as savepoint:
            given.execute(INSERT, {"n": n + 100})
            savepoint.rollback()
        with given.begin_nested():
            given.execute(INSERT, {"n": n + 1})

    BODY.append(undo)
    async with home(shared_url) as engine:
        table = Table(engine)
        await engine.execute(run(by_session.name, 1), id="a")
        assert table.rows() == [1, 2]


async def test_a_run_that_is_started_within_it_comes_with_it(url: str) -> None:
    def start(given: Any, n: int) -> None:
        engine.within(given).start(other(), id=f"other {activity_info().attempt}")
        if activity_info().attempt == 1:
            raise ValueError(n)

    BODY.append(start)
    async with home(url) as engine:
        Table(engine)
        await engine.execute(run(by_session.name, 1), id="a")
        async with asyncio.timeout(20):
            while len(await engine.list()) < 2:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        assert {found.workflow_id for found in await engine.list()} == {"a", "other 2"}


# --- what goes wrong around the commit ------------------------------------------------


def lose_answer(monkeypatch: pytest.MonkeyPatch, *, is_committed: bool) -> list[int]:
    """Let the answer to the first commit be lost, whether or not it was done."""
    lost: list[int] = []
    finish = Transaction.finish

    def once(self: Transaction, *given: Any) -> None:
        if lost:
            finish(self, *given)
            return
        lost.append(1)
        if is_committed:
            finish(self, *given)
        self.is_committing = True
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(Transaction, "finish", once)
    return lost


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_up(
    shared_url: str, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    lost = lose_answer(monkeypatch, is_committed=is_committed)
    async with home(shared_url) as engine:
        table = Table(engine)
        assert await engine.execute(run(by_session.name, 7), id="a") == 8
        assert table.rows() == [7]
    assert lost
    assert ([1] if is_committed else [1, 2]) == ATTEMPTS


async def test_what_is_late_is_rolled_back(shared_url: str) -> None:
    goes_on = threading.Event()

    def wait(given: Any, n: int) -> None:
        if len(ATTEMPTS) == 1:
            with contextlib.suppress(BaseException):  # it does not stop when asked
                goes_on.wait(20)

    BODY.append(wait)
    if shared_url.startswith("sqlite"):
        pytest.skip("there the first one keeps the second one from beginning")
    async with home(shared_url) as engine:
        table = Table(engine)
        assert await engine.execute(run(late.name, 7), id="a") == 8
        goes_on.set()
    assert table.rows() == [7]
    assert len(ATTEMPTS) == 2


async def test_an_attempt_that_is_not_its_workers_any_more_is_rolled_back(
    url: str,
) -> None:
    def lose(given: Any, _: int) -> None:
        if activity_info().attempt == 1:
            given.execute(sa.text("UPDATE durable_activity_tasks SET attempt = 2"))
            given.execute(sa.text("DELETE FROM durable_activity_tasks"))

    BODY.append(lose)
    async with home(url) as engine:
        table = Table(engine)
        assert await engine.execute(run(by_session.name, 1), id="a") == 2
        assert table.rows() == [1]
    assert ATTEMPTS == [1, 2]


async def test_a_heartbeat_does_not_take_the_outcome_away(url: str) -> None:
    def beat(_: object, n: int) -> None:
        for i in range(n):
            heartbeat(i)

    BODY.append(beat)
    async with home(url) as engine:
        table = Table(engine)
        assert await engine.execute(run(by_session.name, 50), id="a") == 51
        assert table.rows() == [50]


async def test_a_result_that_cannot_be_recorded_leaves_no_row(url: str) -> None:
    @activity(name="transactions.unfit", effect="transaction")
    def unfit(*, session: Session = resource(Session)) -> int:
        session.execute(INSERT, {"n": 1})
        return "no number"  # type: ignore[return-value]  # that is the point

    @workflow(name="transactions.calls_unfit")
    async def calls_unfit() -> int:
        return await unfit()

    async with Engine(url, definitions=[calls_unfit, unfit]) as engine:
        table = Table(engine)
        handle = await engine.start(calls_unfit(), id="a")
        async with asyncio.timeout(20):
            while True:
                found = await engine.activities.list()
                if found and found[0].problem is not None:
                    break
                await asyncio.sleep(0.01)
        assert "rolled back" in found[0].problem
        (waiting,) = await handle.activities()
        assert waiting.state is ActivityState.BACKING_OFF
        assert table.rows() == []


# --- where it leads -------------------------------------------------------------------


async def test_in_memory_there_is_no_transaction() -> None:
    async with home("memory://") as engine:
        problem = await fails(engine, by_session.name)
    assert isinstance(problem, WrongDatabaseError)
    assert "in memory" in str(problem)


async def test_the_users_own_connections_are_used_and_must_lead_here(
    url: str, tmp_path: Any
) -> None:
    mine = sa.create_engine(url, poolclass=sa.NullPool)
    elsewhere = sa.create_engine(
        f"sqlite:///{tmp_path / 'other.db'}", poolclass=sa.NullPool
    )
    with elsewhere.begin() as connection:
        connection.execute(sa.text("CREATE TABLE booked (n INTEGER)"))
    given: dict[Any, object] = {Session: sessionmaker(mine), sa.Connection: elsewhere}
    async with home(url, resources=given) as engine:
        table = Table(engine)
        assert await engine.execute(run(by_session.name, 1), id="a") == 2
        problem = await fails(engine, by_connection.name)
        assert table.rows() == [1]
    assert isinstance(problem, WrongDatabaseError)
    assert "this engine's resource makes" in str(problem)
    with elsewhere.begin() as connection:
        assert connection.execute(sa.text("SELECT n FROM booked")).all() == []
    async with home(url, resources={Session: "no engine"}) as engine:
        assert isinstance(await fails(engine, by_session.name, 2), ResourceError)


@pytest.mark.parametrize("name", ["awaiting", "awaited"])
async def test_async_activities_take_what_is_awaited(
    postgres_url: str, name: str
) -> None:
    async with home(postgres_url) as engine:
        table = Table(engine)
        assert await engine.execute(run(f"transactions.{name}", 1), id="a") == 2
        assert table.rows() == [1]
        if name == "awaiting":
            assert ATTEMPTS == [1, 2]
            problem = await fails(engine, awaiting.name, -1)
            assert isinstance(problem, TransactionEndedError)
            assert table.rows() == [1]


async def test_async_commits_whose_answer_is_lost_are_looked_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answer(monkeypatch, is_committed=True)
    async with home(postgres_url) as engine:
        table = Table(engine)
        assert await engine.execute(run(awaiting.name, 7), id="a") == 8
        assert table.rows() == [7]
    assert ATTEMPTS == [1]


async def test_an_async_engine_of_the_users_own_is_used(postgres_url: str) -> None:
    driver = postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    mine = create_async_engine(driver, poolclass=sa.NullPool)
    async with home(postgres_url, resources={AsyncSession: mine}) as engine:
        table = Table(engine)
        assert await engine.execute(run(awaiting.name, 7), id="a") == 8
        assert table.rows() == [7]


async def test_a_driver_that_is_not_there_is_named(url: str) -> None:
    async with home(url) as engine:
        problem = await fails(engine, awaiting.name)
    assert isinstance(problem, InvalidOptionError)
    assert "aiosqlite" in str(problem)


async def test_greenlet_that_is_not_there_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt hung: what has begun without it waits for ever."""
    monkeypatch.setitem(sys.modules, "greenlet", None)
    async with home(url) as engine:
        problem = await fails(engine, awaiting.name)
    assert isinstance(problem, InvalidOptionError)
    assert "greenlet" in str(problem)


# --- definitions ----------------------------------------------------------------------


def test_what_cannot_be_a_transaction_is_refused() -> None:
    def takes_none(n: int) -> int:
        return n

    async def is_async(*, session: Session = resource(Session)) -> None: ...

    def is_plain(*, session: AsyncSession = resource(AsyncSession)) -> None: ...

    refused: list[tuple[Any, dict[str, Any], str]] = [
        (takes_none, {}, "takes none"),
        (is_async, {}, "is async"),
        (is_plain, {}, "a plain function"),
        (by_session.function, {"run_in": "process"}, "in a process"),
    ]
    for function, options, words in refused:
        with pytest.raises(DefinitionError, match=words):
            activity(name="transactions.no", effect="transaction", **options)(function)
    with pytest.raises(DefinitionError, match="takes none"):
        activity(name="transactions.no")(takes_none).options(effect="transaction")
    ACTIVITIES.pop("transactions.no", None)

"""Starts and messages in the caller's own transaction: done after the commit, or not."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from durable import (
    Attribute,
    Engine,
    Signal,
    SyncEngine,
    WorkflowAlreadyStartedError,
    query,
    run,
    update,
    workflow,
)
from durable.client.outbox import delivery
from durable.errors import (
    EngineClosedError,
    InvalidCallError,
    InvalidOptionError,
    NotCommittedError,
    OutboxRefusedError,
    PayloadTooLargeError,
    ResultTimeoutError,
    WorkflowCancelledError,
    WrongDatabaseError,
)

noted = Signal("noted", int)
customer = Attribute("customer", str)


@workflow(name="outbox.greet")
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow(name="outbox.collect")
async def collect(count: int) -> list[int]:
    return [await noted.receive() for _ in range(count)]


@workflow(name="outbox.cart")
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []

    @run
    async def shop(self) -> None:
        await noted.receive()

    @update
    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @query
    def all_items(self) -> list[str]:
        return self.items


DEFINITIONS = [greet, collect, Cart]


class Base(orm.DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer: orm.Mapped[str] = orm.mapped_column(sa.String(50))


def as_sqlalchemy(url: str) -> str:
    scheme, _, rest = url.partition("://")
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    return f"{drivers.get(scheme, scheme)}://{rest}"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, on each kind of server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    kind = "postgres" if request.param == "postgresql" else "mariadb"
    found: str = request.getfixturevalue(f"{kind}_url")
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def open_engine(url: str, **options: Any) -> Engine:
    return Engine(url, definitions=DEFINITIONS, **options)


@contextlib.contextmanager
def database(url: str) -> Any:
    engine = sa.create_engine(as_sqlalchemy(url))
    try:
        Base.metadata.create_all(engine)
        yield engine
    finally:
        engine.dispose()


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; the test's own limit ends a vain wait."""
    while not await condition():
        await asyncio.sleep(0.005)


async def is_empty(engine: Engine) -> bool:
    return not await engine.outbox.list()


# --- both or none ---------------------------------------------------------------------


async def test_a_session_of_the_orm_brings_its_rows_and_a_run(url: str) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop:
            with orm.Session(shop) as session, session.begin():
                session.add(Order(id=1, customer="ann"))
                handle = engine.within(session).start(greet("ann"), id="order-1")
                with pytest.raises(NotCommittedError, match="is not committed"):
                    await handle.result()
                assert await engine.list() == []

            assert await handle.result(timeout=20) == "hello ann"

            with orm.Session(shop) as session:
                assert session.get(Order, 1) is not None
            started = await handle.started()
            assert started.is_new
            assert started.run_id == handle.run_id
            assert await is_empty(engine)


async def test_a_rollback_leaves_nothing_and_one_to_a_savepoint_its_part(
    url: str,
) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop, shop.connect() as connection:
            within = engine.within(connection)
            connection.execute(sa.insert(Order).values(id=1, customer="ann"))
            gone = within.start(greet("gone"), id="gone")
            connection.rollback()
            kept = within.start(greet("kept"), id="kept")
            savepoint = connection.begin_nested()
            undone = within.start(greet("undone"), id="undone")
            within.cancel(kept)
            savepoint.rollback()
            also = within.start(greet("also"), id="also")
            connection.commit()

            assert await kept.result(timeout=20) == "hello kept"
            assert await also.result(timeout=20) == "hello also"
            for handle in (gone, undone):
                with pytest.raises(NotCommittedError):
                    await handle.result()
            assert len(await engine.list()) == 2
            assert not connection.in_transaction()


@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_async_forms_are_awaited(kind: str, postgres_url: str) -> None:
    shop = create_async_engine(as_sqlalchemy(postgres_url))
    async with open_engine(postgres_url) as engine:
        await _use_async(engine, shop, kind)


async def _use_async(engine: Engine, shop: Any, kind: str) -> None:
    opened = shop.connect() if kind == "connection" else AsyncSession(shop)
    async with opened as connection:
        within = engine.within(connection)
        gone = await within.start(greet("gone"))
        await connection.rollback()
        handle = await within.start(collect(2), id="c")
        await within.signal("c", noted(1))
        await within.signal(handle, noted(2))
        await connection.commit()
        assert await handle.result(timeout=20) == [1, 2]
        cart = await within.start(Cart.shop(), id="cart")
        number = await within.update("cart", Cart.add("apple"))
        await within.cancel(cart)
        await connection.commit()
        started = await cart.started(timeout=20)
        with pytest.raises(WorkflowCancelledError):
            await started.result(timeout=20)
        assert await started.get_update(number).result() == 1
    with pytest.raises(NotCommittedError):
        await gone.result()
    await shop.dispose()


async def test_an_async_connection_of_psycopg(postgres_url: str) -> None:
    import psycopg

    async with open_engine(postgres_url) as engine:
        connection = await psycopg.AsyncConnection.connect(postgres_url)
        async with connection:
            handle = await engine.within(connection).start(greet("ann"))
            await connection.commit()
            assert await handle.result(timeout=20) == "hello ann"


async def test_a_connection_in_autocommit_mode_asks_at_once(url: str) -> None:
    async with open_engine(url) as engine:
        with (
            database(url) as shop,
            shop.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            ) as connection,
        ):
            handle = engine.within(connection).start(greet("ann"))
            assert await handle.result(timeout=20) == "hello ann"


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_any_level_of_isolation_will_do(level: str, postgres_url: str) -> None:
    async with open_engine(postgres_url) as engine:
        with database(postgres_url) as shop:
            strict = shop.execution_options(isolation_level=level)
            with strict.connect() as connection:
                connection.execute(sa.select(Order)).all()
                within = engine.within(connection)
                handle = within.start(collect(1), id="c")
                await engine.execute(greet("bob"))  # whatever happens meanwhile
                within.signal("c", noted(1))
                connection.commit()
            assert await handle.result(timeout=20) == [1]


# --- who may call, and from where -----------------------------------------------------


async def test_other_threads_may_write_by_an_engine_of_this_loop(file: Path) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:

        def write(number: int) -> Any:
            with contextlib.closing(sqlite3.connect(file)) as connection, connection:
                return engine.within(connection).start(greet(str(number)))

        handles = await asyncio.gather(*(asyncio.to_thread(write, n) for n in range(8)))

        results = [await handle.result(timeout=20) for handle in handles]
        assert results == [f"hello {n}" for n in range(8)]


def test_code_without_a_loop(file: Path) -> None:
    with SyncEngine(f"sqlite:///{file}", definitions=DEFINITIONS) as engine:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            within = engine.within(connection)
            handle = within.start(collect(1), id="c")
            within.signal("c", noted(3))
            with pytest.raises(NotCommittedError):
                handle.result()
            connection.commit()
            assert handle.result(timeout=20) == [3]
            assert handle.started().describe().status == "completed"
            assert handle.workflow_id == "c"
            cart = within.start(Cart.shop(), id="cart")
            number = within.update(cart, Cart.add("pear"))
            connection.commit()
            started = cart.started(timeout=20)
            assert started.get_update(number).result() == 1
            within.cancel("cart")
            within.cancel("nobody")
            connection.commit()
            with pytest.raises(WorkflowCancelledError):
                started.result(timeout=20)
            (row,) = engine.outbox.list()
            assert (row.kind, row.workflow_id) == ("cancel", "nobody")
            assert engine.outbox.retry(row.sequence) == [row.sequence]
            assert engine.outbox.drop(row.sequence) == [row.sequence]
            assert engine.outbox.list() == []


def test_sync_engine_refuses_what_must_be_awaited(postgres_url: str) -> None:
    shop = create_async_engine(as_sqlalchemy(postgres_url))
    with SyncEngine(postgres_url, definitions=DEFINITIONS) as engine:
        with pytest.raises(InvalidCallError, match="must be awaited"):
            engine.within(AsyncSession(shop))  # type: ignore[arg-type]  # the test


async def test_scoped_sessions_are_sessions(file: Path) -> None:
    shop = sa.create_engine(f"sqlite:///{file}")
    sessions = orm.scoped_session(orm.sessionmaker(shop))
    async with open_engine(f"sqlite:///{file}") as engine:
        handle = engine.within(sessions).start(greet("ann"))
        sessions.commit()
        assert await handle.result(timeout=20) == "hello ann"
    sessions.remove()
    shop.dispose()


async def test_a_client_writes_and_a_worker_elsewhere_delivers(url: str) -> None:
    async with open_engine(url, worker=False) as client:
        with database(url) as shop, shop.begin() as connection:
            handle = client.within(connection).start(greet("ann"))
        with pytest.raises(ResultTimeoutError, match="still waits for a worker"):
            await handle.started(timeout=0.1)
        async with open_engine(url, namespace="other"):
            with pytest.raises(ResultTimeoutError):
                await handle.result(timeout=0.2)
        async with open_engine(url) as worker:
            assert await handle.result(timeout=20) == "hello ann"
            with database(url) as shop, shop.begin() as connection:
                again = client.within(connection).start(greet("bob"))
            assert await again.result(timeout=20) == "hello bob"
            assert await is_empty(worker)


async def test_an_older_transaction_that_others_have_overtaken_is_heard_of(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest number of the server does not change when it ends."""
    monkeypatch.setattr(delivery, "_PATROL_SECONDS", 1_000)
    async with (
        open_engine(postgres_url, worker=False) as client,
        open_engine(postgres_url),
    ):
        with database(postgres_url) as shop, shop.connect() as slow:
            handle = client.within(slow).start(greet("slow"))
            with shop.begin() as fast:
                other = client.within(fast).start(greet("fast"))
            assert await other.result(timeout=20) == "hello fast"
            await asyncio.sleep(1.5)  # all that was told is heard
            slow.commit()
            assert await handle.result(timeout=4) == "hello slow"


async def test_without_a_nudge_it_is_found_soon(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by drivers, which tell of no commit, and long after the row was written."""
    monkeypatch.setattr(delivery, "_PATROL_SECONDS", 1_000)
    async with open_engine(url) as engine:
        with database(url) as shop:
            raw = shop.raw_connection()
            within = engine.within(raw)
            handle = within.start(greet("ann"))
            await asyncio.sleep(0.2)
            raw.commit()
            began = time.perf_counter()
            assert await handle.result(timeout=20) == "hello ann"
            assert time.perf_counter() - began < 5
            raw.close()


async def test_a_closed_engine_writes_nothing(file: Path) -> None:
    engine = open_engine(f"sqlite:///{file}")
    async with engine:
        pass
    with contextlib.closing(sqlite3.connect(file)) as connection:
        with pytest.raises(EngineClosedError):
            engine.within(connection)


# --- refusals of ours -----------------------------------------------------------------


async def test_a_refusal_leaves_the_transaction_as_it_was(url: str) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop, shop.connect() as connection:
            connection.execute(sa.insert(Order).values(id=1, customer="ann"))
            within = engine.within(connection)
            wrong: list[tuple[type[Exception], Callable[[], object]]] = [
                (InvalidOptionError, lambda: within.start(greet("x"), nonsense=1)),  # type: ignore[call-overload]  # the test
                (InvalidCallError, lambda: within.start(greet)),  # type: ignore[call-overload]  # the test
                (PayloadTooLargeError, lambda: within.start(greet("x" * 3_000_000))),
                (InvalidCallError, lambda: within.signal("c", greet("x"))),  # type: ignore[arg-type]  # the test
                (InvalidCallError, lambda: within.signal(7, noted(1))),  # type: ignore[arg-type]  # the test
                (ValueError, lambda: within.cancel(" blank ")),
            ]
            for error, call in wrong:
                with pytest.raises(error):
                    call()
            handle = within.start(greet("ann"))
            connection.commit()
            assert await handle.result(timeout=20) == "hello ann"
            assert connection.execute(sa.select(Order.id)).scalar() == 1
        assert len(await engine.list()) == 1


async def test_memory_has_no_transaction_of_others(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for place in ("memory://", "sqlite://"):
            async with open_engine(place) as engine:
                with pytest.raises(WrongDatabaseError, match="are in memory"):
                    engine.within(connection).start(greet("ann"))


# --- refused after the commit ---------------------------------------------------------


async def test_what_another_call_holds_is_set_aside_and_others_flow(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_engine(url) as engine:
        await engine.execute(greet("ann"), id="taken")
        with database(url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            refused = within.start(greet("bob"), id="taken")
            same = within.start(greet("ann"), id="taken")
            free = within.start(greet("cid"), id="free")

        assert await free.result(timeout=20) == "hello cid"
        with pytest.raises(OutboxRefusedError, match="other arguments") as caught:
            await refused.result(timeout=20)
        assert await same.result(timeout=20) == "hello ann"
        (row,) = await engine.outbox.list(set_aside=True)
        assert row.sequence == caught.value.sequence
        assert (row.kind, row.name, row.tries) == ("start", "outbox.greet", 1)
        assert "other arguments" in (row.reason or "")
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert [r.getMessage().partition(":")[0] for r in warnings] == [
            f"Row {row.sequence} of the outbox, for workflow id 'taken', is set aside"
        ]
        # Nothing has changed: it is refused once more.
        assert await engine.outbox.retry() == [row.sequence]
        await wait_for(
            lambda: _is_set_aside(engine, row.sequence),
        )
        handle = await engine.get("taken")
        await handle.delete()
        assert await engine.outbox.retry(row.sequence, 99) == [row.sequence]
        assert await refused.result(timeout=20) == "hello bob"
        assert await is_empty(engine)


async def _is_set_aside(engine: Engine, sequence: int) -> bool:
    rows = await engine.outbox.list(set_aside=True)
    return [row.sequence for row in rows] == [sequence]


async def test_order_is_kept_while_the_first_is_tried_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            for number in range(5):
                within.signal("late", noted(number))
            other = within.start(greet("other"))
        assert await other.result(timeout=20) == "hello other"
        await wait_for(lambda: _was_refused(engine))
        late = await engine.start(collect(5), id="late")
        assert await late.result(timeout=20) == [0, 1, 2, 3, 4]
        assert await is_empty(engine)


async def _was_refused(engine: Engine) -> bool:
    rows = await engine.outbox.list(set_aside=False)
    assert [row.workflow_id for row in rows] == ["late"] * 5 or len(rows) >= 5
    return rows[0].tries > 0 and rows[0].due_at is not None


async def test_what_is_not_found_for_long_is_set_aside_and_lets_others_by(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_RETRY", 1_000)
    async with open_engine(f"sqlite:///{file}") as engine:
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            within = engine.within(connection)
            within.signal("x", noted(1))
            handle = within.start(collect(1), id="x")
            within.signal("x", noted(2))

        assert await handle.result(timeout=20) == [2]
        (row,) = await engine.outbox.list()
        assert row.is_set_aside
        assert row.tries == 5
        assert "noted" in str(row.name)
        assert await engine.outbox.drop(row.sequence, 77) == [row.sequence]
        assert await engine.outbox.drop() == []
        assert await is_empty(engine)


async def test_rubbish_is_set_aside_with_a_reason(file: Path) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            within = engine.within(connection)
            for _ in range(5):
                within.start(greet("ann"), id="a")
            broken = (
                "data = '{'",
                "kind = 'nonsense'",
                "target = 'b'",
                "created_at = 'x'",
            )
            for number, change in enumerate(broken, start=1):
                connection.execute(
                    f"UPDATE durable_outbox SET {change} WHERE sequence = {number}"  # noqa: S608 - the test
                )
        await wait_for(lambda: _are_set_aside(engine, 4))
        reasons = [row.reason or "" for row in await engine.outbox.list()]
        assert [r.partition(": ")[0] for r in reasons] == [
            "Row 1 of the outbox cannot be read",
            "Row 2 of the outbox cannot be read",
            "Row 3 of the outbox cannot be read",
            "Row 4 of the outbox",
        ]
        assert "its row has a created_at that cannot be read" in reasons[3]
        assert len(await engine.list()) == 1


async def _are_set_aside(engine: Engine, count: int) -> bool:
    rows = await engine.outbox.list()
    return [row.is_set_aside for row in rows] == [True] * count


# --- an id is an idempotency key ------------------------------------------------------


async def test_a_start_that_was_asked_for_before_gives_that_run(url: str) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop:
            handles = []
            for _ in range(3):
                with shop.begin() as connection:
                    within = engine.within(connection)
                    handles.append(within.start(collect(2), id="c", request_id="r"))
                    within.signal("c", noted(7), request_id="once")
            await wait_for(lambda: is_empty(engine))
            with shop.begin() as connection:
                engine.within(connection).signal("c", noted(8))
            results = [await handle.result(timeout=20) for handle in handles]
            assert results == [[7, 8]] * 3
            # What a closed run has had is not refused when it comes once more.
            with shop.begin() as connection:
                engine.within(connection).signal("c", noted(7), request_id="once")
            await wait_for(lambda: is_empty(engine))


async def test_a_start_brings_its_signal_to_the_run_that_is_there(url: str) -> None:
    async with open_engine(url) as engine:
        await engine.start(collect(2), id="c")
        with database(url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            one = within.start(collect(2), id="c", with_signal=noted(1))
            within.start(
                collect(9), id="c", with_signal=noted(2), on_conflict="use_existing"
            )
            new = within.start(collect(1), id="new", with_signal=noted(3))
        assert await one.result(timeout=20) == [1, 2]
        assert await new.result(timeout=20) == [3]
        assert await is_empty(engine)


async def test_options_of_a_start_hold(url: str) -> None:
    async with open_engine(url) as engine:
        await engine.start(collect(1), id="c")
        with database(url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            handle = within.start(
                "outbox.greet",
                "ann",
                id="c",
                on_conflict="terminate_existing",
                memo={"from": "shop"},
                attributes={customer: "ann"},
            )
            later = within.start(greet("later"), delay=0.3)
        assert await handle.result(timeout=20) == "hello ann"
        started = await handle.started()
        assert await started.memo() == {"from": "shop"}
        (found,) = await engine.list(where=customer == "ann")
        assert found.run_id == handle.run_id
        assert await later.result(timeout=20) == "hello later"
        statuses = [run.status for run in await engine.list(workflow_id="c")]
        assert sorted(statuses) == ["completed", "terminated"]


async def test_handle_of_a_start_that_a_policy_forbids_finds_no_other_run(
    file: Path,
) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:
        await engine.execute(greet("ann"), id="a")
        with contextlib.closing(sqlite3.connect(file)) as connection:
            within = engine.within(connection)
            for handle in (
                within.start(greet("bob"), id="a"),
                within.start(greet("ann"), id="a", on_conflict="fail"),
            ):
                with pytest.raises(NotCommittedError):
                    await handle.result()
            # Who asks for the run that there is asks for this one.
            same = within.start(greet("ann"), id="a")
            assert await same.result() == "hello ann"


async def test_ids_of_any_script_cross(url: str) -> None:
    async with open_engine(url) as engine:
        with database(url) as shop, shop.begin() as connection:
            name = "Zoë 🐍 \u2028 \" ' % :x"
            handle = engine.within(connection).start(greet(name), id="é 🐍 :id %s ?")
        assert await handle.result(timeout=20) == f"hello {name}"


async def test_direct_starts_are_refused_by_what_was_delivered(file: Path) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            handle = engine.within(connection).start(greet("ann"), id="a")
        await handle.result(timeout=20)
        with pytest.raises(WorkflowAlreadyStartedError):
            await engine.start(greet("bob"), id="a")


def test_many_threads_of_a_sync_engine(file: Path) -> None:
    with SyncEngine(f"sqlite:///{file}", definitions=DEFINITIONS) as engine:
        found: list[str] = []

        def work(number: int) -> None:
            with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
                with connection:
                    handle = engine.within(connection).start(greet(str(number)))
                found.append(handle.result(timeout=30))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [f"hello {n}" for n in range(8)]

"""Starts and messages in the caller's transaction: done after the commit, or never."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from durable import (
    Engine,
    SyncEngine,
    WorkflowAlreadyStartedError,
)
from durable.client.outbox import delivery
from durable.errors import (
    EngineClosedError,
    InvalidCallError,
    InvalidOptionError,
    NotCommittedError,
    PayloadTooLargeError,
    ResultTimeoutError,
    WorkflowCancelledError,
    WrongDatabaseError,
)
from tests.integration.shop import (
    DEFINITIONS,
    Cart,
    Order,
    as_sqlalchemy,
    collect,
    customer,
    database,
    greet,
    is_empty,
    noted,
    open_engine,
    wait_for,
)

# --- both or none ---------------------------------------------------------------------


async def test_a_session_of_the_orm_brings_its_rows_and_a_run(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop:
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
    shop_url: str,
) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.connect() as connection:
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


async def test_a_connection_in_autocommit_mode_asks_at_once(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        with (
            database(shop_url) as shop,
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


async def test_other_threads_may_write_by_an_engine_of_this_loop(
    shop_file: Path,
) -> None:
    async with open_engine(f"sqlite:///{shop_file}") as engine:

        def write(number: int) -> Any:
            with (
                contextlib.closing(sqlite3.connect(shop_file)) as connection,
                connection,
            ):
                return engine.within(connection).start(greet(str(number)))

        handles = await asyncio.gather(*(asyncio.to_thread(write, n) for n in range(8)))

        results = [await handle.result(timeout=20) for handle in handles]
        assert results == [f"hello {n}" for n in range(8)]


def test_code_without_a_loop(shop_file: Path) -> None:
    with (
        SyncEngine(f"sqlite:///{shop_file}", definitions=DEFINITIONS) as engine,
        contextlib.closing(sqlite3.connect(shop_file)) as connection,
    ):
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
    with (
        SyncEngine(postgres_url, definitions=DEFINITIONS) as engine,
        pytest.raises(InvalidCallError, match="must be awaited"),
    ):
        engine.within(AsyncSession(shop))  # type: ignore[arg-type]  # the test


async def test_scoped_sessions_are_sessions(shop_file: Path) -> None:
    shop = sa.create_engine(f"sqlite:///{shop_file}")
    sessions = orm.scoped_session(orm.sessionmaker(shop))
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        handle = engine.within(sessions).start(greet("ann"))
        sessions.commit()
        assert await handle.result(timeout=20) == "hello ann"
    sessions.remove()
    shop.dispose()


async def test_a_client_writes_and_a_worker_elsewhere_delivers(shop_url: str) -> None:
    async with open_engine(shop_url, worker=False) as client:
        with database(shop_url) as shop, shop.begin() as connection:
            handle = client.within(connection).start(greet("ann"))
        with pytest.raises(ResultTimeoutError, match="still waits for a worker"):
            await handle.started(timeout=0.1)
        async with open_engine(shop_url, namespace="other"):
            with pytest.raises(ResultTimeoutError):
                await handle.result(timeout=0.2)
        async with open_engine(shop_url) as worker:
            assert await handle.result(timeout=20) == "hello ann"
            with database(shop_url) as shop, shop.begin() as connection:
                again = client.within(connection).start(greet("bob"))
            assert await again.result(timeout=20) == "hello bob"
            assert await is_empty(worker)


async def test_without_a_nudge_it_is_found_soon(
    shop_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by drivers, which tell of no commit, and long after the row was written."""
    monkeypatch.setattr(delivery, "_PATROL_SECONDS", 1_000)
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop:
            raw = shop.raw_connection()
            within = engine.within(raw)
            handle = within.start(greet("ann"))
            with pytest.raises(NotCommittedError):  # so it has been looked for
                await handle.result()
            raw.commit()
            began = time.perf_counter()
            assert await handle.result(timeout=20) == "hello ann"
            assert time.perf_counter() - began < 5
            raw.close()


async def test_a_closed_engine_writes_nothing(shop_file: Path) -> None:
    engine = open_engine(f"sqlite:///{shop_file}")
    async with engine:
        pass
    with (
        contextlib.closing(sqlite3.connect(shop_file)) as connection,
        pytest.raises(EngineClosedError),
    ):
        engine.within(connection)


# --- refusals of ours -----------------------------------------------------------------


async def test_a_refusal_leaves_the_transaction_as_it_was(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.connect() as connection:
            connection.execute(sa.insert(Order).values(id=1, customer="ann"))
            within = engine.within(connection)
            wrong: list[tuple[type[Exception], Callable[[], object]]] = [
                (InvalidOptionError, lambda: within.start(greet("x"), nonsense=1)),
                (InvalidCallError, lambda: within.start(greet)),
                (PayloadTooLargeError, lambda: within.start(greet("x" * 3_000_000))),
                (InvalidCallError, lambda: within.signal("c", greet("x"))),
                (InvalidCallError, lambda: within.signal(7, noted(1))),
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


async def test_memory_has_no_transaction_of_others(shop_file: Path) -> None:
    with contextlib.closing(sqlite3.connect(shop_file)) as connection:
        for place in ("memory://", "sqlite://"):
            async with open_engine(place) as engine:
                with pytest.raises(WrongDatabaseError, match="are in memory"):
                    engine.within(connection).start(greet("ann"))


# --- an id is an idempotency key ------------------------------------------------------


async def test_a_start_that_was_asked_for_before_gives_that_run(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop:
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


async def test_a_start_brings_its_signal_to_the_run_that_is_there(
    shop_url: str,
) -> None:
    async with open_engine(shop_url) as engine:
        await engine.start(collect(2), id="c")
        with database(shop_url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            one = within.start(collect(2), id="c", with_signal=noted(1))
            within.start(
                collect(9), id="c", with_signal=noted(2), on_conflict="use_existing"
            )
            new = within.start(collect(1), id="new", with_signal=noted(3))
        assert await one.result(timeout=20) == [1, 2]
        assert await new.result(timeout=20) == [3]
        assert await is_empty(engine)


async def test_options_of_a_start_hold(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        await engine.start(collect(1), id="c")
        with database(shop_url) as shop, shop.begin() as connection:
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
    shop_file: Path,
) -> None:
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        await engine.execute(greet("ann"), id="a")
        with contextlib.closing(sqlite3.connect(shop_file)) as connection:
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


async def test_ids_of_any_script_cross(shop_url: str) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.begin() as connection:
            name = "Zoë 🐍 \u2028 \" ' % :x"
            handle = engine.within(connection).start(greet(name), id="é 🐍 :id %s ?")
        assert await handle.result(timeout=20) == f"hello {name}"


async def test_direct_starts_are_refused_by_what_was_delivered(shop_file: Path) -> None:
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        with contextlib.closing(sqlite3.connect(shop_file)) as connection, connection:
            handle = engine.within(connection).start(greet("ann"), id="a")
        await handle.result(timeout=20)
        with pytest.raises(WorkflowAlreadyStartedError):
            await engine.start(greet("bob"), id="a")


def test_many_threads_of_a_sync_engine(shop_file: Path) -> None:
    with SyncEngine(f"sqlite:///{shop_file}", definitions=DEFINITIONS) as engine:
        found: list[str] = []

        def work(number: int) -> None:
            with contextlib.closing(
                sqlite3.connect(shop_file, timeout=30)
            ) as connection:
                with connection:
                    handle = engine.within(connection).start(greet(str(number)))
                found.append(handle.result(timeout=30))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [f"hello {n}" for n in range(8)]

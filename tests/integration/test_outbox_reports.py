"""What users of other systems met with jobs, messages and transactions, met here.

Each test is named after what went wrong, with the public report that tells of it.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from durable import Engine, WrongDatabaseError
from durable.errors import CommitUnknownError, NotCommittedError
from durable.store.records import DeliverOutbox, SettleOutbox
from tests.integration.shop import (
    Order,
    collect,
    database,
    greet,
    is_empty,
    noted,
    open_engine,
    wait_for,
)


@contextlib.contextmanager
def connected(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
        yield connection


async def test_a_job_ran_before_its_transaction_was_committed(shop_url: str) -> None:
    """RealOrangeOne/django-tasks-rq 11, nebari-dev/nebi 312."""
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.connect() as connection:
            handle = engine.within(connection).start(greet("ann"), id="a")
            counted = sa.text("SELECT count(*) FROM durable_outbox")
            assert connection.execute(counted).scalar() == 1
            assert await is_empty(engine)
            assert (await engine.count()).total == 0
            connection.commit()
            assert await handle.result(timeout=20) == "hello ann"


async def test_a_rolled_back_job_ran_after_the_next_commit(shop_file: Path) -> None:
    """frappe/frappe 20236: hooks outlived the transaction that had set them."""
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        with connected(shop_file) as connection:
            within = engine.within(connection)
            gone = within.start(greet("gone"), id="gone")
            connection.rollback()
            kept = within.start(greet("kept"), id="kept")
            connection.commit()
        assert await kept.result(timeout=20) == "hello kept"
        assert [run.workflow_id for run in await engine.list()] == ["kept"]
        with pytest.raises(NotCommittedError):
            await gone.result()


async def test_an_inner_block_succeeded_and_the_outer_one_did_not(
    shop_url: str,
) -> None:
    """A worker looks for what a transaction has not committed yet."""
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.connect() as connection:
            within = engine.within(connection)
            # The driver of SQLite begins no transaction at a savepoint.
            connection.execute(sa.insert(Order).values(customer="ann"))
            with connection.begin_nested():
                within.start(greet("inner"), id="inner")
            connection.rollback()
            connection.execute(sa.insert(Order).values(customer="ann"))
            with connection.begin_nested() as first:
                with connection.begin_nested():
                    within.start(greet("deep"), id="deep")
                first.rollback()
            outer = within.start(greet("outer"), id="outer")
            connection.commit()
        assert await outer.result(timeout=20) == "hello outer"
        assert [run.workflow_id for run in await engine.list()] == ["outer"]


async def test_the_row_was_marked_and_the_job_could_not_be_enqueued(
    shop_file: Path, tmp_path: Path
) -> None:
    """RealOrangeOne/django-tasks 189: the commit came first, and the error after it."""
    async with open_engine(f"sqlite:///{tmp_path}/other.db") as engine:
        with connected(shop_file) as connection:
            connection.execute("CREATE TABLE orders (id INTEGER)")
            with contextlib.suppress(WrongDatabaseError), connection:
                connection.execute("INSERT INTO orders VALUES (1)")
                engine.within(connection).start(greet("ann"))
            found = connection.execute("SELECT count(*) FROM orders").fetchone()
        assert found == (0,)


async def test_messages_overtook_each_other_in_the_outbox(shop_url: str) -> None:
    """MassTransit/MassTransit 3512: ten deliverers took from one queue."""
    async with open_engine(shop_url) as engine, open_engine(shop_url):
        with database(shop_url) as shop:
            with shop.begin() as connection:
                within = engine.within(connection)
                handles = [within.start(collect(40), id=f"c{n}") for n in range(3)]
            for number in range(20):
                with shop.begin() as connection:
                    within = engine.within(connection)
                    for name in ("c0", "c1", "c2"):
                        within.signal(name, noted(2 * number))
                        within.signal(name, noted(2 * number + 1))
        for handle in handles:
            assert await handle.result(timeout=40) == list(range(40))
        assert await is_empty(engine)


async def test_messages_were_left_in_the_outbox_under_load(shop_file: Path) -> None:
    """MassTransit/MassTransit 5641 and 4990."""
    async with open_engine(f"sqlite:///{shop_file}") as engine:

        def write(number: int) -> list[Any]:
            with connected(shop_file) as connection, connection:
                within = engine.within(connection)
                return [within.start(greet(f"{number} {n}")) for n in range(20)]

        found = await asyncio.gather(
            *(asyncio.to_thread(write, n) for n in range(15)),
            *(engine.execute(greet("direct")) for _ in range(200)),
        )
        for handles in found[:15]:
            for handle in handles:
                assert (await handle.result(timeout=40)).startswith("hello")
        assert (await engine.count()).total == 500
        assert await is_empty(engine)


async def test_a_message_was_sent_and_its_mark_failed_so_it_was_sent_again(
    shop_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JasperFx/wolverine 2361, Particular/docs.particular.net 1816."""
    async with open_engine(shop_url) as engine:
        perform, lost = engine._store.perform, 0

        async def lose(operation: Any) -> Any:
            nonlocal lost
            result = await perform(operation)
            if isinstance(operation, DeliverOutbox) and lost < 2:
                lost += 1
                raise CommitUnknownError("the answer was lost")
            return result

        monkeypatch.setattr(engine._store, "perform", lose)
        with database(shop_url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            handle = within.start(collect(2), id="c")
            within.signal("c", noted(1))
            within.signal("c", noted(2))
        assert await handle.result(timeout=20) == [1, 2]
        assert lost >= 1
        assert await is_empty(engine)


async def test_a_refused_message_was_tried_again_in_a_hot_loop(
    shop_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MassTransit/MassTransit 6216."""
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        perform = engine._store.perform
        tried: list[Any] = []

        async def count(operation: Any) -> Any:
            if isinstance(operation, DeliverOutbox | SettleOutbox):
                tried.append(operation)
            return await perform(operation)

        monkeypatch.setattr(engine._store, "perform", count)
        with connected(shop_file) as connection:
            within = engine.within(connection)
            for number in range(20):
                within.signal("nobody", noted(number))
            connection.commit()
            # Whatever goes on meanwhile, it is looked at no sooner than it says.
            for number in range(20):
                other = within.start(greet(str(number)))
                connection.commit()
                await other.result(timeout=20)
        refused = [one for one in tried if isinstance(one, SettleOutbox)]
        assert 1 <= len(refused) <= 4
        assert len(tried) <= len(refused) + 20 + 4


async def test_the_consumer_kept_the_database_locked_while_it_redelivered(
    shop_url: str,
) -> None:
    """MassTransit/MassTransit 4299."""
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop:
            with shop.begin() as connection:
                engine.within(connection).signal("nobody", noted(1))
            await wait_for(lambda: _is_refused(engine))
            for number in range(10):  # while it waits to be tried again
                with shop.begin() as connection:
                    connection.execute(sa.insert(Order).values(customer=str(number)))
                assert await engine.execute(greet("x")) == "hello x"
        assert not await is_empty(engine)


async def _is_refused(engine: Engine) -> bool:
    return any(row.tries for row in await engine.outbox.list())


async def test_a_message_was_retried_by_hand_after_its_record_was_forgotten(
    shop_file: Path,
) -> None:
    """Particular/docs.particular.net 3947."""
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        await engine.execute(greet("bob"), id="a")
        with connected(shop_file) as connection, connection:
            within = engine.within(connection)
            handle = within.start(greet("ann"), id="a", request_id="once")
        await wait_for(lambda: _is_set_aside(engine))
        # Somebody has done it by hand meanwhile, under another id.
        run = await engine.start(greet("ann"), id="b", request_id="once")
        await run.result()
        await engine.outbox.retry()
        await wait_for(lambda: is_empty(engine))
        assert (await handle.started()).run_id == run.run_id
        assert len(await engine.list()) == 2


async def _is_set_aside(engine: Engine) -> bool:
    return bool(await engine.outbox.list(set_aside=True))


async def test_the_program_stopped_before_its_outbox_was_empty(shop_url: str) -> None:
    """MassTransit/MassTransit 1478."""
    engine = open_engine(shop_url)
    async with engine:
        with database(shop_url) as shop, shop.begin() as connection:
            within = engine.within(connection)
            for number in range(60):
                within.start(greet(str(number)), id=str(number))
    async with open_engine(shop_url) as later:
        await wait_for(lambda: is_empty(later))
        assert (await later.count()).total == 60
        for number in range(60):
            run = await later.get(str(number))
            assert await run.result(timeout=20) == f"hello {number}"

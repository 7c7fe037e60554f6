"""What is refused after the commit: set aside with its reason, and others flow."""

import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest

from durable import Engine
from durable.client.outbox import delivery
from durable.errors import OutboxRefusedError
from tests.integration.shop import (
    collect,
    database,
    greet,
    is_empty,
    noted,
    open_engine,
    wait_for,
)


async def test_what_another_call_holds_is_set_aside_and_others_flow(
    shop_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_engine(shop_url) as engine:
        await engine.execute(greet("ann"), id="taken")
        with database(shop_url) as shop, shop.begin() as connection:
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
    shop_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_engine(shop_url) as engine:
        with database(shop_url) as shop, shop.begin() as connection:
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
    shop_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_RETRY", 1_000)
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        with contextlib.closing(sqlite3.connect(shop_file)) as connection, connection:
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


async def test_rubbish_is_set_aside_with_a_reason(shop_file: Path) -> None:
    async with open_engine(f"sqlite:///{shop_file}") as engine:
        with contextlib.closing(sqlite3.connect(shop_file)) as connection, connection:
            within = engine.within(connection)
            for _ in range(6):
                within.start(greet("ann"), id="a")
            broken = (
                "data = '{'",
                "kind = 'nonsense'",
                "target = 'b'",
                "created_at = 'x'",
                "tries = 'x'",
            )
            for number, change in enumerate(broken, start=1):
                connection.execute(
                    f"UPDATE durable_outbox SET {change} WHERE sequence = {number}"  # noqa: S608 - the test
                )
        await wait_for(lambda: _are_set_aside(engine, 5))
        reasons = [row.reason or "" for row in await engine.outbox.list()]
        assert [r.partition(": ")[0] for r in reasons] == [
            "Row 1 of the outbox cannot be read",
            "Row 2 of the outbox cannot be read",
            "Row 3 of the outbox cannot be read",
            "Row 4 of the outbox",
            "Row 5 of the outbox",
        ]
        assert "its row has a created_at that cannot be read" in reasons[3]
        assert len(await engine.list()) == 1


async def _are_set_aside(engine: Engine, count: int) -> bool:
    rows = await engine.outbox.list()
    return [row.is_set_aside for row in rows] == [True] * count

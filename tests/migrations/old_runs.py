"""Runs that a release at revision 0002 left, and the code that goes on with them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from durable import Engine, Signal, activity, workflow

DATABASES = Path(__file__).parent / "databases"


def load_second_revision(path: Path) -> None:
    """Leave a database as a release at revision 0002 left it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATABASES / "0002.sql").read_text())


@activity(name="old.charge")
async def charge(cents: int) -> str:
    return f"receipt {cents}"


@activity(name="old.ship")
async def ship(cents: int) -> str:
    return f"shipped for {cents}"


paid = Signal("paid", int)


@workflow(name="old.order")
async def order(cents: int) -> list[str]:
    first = await charge(cents)
    return [first, *[str(await paid.receive()) for _ in range(2)]]


@workflow(name="old.shipping")
async def shipping(cents: int) -> str:
    return await ship(cents)


async def check_that_they_go_on(database: Path | str) -> None:
    async with Engine(database, definitions=[order, shipping, charge, ship]) as engine:
        results = [
            await (await engine.get(name)).result()
            for name in ("done", "order", "shipping")
        ]
        (first, second) = await (await engine.get("shipping")).attempts()

    assert results == ["receipt 1", ["receipt 5", "7", "8"], "shipped for 9"]
    assert (first.state.value, second.state.value) == ("failed", "completed")

"""Runs on servers whose settings, or whose other guests, stand in their way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from durable import (
    Engine,
    Signal,
    activity,
    activity_info,
    complete_later,
    start_child,
    workflow,
)
from durable.store.mysql import driver
from tests.servers import PostgresDatabases
from tests.store.refusing import CODES, refusing

pytestmark = pytest.mark.slow

RAN: Counter[str] = Counter()
TOKENS: list[str] = []
PAID = Signal("unkind.paid", str)
QUEUE = "unkind.gpu"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    TOKENS.clear()


def note() -> str:
    RAN[activity_info().activity_type] += 1
    return activity_info().activity_type


@activity(name="unkind.reserve")
async def reserve() -> str:
    return note()


@activity(name="unkind.charge", task_queue=QUEUE)
async def charge() -> str:
    return note()


@activity(name="unkind.render", task_queue=QUEUE)
def render() -> str:
    return note()


@activity(name="unkind.approve")
async def approve() -> str:
    later = await complete_later()
    TOKENS.append(later.token)
    note()
    return later.outcome  # type: ignore[no-any-return]  # it stands for what comes


@workflow(name="unkind.ship")
async def ship() -> list[str]:
    return [await charge(), await render()]


@workflow(name="unkind.order")
async def order(name: str) -> list[str]:
    child = await start_child(ship(), id=f"ship {name}")
    paid = await PAID.receive()
    return [paid, await reserve(), *await child, await approve()]


async def fulfil(url: str, *, orders: int = 1, workers: int = 1) -> None:
    """Carry orders out on new engines, with all that runs do to each other."""
    kinds = [f"unkind.{kind}" for kind in ("reserve", "charge", "render")]
    async with contextlib.AsyncExitStack() as stack:
        engines = [Engine(url, activity_queues={QUEUE: 2}) for _ in range(workers)]
        for engine in engines:
            await stack.enter_async_context(engine)
        handles = await asyncio.gather(
            *(engines[n % workers].start(order(f"{n}")) for n in range(orders))
        )
        await asyncio.gather(*(one.signal(PAID("paid")) for one in handles))
        while len(TOKENS) < orders:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)
        complete = engines[0].activities.complete
        await asyncio.gather(*(complete(token, "approved") for token in TOKENS))
        for handle in handles:
            found = await handle.result(timeout=30)
            assert found == ["paid", *kinds, "approved"]
    assert dict(RAN) == dict.fromkeys([*kinds, "unkind.approve"], orders)


CASES = [("postgres_url", code) for code in CODES["postgresql"]]
CASES += [("mariadb_url", code) for code in CODES["mysql"]]


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("kind", "code"), CASES)
async def test_work_is_done_once_though_the_server_refuses_each_record_once(
    kind: str, code: str, request: pytest.FixtureRequest
) -> None:
    """Users met work that was done again, as its record had been refused."""
    url: str = request.getfixturevalue(kind)
    async with Engine(url, definitions=[]):
        pass  # whoever makes the tables is no worker
    with refusing(code, lambda number: number % 2 == 1, commits_only=True) as count:
        await fulfil(url)
    assert count() > 10


@pytest.mark.sweep(1)
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_default_isolation_of_a_database_breaks_nothing_on_postgresql(
    level: str, postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    """Users met runs that stayed pending, as all their writes failed to serialize."""
    database = postgres_url.rpartition("/")[2]
    setting = f"SET default_transaction_isolation = '{level}'"
    postgres_server.execute(f"ALTER DATABASE {database} {setting}")

    await fulfil(postgres_url, orders=8, workers=2)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("level", ["REPEATABLE-READ", "SERIALIZABLE"])
async def test_default_isolation_of_sessions_breaks_nothing_on_mariadb(
    level: str, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise: what a server is set up with, each of its sessions begins with."""
    monkeypatch.setitem(driver._SETTINGS, "tx_isolation", f"'{level}'")

    await fulfil(mariadb_url, orders=8, workers=2)

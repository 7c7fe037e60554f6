"""Four kinds of tests, from the cheapest to the dearest."""

import subprocess
import sys
from pathlib import Path

import pytest

from durable import ResultTimeoutError, SyncEngine, WorkflowFailedError
from durable.testing import (
    TestEnvironment,
    dump_history,
    load_history,
    replay,
    replay_at_every_prefix,
)

from . import shop
from .shop import CardDeclined, Order, approval, charge, place_order, send_mail

HISTORIES = Path(__file__).parent / "histories"

CHEAP = Order(id="o-1", customer="ada", cents=2_000)
DEAR = Order(id="o-2", customer="bob", cents=150_000)


# --- an activity, and a plain function, are called as they are ------------------------


def test_small_orders_pay_postage() -> None:
    assert shop.with_postage(4_999) == 5_489
    assert shop.with_postage(5_000) == 5_000


async def test_charge_is_in_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "BOOK", tmp_path / "book.txt")
    assert await charge(CHEAP, 2_490) == "receipt-o-1"
    assert shop.BOOK.read_text() == "o-1 2490\n"


# --- a workflow, in virtual time, with fakes for what it touches ----------------------


class World:
    """What the fakes were asked to do."""

    def __init__(self) -> None:
        self.charged: list[int] = []
        self.mails: list[str] = []
        self.failures: list[Exception] = []

    def environment(self) -> TestEnvironment:
        return TestEnvironment(mocks={charge: self.charge, send_mail: self.send_mail})

    async def charge(self, order: Order, cents: int) -> str:
        if self.failures:
            raise self.failures.pop()
        self.charged.append(cents)
        return f"receipt-{order.id}"

    async def send_mail(self, customer: str, text: str) -> None:
        self.mails.append(f"{customer}: {text}")


@pytest.fixture
def world() -> World:
    return World()


async def test_paid_order_is_asked_about_after_two_weeks(world: World) -> None:
    async with world.environment() as env:
        run = await env.start(place_order(CHEAP), id=CHEAP.id)
        await env.sleep("13d")
        thanks = "ada: Thank you: receipt-o-1"
        assert (world.charged, world.mails) == ([2_490], [thanks])
        assert await run.result() == "receipt-o-1"
    assert world.mails == [thanks, "ada: How was it?"]


async def test_dear_order_waits_for_the_word(world: World) -> None:
    async with world.environment() as env:
        run = await env.start(place_order(DEAR), id=DEAR.id)
        await env.sleep("2d")
        assert world.charged == []
        await run.signal(approval(True))
        assert await run.result() == "receipt-o-2"
    assert world.charged == [150_000]


async def test_dear_order_that_nobody_approves_is_declined(world: World) -> None:
    async with world.environment() as env:
        assert await env.execute(place_order(DEAR)) == "declined"
    assert (world.charged, world.mails) == ([], ["bob: We cannot take your order."])


async def test_payment_is_tried_again(world: World) -> None:
    world.failures = [ConnectionError("no answer"), ConnectionError("no answer")]
    async with world.environment() as env:
        assert await env.execute(place_order(CHEAP)) == "receipt-o-1"
    assert world.charged == [2_490]


async def test_declined_card_ends_the_order_at_once(world: World) -> None:
    world.failures = [CardDeclined("no")]
    async with world.environment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(place_order(CHEAP))
    assert isinstance(caught.value.__cause__, CardDeclined)
    assert world.charged == []


# --- today's code, on what an earlier release has recorded ----------------------------


async def record(world: World) -> str:
    """How a history gets here: print this once a release, and check it in."""
    async with world.environment() as env:
        run = await env.start(place_order(DEAR), id=DEAR.id)
        await run.signal(approval(True))
        await run.result()
        return dump_history(await run.history())


@pytest.mark.parametrize("file", sorted(HISTORIES.glob("*.json")), ids=lambda f: f.name)
def test_recorded_order_replays(file: Path) -> None:
    history = load_history(file.read_text())
    replay(history)
    replay_at_every_prefix(history)


async def test_order_of_today_replays(world: World) -> None:
    assert replay(load_history(await record(world))).result == "receipt-o-2"


# --- the real program, killed ---------------------------------------------------------


def test_order_that_is_paid_is_not_charged_again_after_a_crash(tmp_path: Path) -> None:
    program = [sys.executable, shop.__file__, CHEAP.id]
    with subprocess.Popen(
        program, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "to ada: Thank you: receipt-o-1\n"
        first.kill()
    # Another process takes the order up where the first one left it.
    with SyncEngine(tmp_path / "shop.db") as engine:
        run = engine.get(CHEAP.id, workflow=place_order)
        assert run.describe().status == "running"
        with pytest.raises(ResultTimeoutError):
            run.result(timeout="200ms")
    assert (tmp_path / "book.txt").read_text() == "o-1 2490\n"

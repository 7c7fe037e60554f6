"""Several tasks that wait for conditions on the same state."""

import asyncio
from typing import Any

import pytest

from durable import (
    Signal,
    activity,
    wait_condition,
    workflow,
)
from durable.core.history import flags
from durable.errors import InvalidCallError
from durable.testing import Driver, replay_at_every_prefix

permits = Signal("permits", int)


@activity(name="conditions.use", retry=None)
async def use(who: int) -> int:
    return who


class Permits:
    """A bounded number of tasks may be inside at once."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.inside = self.most = 0
        self.order: list[int] = []

    async def enter(self, who: int) -> None:
        await wait_condition(lambda: self.free > 0)
        self.free -= 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(who)
        await use(who)
        self.inside -= 1
        self.free += 1


@workflow(name="conditions.limited")
async def limited(free: int, count: int) -> tuple[int, list[int]]:
    permit = Permits(free)
    await asyncio.gather(*(permit.enter(who) for who in range(count)))
    return permit.most, permit.order


@pytest.mark.parametrize("free", [1, 2])
@pytest.mark.parametrize("crash", [False, True])
def test_as_many_are_woken_as_there_is_room_for(free: int, crash: bool) -> None:
    driver = Driver(limited(free, 5))
    driver.start()
    while not driver.is_closed:
        assert len(driver.pending) <= free
        if crash:
            driver.crash()
        driver.complete(driver.pending[0], 0)
    replay_at_every_prefix(driver.history)
    assert driver.result() == (free, [0, 1, 2, 3, 4])


def test_whoever_waited_longest_is_woken_first_though_others_ask_later() -> None:
    @workflow(name="conditions.fair")
    async def fair() -> list[str]:
        free = 0
        entered: list[str] = []

        async def enter(name: str) -> None:
            nonlocal free
            await wait_condition(lambda: free > 0)
            free -= 1
            entered.append(name)

        first = asyncio.create_task(enter("first"))
        free = await permits.receive()
        await asyncio.gather(enter("late"), first)
        return entered

    driver = Driver(fair())
    driver.start()
    driver.signal(permits(2))
    assert driver.result() == ["first", "late"]


def test_all_go_on_whose_condition_stays_true() -> None:
    @workflow(name="conditions.broadcast")
    async def broadcast() -> list[int]:
        is_open = False
        seen: list[int] = []

        async def enter(who: int) -> None:
            await wait_condition(lambda: is_open)
            seen.append(who)

        tasks = [asyncio.create_task(enter(who)) for who in range(4)]
        await permits.receive()
        is_open = True
        await asyncio.wait(tasks)
        return seen

    driver = Driver(broadcast())
    driver.start()
    driver.signal(permits(1))
    assert driver.result() == [0, 1, 2, 3]


def test_one_that_only_looks_wakes_nobody_else() -> None:
    @workflow(name="conditions.looking")
    async def looking() -> list[str]:
        free = 0
        seen: list[str] = []

        async def enter() -> None:
            nonlocal free
            await wait_condition(lambda: free > 0)
            free -= 1
            seen.append("entered")

        task = asyncio.create_task(enter())
        await permits.receive()
        free = 1
        await wait_condition(lambda: free == 1, timeout=0)
        free = 0
        await permits.receive()
        free = 1
        await task
        return seen

    driver = Driver(looking())
    driver.start()
    driver.signal(permits(1))
    assert not driver.is_closed
    driver.signal(permits(1))
    assert driver.result() == ["entered"]


@pytest.mark.parametrize("timeout", [None, 0, 5])
@pytest.mark.parametrize("kind", ["function", "lambda", "future"])
def test_an_async_predicate_is_refused(kind: str, timeout: int | None) -> None:
    @workflow(name=f"conditions.odd {kind} {timeout}")
    async def odd() -> str:
        async def holds() -> bool:
            return False

        never = asyncio.get_running_loop().create_future()
        predicates: dict[str, Any] = {
            "function": holds,
            "lambda": lambda: holds(),
            "future": lambda: never,
        }
        await wait_condition(predicates[kind], timeout=timeout)
        return "went on"

    with pytest.raises(InvalidCallError, match="is async"):
        Driver(odd()).start()


def test_a_history_in_which_all_were_woken_at_once_replays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flags, "CURRENT", int(flags.Flag.DRAIN_ONCE))
    driver = Driver(limited(1, 3))
    driver.start()
    assert len(driver.pending) == 3
    driver.crash()
    monkeypatch.undo()
    for _ in range(3):
        driver.complete(driver.pending[0], 0)
    replay_at_every_prefix(driver.history)
    assert driver.result() == (3, [0, 1, 2])

"""What asyncio does in a run: the same in every process and on every Python."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from durable import ApplicationError, activity, sleep, workflow
from durable.core.history import flags
from durable.testing import Driver
from tests.unit.core.semantics.logbook import words
from tests.unit.core.semantics.test_every_cancel_is_seen import (
    SAME_TURN,
    answer,
    begin,
    finished,
    report,
    say_what_is_missing,
    work,
)


@activity(name="stable.plain", retry=None)
async def plain(value: int) -> int:
    return value


async def _of(waiting: Awaitable[int]) -> int:
    return await waiting


async def _fail_at_a_word() -> None:
    await words.receive()
    raise ApplicationError("a member's own")


# --- a failure and a cancel that meet in a group --------------------------------------


@pytest.mark.parametrize("order", SAME_TURN)
@pytest.mark.parametrize("crash", [False, True])
def test_a_member_that_fails_in_the_turn_of_a_cancel_hides_nothing(
    order: str, crash: bool
) -> None:
    async def together() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(_of(plain(1)))
            await words.receive()
        return 0

    @workflow(name=f"seen.meeting {order} {crash}")
    async def meeting() -> list[str]:
        return await report(together())

    driver = begin(meeting())
    inputs = [answer(driver, "failed"), driver.cancel_requested()]
    if order == "cancel first":
        inputs.reverse()
    if crash:
        driver.crash()
    driver.turn(*inputs)
    seen = say_what_is_missing(driver)
    if order == "cancel first":  # it was told the member before it could fail
        assert seen == ["cancelled", "word", "word"]
    else:
        assert seen == ["failed", "cancelled", "word"]


def test_a_swallowed_cancel_is_not_raised_again_by_a_group_that_fails() -> None:
    @workflow(name="seen.swallowed")
    async def swallowed() -> list[str]:
        seen = await report(asyncio.shield(asyncio.ensure_future(_of(work(1)))))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail_at_a_word())
        except* ApplicationError:
            seen.append("group")
        return [*seen, await words.receive()]

    driver = begin(swallowed())
    driver.cancel()
    assert say_what_is_missing(driver) == [
        "cancelled",
        "word",
        "word",
        "group",
        "word",
    ]


@pytest.mark.parametrize("body", ["failed", "waits"])
def test_a_cancel_while_a_failed_group_waits_for_its_members_is_seen(body: str) -> None:
    async def together() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(_of(work(1)))
            group.create_task(_fail_at_a_word())
            if body == "failed":
                await sleep(1)
                raise ApplicationError("the block's own")
        return 0

    @workflow(name=f"stable.waiting {body}")
    async def waiting() -> list[str]:
        return await report(together())

    driver = begin(waiting())
    if body == "waits":
        driver.signal(words("fail"))
    else:
        driver.advance(1)
    driver.cancel()
    driver.turn(answer(driver, "cancelled"))
    assert say_what_is_missing(driver) == ["failed", "cancelled", "word"]


# --- the other parts ------------------------------------------------------------------


def test_a_notice_that_a_cancelled_task_cannot_take_goes_to_the_next() -> None:
    @workflow(name="stable.notice")
    async def notice() -> list[str]:
        condition = asyncio.Condition()
        seen: list[str] = []

        async def wait(name: str) -> None:
            async with condition:
                await condition.wait()
                seen.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in ("first", "second")]
        await sleep(1)
        async with condition:
            condition.notify()
        tasks[0].cancel()
        await sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return seen

    driver = Driver(notice())
    driver.start()
    driver.fire_next_timer()
    driver.fire_next_timer()
    assert finished(driver) == ["second"]


def test_a_semaphore_lets_in_all_for_whom_there_is_room_at_once() -> None:
    @workflow(name="stable.room")
    async def room() -> list[str]:
        places = asyncio.Semaphore(3)
        seen: list[str] = []

        async def enter(name: str) -> None:
            await places.acquire()
            seen.append(name)

        for _ in range(3):
            await places.acquire()
        early = asyncio.create_task(enter("early"))
        await asyncio.sleep(0)
        late = [asyncio.create_task(enter(name)) for name in ("late", "later")]
        for _ in range(3):
            places.release()
        for turn in range(4):
            seen.append(f"turn {turn}")
            await asyncio.sleep(0)
        await asyncio.wait([early, *late])
        return seen

    driver = Driver(room())
    driver.start()
    turns = ["turn 0", "early", "turn 1", "late", "later", "turn 2", "turn 3"]
    assert finished(driver) == turns


def test_gathering_what_is_done_takes_no_turn_of_the_loop() -> None:
    @workflow(name="stable.done")
    async def done() -> list[Any]:
        seen: list[Any] = []

        async def note() -> None:
            seen.append("another task")

        task = asyncio.create_task(asyncio.sleep(0, "result"))
        await task
        other = asyncio.create_task(note())
        seen.append(await asyncio.gather(task, task))
        await other
        return seen

    driver = Driver(done())
    driver.start()
    assert finished(driver) == [["result", "result"], "another task"]


def test_a_cancel_is_not_taken_for_the_timeout_of_wait_for() -> None:
    @workflow(name="stable.zero")
    async def zero() -> str:
        async def stubborn() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        async def limited() -> None:
            task = asyncio.ensure_future(stubborn())
            await asyncio.sleep(0)
            await asyncio.wait_for(task, 0)

        task = asyncio.create_task(limited())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else repr(task.exception())

    driver = Driver(zero())
    driver.start()
    assert finished(driver) == "cancelled"


def test_other_loops_keep_what_their_python_does() -> None:
    async def main() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(0, 1))
        condition, places = asyncio.Condition(), asyncio.Semaphore(1)
        async with condition, places:
            condition.notify()
        gathered = await asyncio.gather(task, asyncio.sleep(0, 2))
        return [*gathered, await asyncio.wait_for(asyncio.sleep(0, 3), 9)]

    assert asyncio.run(main()) == [1, 2, 3]


def test_a_history_in_which_a_group_lost_a_cancel_replays_on_the_python_it_is_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def together() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(_of(plain(1)))
            await words.receive()
        return 0

    @workflow(name="stable.of old")
    async def of_old() -> list[str]:
        return await report(together())

    monkeypatch.setattr(flags, "CURRENT", int(flags.Flag.DRAIN_ONCE))
    driver = begin(of_old())
    driver.turn(answer(driver, "failed"), driver.cancel_requested())
    driver.crash()
    monkeypatch.undo()
    driver.replay()
    assert say_what_is_missing(driver)[0] == "failed"

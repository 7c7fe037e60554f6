"""Runs that leave memory: whatever they do then, nothing comes of it."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from durable import activity, now, patched, random, sleep, wait_condition, workflow
from durable.core.history.events import HistoryEvent
from durable.core.loop import teardown
from durable.testing.driver import Driver


@activity(name="teardown.refund", retry=None)
async def refund(what: str = "") -> str:
    return what


def tear_down(definition: Any) -> list[HistoryEvent]:
    """Start a run, tear it down, and see that it replays to where it was."""
    immortal = len(teardown._immortal)
    driver = Driver(definition())
    driver.start()
    history = list(driver.history)
    commands = len(history)
    driver.crash()
    gc.collect()
    assert driver.history == history
    assert len(teardown._immortal) == immortal
    driver.replay()
    driver.crash()
    assert len(driver.history) == commands
    return history


def test_finally_blocks_run_and_what_they_await_never_comes() -> None:
    seen: list[str] = []

    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            seen.append("before")
            await refund()
            seen.append("after")

    tear_down(cleaning)
    assert seen == ["before", "before"]


def test_nested_cleanup_runs_to_the_outermost_frame() -> None:
    seen: list[str] = []

    @workflow
    async def cleaning() -> None:
        async def inner() -> None:
            try:
                await sleep(10)
            finally:
                try:
                    await refund("a")
                finally:
                    seen.append("inner")
                    await refund("b")

        try:
            await inner()
        except Exception:
            seen.append("an error was made of it")
            raise
        finally:
            seen.append("outer")
            await asyncio.gather(refund("c"), refund("d"))

    tear_down(cleaning)
    assert seen == ["inner", "outer"] * 2


@pytest.mark.parametrize("forgiving", [Exception, asyncio.CancelledError])
def test_loops_that_forgive_errors_end_at_once(forgiving: type[BaseException]) -> None:
    seen: list[int] = []

    @workflow
    async def supervising() -> None:
        async def step() -> None:
            try:
                await sleep(10)
            finally:
                await refund()

        while True:
            seen.append(1)
            with contextlib.suppress(forgiving):
                await step()

    tear_down(supervising)
    assert len(seen) == 2  # once when started, once when replayed


WAITS: dict[str, Any] = {
    "durable sleep": lambda: sleep(1),
    "asyncio sleep": lambda: asyncio.sleep(1),
    "yield": lambda: asyncio.sleep(0),
    "activity": refund,
    "gather": lambda: asyncio.gather(refund(), refund()),
    "task": lambda: asyncio.ensure_future(refund()),
    "wait_for": lambda: asyncio.wait_for(asyncio.Event().wait(), 5),
    "condition": lambda: wait_condition(lambda: False, timeout=1),
    "shield": lambda: asyncio.shield(refund()),
    "queue": lambda: asyncio.Queue[int]().get(),
}


async def in_timeout() -> None:
    async with asyncio.timeout(5):
        await refund()


async def in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(refund())


async def after_reading() -> None:
    now(), random().random(), patched("p")
    await refund()


WAITS |= {"timeout": in_timeout, "group": in_group, "reading": after_reading}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_loop_that_catches_everything_gives_the_thread_back(wait: Any) -> None:
    """It cannot be ended, so it is kept for ever: no code of it runs again."""
    tries: list[int] = []

    @workflow
    async def stubborn() -> None:
        await sleep(1)
        while True:
            tries.append(1)
            with contextlib.suppress(BaseException):
                await wait()

    immortal = len(teardown._immortal)
    driver = Driver(stubborn())
    driver.start()
    driver.crash()
    assert tries == []  # it was not in its loop yet: it ends like any other
    assert len(teardown._immortal) == immortal

    @workflow
    async def begun() -> None:
        while True:
            tries.append(1)
            with contextlib.suppress(BaseException):
                await (sleep(1) if len(tries) == 1 else wait())

    driver = Driver(begun())
    driver.start()
    driver.crash()
    count = len(tries)
    assert 2 <= count < 1_000
    assert len(teardown._immortal) == immortal + 1
    gc.collect()
    assert len(tries) == count


def test_no_warning_comes_of_cleanup_code_with_bare_coroutines() -> None:
    """Warnings are errors here, and a coroutine never awaited is one."""

    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            async with asyncio.timeout(5):
                await asyncio.gather(refund("a"), refund("b"), asyncio.sleep(1))

    tear_down(cleaning)


def test_async_generators_are_closed_wherever_they_stand() -> None:
    seen: list[str] = []

    async def generate(name: str) -> AsyncIterator[int]:
        try:
            yield 1
            await sleep(10)
            yield 2
        finally:
            seen.append(name)
            await refund(name)
            seen.append("never")

    @workflow
    async def generating() -> None:
        left = generate("left at a yield")
        async for _ in left:
            break
        awaited = generate("awaited")
        async for _ in awaited:
            pass

    tear_down(generating)
    assert sorted(seen) == ["awaited", "awaited", "left at a yield", "left at a yield"]


def test_async_generator_that_yields_in_its_cleanup_is_closed() -> None:
    @workflow
    async def generating() -> None:
        async def stubborn() -> AsyncIterator[int]:
            for _ in range(3):
                try:
                    yield 1
                finally:
                    yield 2

        async for _ in stubborn():
            break
        await sleep(10)

    tear_down(generating)


def test_generators_in_generators_are_closed() -> None:
    seen: list[str] = []

    async def inner() -> AsyncIterator[int]:
        try:
            yield 1
            await sleep(10)
        finally:
            seen.append("inner")

    async def outer() -> AsyncGenerator[int, None]:
        try:
            async for number in inner():
                yield number
        finally:
            seen.append("outer")

    @workflow
    async def generating() -> None:
        async with contextlib.aclosing(outer()) as numbers:
            async for _ in numbers:
                pass

    tear_down(generating)
    assert sorted(seen) == ["inner", "inner", "outer", "outer"]


def test_tasks_groups_and_locks_end_without_a_sound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @workflow
    async def busy() -> None:
        lock = asyncio.Lock()

        async def hold(number: int) -> None:
            async with lock:
                await sleep(number + 1)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(hold(number))
            await asyncio.shield(refund())

    tear_down(busy)
    assert capsys.readouterr().err == ""


def test_garbage_of_one_run_never_wakes_in_the_turn_of_another() -> None:
    """Cycles of dropped coroutines are everywhere; the collector must not find them."""
    seen: list[str] = []

    async def other_program() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            loop = asyncio.get_running_loop() if in_a_loop() else None
            seen.append(type(loop).__name__)

    def in_a_loop() -> bool:
        return asyncio._get_running_loop() is not None

    @workflow
    async def allocating() -> int:
        junk = []
        for number in range(50_000):  # enough to set the collector off many times
            cycle: list[Any] = [number]
            cycle.append(cycle)
            junk.append(cycle)
        return len(junk)

    def drop_a_suspended_coroutine() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(other_program())
        loop.run_until_complete(asyncio.sleep(0, loop.slow_callback_duration))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for its warning
        loop.close()
        holder: list[Any] = [task.get_coro()]
        holder.append(holder)

    drop_a_suspended_coroutine()
    Driver(allocating()).start()
    assert "DeterministicLoop" not in seen
    gc.collect()
    assert "DeterministicLoop" not in seen


def test_replayer_that_is_dropped_tears_itself_down() -> None:
    seen: list[str] = []

    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            seen.append("cleaned")

    driver = Driver(cleaning())
    driver.start()
    del driver
    gc.collect()
    assert seen == ["cleaned"]


def test_dropped_in_the_turn_of_another_run_it_leaves_that_run_alone() -> None:
    @workflow(name="teardown.victim")
    async def victim() -> None:
        try:
            await sleep(10)
        finally:
            await refund("from the victim")

    victims = [Driver(victim())]
    victims[0].start()

    @workflow(name="teardown.killer")
    async def killer() -> bool:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        victims.pop()
        return loop is asyncio.get_running_loop() and task is asyncio.current_task()

    driver = Driver(killer())
    driver.start()
    assert driver.result() is True
    assert [type(e.attributes).__name__ for e in driver.history] == [
        "WorkflowExecutionStarted",
        "WorkflowExecutionCompleted",
    ]


def test_torn_down_twice_is_fine_and_driven_again_is_refused() -> None:
    from durable.core.replay.replayer import Replayer
    from durable.core.workflow_task import WorkflowTask
    from durable.errors import InternalError

    replayer = Replayer(lambda _: None)  # type: ignore[arg-type, return-value]  # never asked
    replayer.tear_down()
    replayer.tear_down()
    with pytest.raises(InternalError, match="torn down"):
        replayer.process(WorkflowTask(0))


def test_forbidden_call_in_cleanup_leaves_quietly() -> None:
    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            await asyncio.to_thread(print)

    tear_down(cleaning)


def test_outer_loop_and_task_are_as_before() -> None:
    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            await refund()

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        hooks = sys.get_asyncgen_hooks().finalizer
        driver = Driver(cleaning())
        driver.start()
        driver.crash()
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert gc.isenabled()
        assert (hooks is None) == (sys.get_asyncgen_hooks().finalizer is None)
        await asyncio.sleep(0)

    asyncio.run(main())

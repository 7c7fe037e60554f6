"""A stack says what each task waits for, as its author wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import durable
from durable import activity, workflow
from durable.testing.driver import Driver


@activity(name="stacks.step")
async def step(number: int) -> int:
    return number


@workflow(name="stacks.child")
async def child() -> None:
    await durable.sleep("1h")


async def until_set() -> None:
    await asyncio.Event().wait()


async def locked() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:
        pass


async def notified() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(step(1), name="first")


async def timed() -> None:
    async with asyncio.timeout(60):
        await asyncio.Queue[int]().get()


async def another() -> None:
    await asyncio.create_task(asyncio.sleep(5), name="nap")


async def gathering() -> None:
    await asyncio.gather(step(1), asyncio.sleep(5), until_set())


async def gathering_many() -> None:
    await asyncio.gather(*[asyncio.sleep(1) for _ in range(7)])


async def plain_future() -> None:
    await asyncio.get_running_loop().create_future()


WAITS: dict[str, tuple[Callable[[], Awaitable[Any]], str]] = {
    "activity": (lambda: step(1), "activity 'stacks.step'"),
    "sleep": (lambda: asyncio.sleep(2.5), "asyncio.sleep(2.5)"),
    "timer": (lambda: durable.sleep(2.5), "a timer of 2.5 s"),
    "event": (until_set, "Event.wait"),
    "wait_for": (lambda: asyncio.wait_for(until_set(), 60), "Event.wait"),
    "queue": (timed, "Queue.get"),
    "join": (lambda: full_queue().join(), "Queue.join"),
    "lock": (locked, "Lock.acquire"),
    "condition": (notified, "Condition.wait"),
    "group": (grouped, "TaskGroup"),
    "task": (another, "task 'nap' (asyncio.sleep(5))"),
    "wait": (lambda: asyncio.wait([asyncio.create_task(until_set())]), "asyncio.wait"),
    "future": (plain_future, "a future"),
    "gather": (
        gathering,
        "gather of task 'Task-2' (activity 'stacks.step'), task 'Task-3'"
        " (asyncio.sleep(5)), task 'Task-4' (Event.wait)",
    ),
    "gather many": (
        gathering_many,
        "gather of "
        + ", ".join(f"task 'Task-{n}' (asyncio.sleep(1))" for n in range(2, 7))
        + ", 2 more",
    ),
}


def full_queue() -> asyncio.Queue[int]:
    queue = asyncio.Queue[int]()
    queue.put_nowait(1)
    return queue


@workflow(name="stacks.waiting")
async def waiting(what: str) -> None:
    await WAITS[what][0]()


@pytest.mark.parametrize("what", WAITS)
def test_a_stack_names_what_is_waited_for(what: str) -> None:
    driver = Driver(waiting(what))
    driver.start()
    (main, *_) = [t for t in driver.query("stack") if t["task"] == "Task-1"]
    assert main["waits_for"] == WAITS[what][1]
    assert main["frames"][0]["function"] == "waiting"
    assert all("asyncio" not in frame["file"] for frame in main["frames"])


def test_a_stack_names_the_child_that_is_waited_for() -> None:
    @workflow(name="stacks.parent")
    async def parent() -> None:
        await asyncio.gather(child.options(id="c")(), step(1))

    driver = Driver(parent())
    driver.start()
    main = driver.query("stack")[0]
    assert main["waits_for"] == (
        "gather of task 'Task-2' (child workflow 'c' (stacks.child)), task 'Task-3'"
        " (activity 'stacks.step')"
    )

"""Reference workflows: one per way of using the library. Their histories are kept.

A later release must replay what these recorded. So their behaviour is never edited:
a new way of using the library is a new workflow here.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from durable import (
    ActivityCancellationType,
    ApplicationError,
    RetryPolicy,
    activity,
    deprecate_patch,
    info,
    now,
    patched,
    random,
    sleep,
    uuid4,
    wait_condition,
    workflow,
)


@dataclass
class Order:
    id: str
    cents: int
    items: tuple[str, ...]
    due: datetime | None = None


class CardDeclined(Exception):
    pass


@activity(name="golden.charge", retry=RetryPolicy(max_attempts=5))
async def charge(order: Order) -> str:
    return f"receipt of {order.id}"


@activity(name="golden.ship", retry=None, schedule_to_close_timeout="1d")
async def ship(item: str, *, express: bool = False) -> str:
    return f"{item}{'!' if express else ''}"


@activity(name="golden.refund", retry=None)
def refund(receipt: str) -> None: ...


@activity(
    name="golden.assemble",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def assemble(item: str) -> bytes:
    return item.encode()


@activity(
    name="golden.notify",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
    match_arguments=False,
)
async def notify(text: str) -> None: ...


@workflow(name="golden.order", version="1.0.0")
async def order(order: Order) -> list[str]:
    """Steps, a fan-out, a long timer."""
    receipt = await charge(order)
    shipped = await asyncio.gather(*(ship(item, express=True) for item in order.items))
    await sleep(timedelta(days=3), summary="time to return it")
    return [receipt, *shipped]


@workflow(name="golden.saga")
async def saga(order: Order) -> str:
    """A failure, compensated."""
    receipt = await charge(order)
    try:
        await ship(order.items[0])
    except (ApplicationError, CardDeclined) as error:
        await refund(receipt)
        return f"refunded: {error}"
    return "shipped"


@workflow(name="golden.cancelled")
async def cancelled() -> None:
    """Cleanup after a cancel, with a shield and an outcome that is waited for."""
    building = asyncio.ensure_future(assemble("house"))
    try:
        await asyncio.shield(building)
    finally:
        await notify(f"stopping because of {info().cancellation_reason}")
        await building


@workflow(name="golden.deadlines")
async def deadlines() -> list[str]:
    """Timeouts of three kinds, met and missed."""
    seen = []
    async with asyncio.timeout(30):
        seen.append(await ship("met"))
    try:
        async with asyncio.timeout(60):
            seen.append(await ship("in time"))
            seen.append(await ship("late"))
    except TimeoutError:
        seen.append("timed out")
    try:
        await asyncio.wait_for(ship("never"), 5)
    except TimeoutError:
        seen.append("timed out again")
    try:
        await wait_condition(lambda: False, timeout="1m")
    except TimeoutError:
        seen.append("and again")
    await asyncio.sleep(0)
    await sleep(0)
    return seen


@workflow(name="golden.racing")
async def racing() -> list[str]:
    """Sets of tasks, in the order of their hashes; the first two win."""
    seen: list[str] = []
    tasks = {
        asyncio.create_task(ship(f"item {number}"), name=str(number))
        for number in range(6)
    }
    while len(seen) < 2:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen += [task.get_name() for task in done]
    for task in tasks:
        task.cancel()
        await asyncio.sleep(0)
    for result in asyncio.as_completed([ship("x"), ship("y")]):
        seen.append(await result)
    return seen


@workflow(name="golden.drawing")
async def drawing() -> list[str]:
    """Time, randomness and ids."""
    seen = []
    for _ in range(3):
        seen += [now().isoformat(), str(uuid4()), f"{random().random():.17g}"]
        seen.append(str(info().history_length))
        await sleep(random().randrange(1, 100))
    return seen


@workflow(name="golden.patching")
async def patching() -> str:
    """Patches, asked for more than once, and one that is deprecated."""
    deprecate_patch("gone")
    first = patched("insured")
    await ship("box")
    return f"{first} {patched('insured')} {patched('later')}"


@workflow(name="golden.producing")
async def producing() -> int:
    """Queues, locks, an async generator, a TaskGroup."""
    queue: asyncio.Queue[str] = asyncio.Queue(2)
    lock = asyncio.Lock()
    total = 0

    async def items() -> AsyncIterator[str]:
        for number in range(4):
            yield await ship(f"part {number}")

    async def produce() -> None:
        async for item in items():
            await queue.put(item)

    async def consume(count: int) -> None:
        nonlocal total
        for _ in range(count):
            item = await queue.get()
            async with lock:
                await notify(item)
                total += len(item)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(consume(2))
        group.create_task(consume(2))
    return total


@workflow(name="golden.failing")
async def failing() -> None:
    """A failure that leaves the run, with its cause and its group."""
    try:
        await ship("box")
    except ApplicationError as error:
        raise ExceptionGroup("many", [CardDeclined("no"), ValueError(5)]) from error

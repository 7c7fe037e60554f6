"""Reference workflows: one per way of using the library. Their histories are kept.

A later release must replay what these recorded. So their behaviour is never edited:
a new way of using the library is a new workflow here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from durable import (
    ActivityCancellationType,
    ApplicationError,
    Attribute,
    ChildCancellationType,
    Done,
    NotDone,
    ParentClosePolicy,
    RetryPolicy,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    all_handlers_finished,
    checkpoint,
    continue_as_new,
    current_update,
    deprecate_patch,
    external,
    get_attribute,
    info,
    now,
    patched,
    query,
    random,
    resource,
    run,
    set_signal_handler,
    set_state,
    set_update_handler,
    signal,
    sleep,
    start_child,
    step,
    update,
    upsert_attributes,
    upsert_memo,
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


@activity(name="golden.fetch", retry=None, task_queue="golden", priority=2)
async def fetch(customer: str) -> str:
    return customer


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


# --- messages -------------------------------------------------------------------------

parcels = Signal("golden.parcels", Order)
numbers = Signal("golden.numbers", int)


@workflow(name="golden.Desk")
class Desk:
    """Handlers of all kinds, beside a run that waits for them."""

    def __init__(self, name: str, *, most: int = 3) -> None:
        self.log = [f"{name} opens"]
        self.most = most

    @run
    async def run(self, name: str, *, most: int = 3) -> list[str]:
        """Wait until enough was written down and all handlers have finished."""
        set_state({"name": name, "log": 0})
        await wait_condition(lambda: len(self.log) > self.most)
        set_state({"name": name, "log": len(self.log)})
        await wait_condition(all_handlers_finished)
        return self.log

    @signal
    def write(self, what: str, times: int = 1) -> None:
        """Write down."""
        self.log += [what] * times

    @signal(name="golden.send")
    async def send(self, item: str) -> None:
        """Ship, then write that down."""
        self.log.append(await ship(item))

    @signal(dynamic=True)
    def other(self, name: str, *values: Any) -> None:
        """Write down that something else came."""
        self.log.append(f"{name} with {len(values)}")

    @query
    def read(self) -> list[str]:
        """What was written down."""
        return self.log

    @update
    def strike(self, index: int) -> str:
        """Take an entry out."""
        return self.log.pop(index)

    @strike.validator
    def check(self, index: int) -> None:
        if index >= len(self.log):
            raise ValueError("there is no such entry")

    @update
    async def charge(self, order: Order) -> str:
        """Charge; a declined card fails this update alone."""
        receipt = await charge(order)
        mine = current_update()
        if mine is not None and mine.id == "declined":
            raise CardDeclined(receipt)
        self.log.append(receipt)
        return receipt


@workflow(name="golden.receiving")
async def receiving() -> list[str]:
    """Channels: awaited, raced, given up, with a deadline, and with rubbish in them."""
    seen = [(await parcels.receive()).id]
    racing = {
        asyncio.create_task(numbers.receive(), name="number"),
        asyncio.create_task(parcels.receive(), name="parcel"),
    }
    done, others = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    seen += sorted(task.get_name() for task in done)
    try:
        async with asyncio.timeout(60):
            seen.append(f"number {await numbers.receive()}")
            await numbers.receive()
    except TimeoutError:
        seen.append("too late")
    with contextlib.suppress(asyncio.QueueEmpty):
        while True:
            seen.append(parcels.receive_nowait().id)
    set_signal_handler(numbers, lambda number: seen.append(f"handled {number}"))
    set_update_handler("golden.add", lambda number: seen.append(f"updated {number}"))
    await wait_condition(lambda: len(seen) > 8)
    return seen


# --- other runs -----------------------------------------------------------------------


@workflow(name="golden.kin")
async def kin(item: str) -> str:
    return await ship(item)


@workflow(name="golden.kinship")
async def kinship() -> list[str]:
    """Children that end in every way, awaited in several ways."""
    seen: list[str] = []
    started = await start_child(kin("started"), id="started")
    seen.append(await started)
    seen += await asyncio.gather(
        kin.options(id="left", summary="the left one")("left"), kin("nameless")
    )
    for name in ("failing", "taken", "late", "terminated"):
        try:
            seen.append(await kin.options(id=name)(name))
        except (
            CardDeclined,
            WorkflowAlreadyStartedError,
            WorkflowFailedError,
        ) as error:
            seen.append(f"{name}: {type(error).__name__}")
    orphan = kin.options(
        id="orphan", parent_close_policy=ParentClosePolicy.ABANDON, run_timeout="1d"
    )
    await start_child(orphan("orphan"))
    return seen


@workflow(name="golden.felling")
async def felling() -> list[str]:
    """Children whose parent gives them up, by each cancellation type."""
    seen: list[str] = []
    for kind in ChildCancellationType:
        call = kin.options(id=kind.value, cancellation_type=kind)
        task = asyncio.ensure_future(call(kind.value))
        await numbers.receive()
        task.cancel()
        await asyncio.wait([task])
        seen.append(f"{kind.value} {task.cancelled()}")
    return seen


@workflow(name="golden.telling")
async def telling() -> list[str]:
    """Messages to other runs, that arrive or do not."""
    seen: list[str] = []
    other = external("other")
    for attempt in range(4):
        try:
            if attempt % 2:
                await other.cancel("they should")
            else:
                await other.signal(numbers(attempt))
            seen.append("arrived")
        except (WorkflowNotFoundError, WorkflowClosedError) as error:
            seen.append(type(error).__name__)
    return seen


# --- bounded histories ----------------------------------------------------------------


@workflow(name="golden.relaying", run_timeout="1d")
async def relaying(order: Order, round: int = 0) -> None:
    """Continue as new, with a signal that nobody has read."""
    await numbers.receive()
    await ship(order.items[0])
    continue_as_new(relaying(order, round + 1), memo={"round": round}, run_timeout="2d")


@workflow(name="golden.carrying", checkpoint_every=1)
async def carrying(total: int = 0, laps: int = 0) -> list[str]:
    """Checkpoints, and what is carried on over them."""
    number = await numbers.receive()
    set_state(total + number)
    total += number
    if laps == 2:
        return [str(total), str(uuid4()), str(patched("rolled")), await ship("sum")]
    await sleep(1)
    checkpoint(total, laps + 1)
    return ["no checkpoint"]


@workflow(name="golden.stepping")
async def stepping(order: Order) -> list[str]:
    """Closures as activities: with a key, without one, under options."""

    async def weigh() -> int:
        return len(order.items)

    weight = await step("golden.weigh", weigh, key=[order.id, list(order.items)])
    later = asyncio.create_task(
        step("golden.label", lambda: "label", returns=str, effect="once")
    )
    label = await step("golden.print", lambda: {"text": order.id}, summary="prints")
    return [str(weight), label["text"], await later]


@activity(name="golden.weigh_here", local=True)
async def weigh_here(item: str) -> str:
    """Its result is written with what comes later."""
    return f"{len(item)} g"


@workflow(name="golden.local")
async def local(order: Order) -> list[str]:
    """Local activities, one after the other."""
    return [await weigh_here(item) for item in order.items]


# --- what a run is found by -----------------------------------------------------------

customer = Attribute("golden_customer", str)
paid_at = Attribute("golden_paid_at", datetime)
tags = Attribute("golden_tags", list[str])


@workflow(name="golden.finding")
async def finding(order: Order) -> str | None:
    """Attributes and memo, set, changed and taken away."""
    upsert_attributes({customer: order.id, tags: ["new", "large"]})
    upsert_memo({"items": list(order.items), "note": "none yet"})
    await ship(order.items[0])
    upsert_attributes({paid_at: datetime(2026, 1, 2, tzinfo=UTC), tags: None})
    upsert_memo({"note": None})
    return get_attribute(customer)


@workflow(name="golden.queueing")
async def queueing() -> list[str]:
    """Activities that take turns in a queue."""
    calls = [
        fetch.options(fairness_key="small", fairness_weight=1)("small"),
        fetch.options(fairness_key="large", fairness_weight=3, priority=5)("large"),
        fetch("nobody"),
    ]
    return list(await asyncio.gather(*calls))


# --- what activities do to the world --------------------------------------------------


async def find_parcel(item: str) -> Done[str] | NotDone:
    return NotDone()


@activity(
    name="golden.post",
    effect="once",
    verify=find_parcel,
    in_doubt="wait",
    start_to_close_timeout=10,
)
async def post(item: str) -> str:
    return item


@activity(name="golden.weigh", effect="read", retry=None)
async def weigh(item: str) -> int:
    return len(item)


@activity(name="golden.book", effect="transaction")
def book(item: str, *, session: Session = resource(Session)) -> int:
    return 0


@workflow(name="golden.doubting")
async def doubting() -> list[object]:
    """Activities of each effect; what one in doubt has done, nobody can tell."""
    weight = await weigh("stone")
    row = await book("stone")
    posting = post.options(in_doubt="raise")("stone")
    found = await asyncio.gather(post("sand"), posting, return_exceptions=True)
    return [weight, row, *(type(one).__name__ for one in found)]

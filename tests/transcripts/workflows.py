"""The workflows that transcripts talk to. `deployed` says which code is running."""

import asyncio

from durable import (
    ActivityCancellationType,
    ApplicationError,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    all_handlers_finished,
    checkpoint,
    continue_as_new,
    external,
    info,
    patched,
    query,
    run,
    set_state,
    signal,
    sleep,
    start_child,
    update,
    wait_condition,
    workflow,
)

deployed = "first"
words = Signal("words", str)
BUGS = (AssertionError, KeyError, LookupError)


@activity(name="transcripts.charge", retry=None)
async def charge(amount: int) -> str:
    return f"receipt-{amount}"


@activity(name="transcripts.ship", retry=None)
async def ship(item: str) -> str:
    return item


@activity(name="transcripts.refund", retry=None)
async def refund(receipt: str) -> None: ...


@activity(
    name="transcripts.build",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def build(item: str) -> str:
    return item


@workflow(name="transcripts.order")
async def order(amount: int) -> str:
    """Charge, wait for three days, ship."""
    receipt = await charge(amount)
    try:
        await sleep("3d")
        return await ship("book")
    except asyncio.CancelledError:
        await refund(receipt)
        raise


@workflow(name="transcripts.fan_out")
async def fan_out(items: list[str]) -> list[str]:
    """Ship everything at once."""
    return await asyncio.gather(*map(ship, items))


@workflow(name="transcripts.race")
async def race() -> str:
    """Ship within an hour, or say that it is late."""
    try:
        async with asyncio.timeout(3_600):
            return await ship("book")
    except TimeoutError:
        return "late"


@workflow(name="transcripts.building")
async def building() -> str:
    """Wait for the true outcome, whatever is cancelled."""
    try:
        return "built " + await build("house")
    except asyncio.CancelledError:
        return f"stopped: {info().cancellation_reason}"


@workflow(name="transcripts.changing")
async def changing() -> str:
    """Code that is deployed in several versions, without and with a patch."""
    if deployed == "broken":
        raise KeyError("a bug")
    if deployed == "unpatched":
        return await ship("other")
    if deployed == "second" and patched("insured"):
        await ship("insurance")
    return await ship("book")


@workflow(name="transcripts.counting")
async def counting() -> int:
    """Wait until two of three things came, but no longer than a minute."""
    seen: list[str] = []

    async def one(item: str) -> None:
        seen.append(await ship(item))

    tasks = [asyncio.ensure_future(one(item)) for item in "abc"]
    await wait_condition(lambda: len(seen) >= 2, timeout="1m")
    for task in tasks:
        task.cancel()
    return len(seen)


@workflow(name="transcripts.Inbox")
class Inbox:
    """Collects what comes, until it is closed and every handler has finished."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.is_closed = False

    @run
    async def run(self) -> list[str]:
        """Wait for the end."""
        await wait_condition(lambda: self.is_closed)
        await wait_condition(all_handlers_finished)
        return self.items

    @signal
    def add(self, item: str) -> None:
        """Collect."""
        self.items.append(item)
        set_state(len(self.items))

    @signal
    def close(self) -> None:
        """End."""
        self.is_closed = True

    @query
    def count(self) -> int:
        """How many there are."""
        return len(self.items)

    @update
    async def ship(self, item: str) -> str:
        """Ship, then collect."""
        self.items.append(await ship(item))
        return f"{item} is number {len(self.items)}"

    @ship.validator
    def check(self, item: str) -> None:
        """Nothing twice."""
        if item in self.items:
            raise ValueError(f"{item} is here already")


@workflow(name="transcripts.listening")
async def listening() -> list[str]:
    """Two words within an hour."""
    async with asyncio.timeout(3_600):
        return [await words.receive(), await words.receive()]


@workflow(name="transcripts.packing")
async def packing(item: str) -> str:
    return await ship(item)


@workflow(name="transcripts.warehouse")
async def warehouse() -> list[str]:
    """A child that is started, then awaited; and some that are awaited at once."""
    first = await start_child(packing("book"), id="first")
    seen = [f"{first.workflow_id} has begun"]
    for name in ("second", "third"):
        try:
            seen.append(await packing.options(id=name)(name))
        except (
            ApplicationError,
            WorkflowAlreadyStartedError,
            WorkflowFailedError,
        ) as error:
            seen.append(f"{name}: {type(error).__name__}")
    return [*seen, await first]


@workflow(name="transcripts.telling")
async def telling() -> str:
    """Say a word to another run; ask it to stop if it can hear."""
    other = external("listener")
    try:
        await other.signal(words("hello"))
        await other.cancel("enough was said")
    except (WorkflowNotFoundError, WorkflowClosedError) as error:
        return type(error).__name__
    return "told"


@workflow(name="transcripts.relay")
async def relay(round: int) -> None:
    """One word for each run."""
    await words.receive()
    continue_as_new(round + 1)


@workflow(name="transcripts.rolling", checkpoint_every=4)
async def rolling(total: int) -> int:
    """Count letters until a word is too short."""
    while True:
        word = await words.receive()
        if len(word) < 2:
            return total
        total += len(word)
        set_state(total)
        checkpoint(total)

"""The workflows that transcripts talk to. `deployed` says which code is running."""

import asyncio

from durable import (
    ActivityCancellationType,
    activity,
    info,
    patched,
    sleep,
    wait_condition,
    workflow,
)

deployed = "first"
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

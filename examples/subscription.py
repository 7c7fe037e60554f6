"""A subscription that lives for years: a loop over a state, with checkpoints.

Every now and then the loop's state is recorded and replay begins there, so the run
loads as fast in its tenth year as on its first day. Time is virtual here: ten years
pass in a moment.
"""

import asyncio
from dataclasses import dataclass

from durable import Signal, activity, checkpoint, set_state, workflow
from durable.testing import TestEnvironment

DAY = 86_400.0
cancelled = Signal("cancelled", str)


@dataclass
class Subscription:
    """All that the loop needs to go on."""

    customer: str
    cents: int
    months: int = 0
    paid: int = 0


@activity
async def charge(customer: str, month: int, cents: int) -> int:
    """Take one month's money."""
    return cents


@workflow(checkpoint_every=100)
async def subscribe(subscription: Subscription) -> Subscription:
    """Charge every thirty days until somebody cancels."""
    while True:
        subscription.paid += await charge(
            subscription.customer, subscription.months, subscription.cents
        )
        subscription.months += 1
        set_state(subscription)
        try:
            async with asyncio.timeout(30 * DAY):
                await cancelled.receive()
                return subscription
        except TimeoutError:
            # The end of the loop: what follows is what a fresh call with this state
            # would do, and after a checkpoint the function is called like that.
            checkpoint(subscription)


async def main() -> None:
    """Let ten years pass."""
    async with TestEnvironment() as engine:
        run = await engine.start(subscribe(Subscription("ann", 999)), id="ann")
        await asyncio.sleep(10 * 365 * DAY)
        state = await run.state(Subscription)
        print("published:", state)
        history = await run.history()
        kinds = [type(event.attributes).__name__ for event in history]
        behind = kinds[::-1].index("CheckpointRecorded")
        print(f"{len(history)} events, of which a replay reads the last {behind + 1}")
        await run.signal(cancelled("moved away"))
        done = await run.result()
        print(f"{done.months} months, {done.paid / 100:.2f} paid")


if __name__ == "__main__":
    asyncio.run(main())

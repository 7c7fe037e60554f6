"""Retries, timeouts and failures: what a workflow sees of an unreliable world."""

import asyncio

from durable import (
    ActivityTimeoutError,
    ApplicationError,
    Engine,
    RetryPolicy,
    activity,
    activity_info,
    workflow,
)


class CardDeclined(Exception):
    """The bank said no. Workflow code can catch it by its class."""


@activity(retry=RetryPolicy(max_attempts=5, initial_interval="20ms"))
async def fetch_rate(currency: str) -> float:
    """Answer at the third attempt; every attempt is in the database."""
    if activity_info().attempt < 3:
        raise ConnectionError("no answer")
    return 1.08


@activity(start_to_close_timeout="50ms", retry=None)
async def slow_report() -> str:
    """Take longer than its timeout allows."""
    await asyncio.sleep(10)
    return "never"


@activity(retry=RetryPolicy(non_retryable=(CardDeclined,)))
async def charge(cents: int) -> str:
    """Refuse large amounts, and ask for no further attempt."""
    if cents > 100_000:
        raise CardDeclined("limit exceeded")
    return "paid"


@activity
async def audit(entry: str) -> None:
    """Refuse for good, whatever the policy says."""
    raise ApplicationError(f"the ledger is closed for {entry}", non_retryable=True)


@workflow
async def settle(cents: int) -> list[str]:
    """Catch each failure as ordinary Python."""
    story = [f"rate {await fetch_rate('USD')} after two failures"]
    try:
        await slow_report()
    except ActivityTimeoutError as error:
        story.append(f"report: {error.timeout_type} timeout")
    try:
        await charge(cents)
    except CardDeclined as error:
        story.append(f"charge: {error}")
    try:
        await audit("today")
    except ApplicationError as error:
        story.append(f"audit: {error.message}")
    return story


async def main() -> None:
    """Run it and tell the story."""
    async with Engine("memory://") as engine:
        for line in await engine.execute(settle(250_000)):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())

"""A person must approve within some time: a signal raced against a durable timer."""

import asyncio

from durable import (
    Engine,
    Signal,
    activity,
    query,
    run,
    signal,
    wait_condition,
    workflow,
)

approved = Signal("approved", bool)


@activity
async def tell(who: str, text: str) -> None:
    """Write to somebody; a real one would send mail."""
    print(f"  to {who}: {text}")


@workflow
async def expense(employee: str, cents: int, patience: float) -> str:
    """Wait for the manager's word; the timer survives restarts, as the signal does."""
    await tell("manager", f"{employee} asks for {cents / 100:.2f}")
    try:
        async with asyncio.timeout(patience):
            is_approved = await approved.receive()
    except TimeoutError:
        await tell(employee, "nobody answered in time")
        return "expired"
    await tell(employee, "approved" if is_approved else "declined")
    return "approved" if is_approved else "declined"


@workflow
class Panel:
    """The same with several people: a class, with handlers and a query."""

    def __init__(self) -> None:
        self.votes: dict[str, bool] = {}

    @run
    async def decide(self, needed: int) -> bool:
        """Wait until enough people have voted."""
        await wait_condition(lambda: len(self.votes) >= needed)
        return sum(self.votes.values()) * 2 > needed

    @signal
    def vote(self, who: str, is_for: bool) -> None:
        """Count one vote for each person; the last word counts."""
        self.votes[who] = is_for

    @query
    def standing(self) -> dict[str, bool]:
        """Who has voted, and how."""
        return self.votes


async def main() -> None:
    """Let one be approved, one expire, and a panel vote."""
    async with Engine("sqlite:///approvals.db") as engine:
        first = await engine.start(expense("ann", 12_000, 3_600.0), id="expense-1")
        await first.signal(approved(True))
        print("expense-1:", await first.result())

        second = await engine.start(expense("bob", 9_900, 0.05), id="expense-2")
        print("expense-2:", await second.result())

        panel = await engine.start(Panel.decide(3), id="panel")
        for who, is_for in (("ann", True), ("bob", False), ("eve", True)):
            await panel.signal(Panel.vote(who, is_for))
        print("panel:", await panel.result(), await panel.query(Panel.standing()))


if __name__ == "__main__":
    asyncio.run(main())

"""A user's program whose runs talk, as the tests of the command line use it."""

import asyncio

from durable import (
    Signal,
    checkpoint,
    continue_as_new,
    query,
    run,
    set_state,
    signal,
    update,
    wait_condition,
    workflow,
)

approved = Signal("approved", bool)


@workflow(name="cli_cart")
class Cart:
    def __init__(self) -> None:
        self.items: dict[str, int] = {}
        self.is_paid = False

    @run
    async def shop(self, owner: str) -> dict[str, int]:
        set_state({"owner": owner})
        await wait_condition(lambda: self.is_paid)
        return self.items

    @signal
    def put(self, item: str, n: int = 1) -> None:
        self.items[item] = self.items.get(item, 0) + n

    @query
    def count(self, item: str) -> int:
        print("the query prints")
        return self.items[item]

    @update
    async def pay(self, amount: int) -> str:
        if amount > 100:
            raise ValueError(f"declined\x1b[2J at {amount}")
        self.is_paid = True
        return f"paid {amount}"

    @pay.validator
    def check(self, amount: int) -> None:
        if amount <= 0:
            raise ValueError("pay something")


@workflow(name="cli_member")
async def member(name: str) -> bool:
    return await approved.receive()


@workflow(name="cli_club")
async def club(*names: str) -> list[bool]:
    calls = [member.options(id=f"member-{name}")(name) for name in names]
    return await asyncio.gather(*calls)


@workflow(name="cli_relay", checkpoint_every=5)
async def relay(left: int) -> str:
    if left > 20:
        await asyncio.sleep(0.001)
        continue_as_new(left - 20)
    while left:
        checkpoint(left)
        left -= 1
        await asyncio.sleep(0)
        set_state(left)
        await approved.receive()
    return "done"

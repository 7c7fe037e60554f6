"""Wrong use of child workflows: each marked line must be an error in each checker."""

from __future__ import annotations

import asyncio

from durable import continue_as_new, external, run, start_child, workflow


@workflow
async def pay(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


@workflow
class Cart:
    @run
    async def run(self, customer: str) -> float:
        return 1.0


@workflow
async def order(number: int) -> str:
    await pay("5")  # E
    paid: int = await pay(5)  # E
    first, second = await asyncio.gather(pay(1), Cart.run("bob"))
    text: str = second  # E
    pay.options(task_que="urgent")  # E
    pay.options(parent_close_policy="terminate")  # E
    await pay.options(id="pay-5")("5")  # E
    careless: str = await pay.options(propagate_failures=False)(5)  # E
    await start_child(pay)  # E
    await start_child(5)  # E
    handle = await start_child(pay(5))
    count: int = await handle  # E
    await handle.signal(True)  # E
    external(5)  # E
    continue_as_new(order("1"))  # E
    return f"{paid} {careless} {first} {text} {count}"


@workflow(checkpoint_every="often")  # E
async def checking() -> None: ...

"""An entity for tests: a stock that is called from all sides."""

from __future__ import annotations

import asyncio
from dataclasses import field
from typing import Any

from durable import (
    Entity,
    activity,
    activity_client,
    activity_info,
    entity,
    entity_key,
    exclusive,
    shared,
    sleep,
    workflow,
)
from durable.testing.environment import TestEnvironment

RAN: list[str] = []


class OutOfStock(Exception):
    """What a method raises."""


@activity(name="entities.work", start_to_close_timeout="1h")
async def work(what: str, seconds: float = 1.0) -> str:
    RAN.append(f"begin {what}")
    await asyncio.sleep(seconds)
    RAN.append(f"end {what}")
    return what


@activity(name="entities.refuse", retry=None)
async def refuse(why: str) -> None:
    raise OutOfStock(why)


@activity(name="entities.dawdle", retry=None, start_to_close_timeout="1s")
async def dawdle() -> None:
    await asyncio.sleep(10)


@workflow(name="entities.refusing_child")
async def refusing_child() -> None:
    raise OutOfStock("by a child")


@entity(name="entities.Stock")
class Stock(Entity):
    n: int = 10
    taken: list[str] = field(default_factory=list)

    @exclusive
    async def take(self, who: str, n: int = 1) -> int:
        self.taken.append(who)
        self.n -= n
        await work(who)
        if self.n < 0:
            raise OutOfStock(f"{who} wants {n}")
        return self.n

    @exclusive
    def put(self, n: int = 1) -> int:
        self.n += n
        return self.n

    @exclusive
    def break_it(self) -> int:
        self.n = -1_000
        return len(5)  # type: ignore[arg-type]  # the fault under test

    @exclusive
    async def move(self, other: str, n: int) -> int:
        self.n -= n
        return await Stock[other].put(n)

    @exclusive
    async def move_round(self, *others: str) -> int:
        return await Stock[others[0]].move_round(*others[1:])

    @exclusive
    async def restock_itself(self) -> int:
        return await restock(entity_key(), 1)

    @exclusive
    async def fail_within(self, how: str) -> None:
        if how == "activity":
            await refuse("by an activity")
        elif how == "timeout":
            await dawdle()
        elif how == "child":
            await refusing_child()
        elif how == "cancelled":
            raise asyncio.CancelledError
        else:
            await Stock["b"].fail_within(how.removeprefix("entity "))

    @exclusive
    async def nap(self, seconds: int) -> None:
        await sleep(seconds)

    @shared
    def left(self) -> int:
        return self.n

    @shared
    def whose(self) -> list[str]:
        return [entity_key(), *self.taken]

    @shared
    def fail(self) -> int:
        raise OutOfStock("as asked")


def elapsed(env: TestEnvironment, begun: int) -> float:
    return (env.clock.now() - begun) / 1_000_000


@activity(name="entities.restock", retry=None)
async def restock(key: str, n: int) -> int:
    call = Stock[key].put(n)
    return await activity_client().call(call, update_id=activity_info().idempotency_key)


@workflow(name="entities.order")
async def order(keys: str, n: int = 1) -> list[Any]:
    answers = await asyncio.gather(
        *[Stock[key].take("order", n) for key in keys], return_exceptions=True
    )
    left = [await Stock[key].left() for key in keys]
    return [
        *(repr(a) if isinstance(a, BaseException) else a for a in answers),
        *left,
    ]

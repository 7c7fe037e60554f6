"""A user's program, as the tests of the command line give it to commands."""

import asyncio
from dataclasses import dataclass

from durable import activity, sleep, workflow

SECRET = "sentinel-7f3a"


@dataclass
class Order:
    id: int
    note: str = ""


@activity(name="cli_charge")
async def charge(order: Order) -> str:
    return f"receipt-{order.id}-{order.note}"


@workflow(name="cli_place_order", version="2.0.0")
async def place_order(order: Order, *, gift: bool = False) -> dict[str, str]:
    print("the workflow prints")
    return {"receipt": await charge(order), "gift": str(gift)}


@workflow(name="cli_sleeping")
async def sleeping(order: Order) -> None:
    await charge(order)
    await sleep("1d", summary="until tomorrow")


@workflow(name="cli_failing")
async def failing() -> None:
    await charge(Order(1))
    raise RuntimeError("declined\x1b[31m")


@workflow(name="cli_buggy")
async def buggy(order: Order) -> None:
    await charge(order)
    [][0]


@workflow(name="cli_forever")
async def forever() -> None:
    await asyncio.Event().wait()

"""The shop of the demo: one workflow, five activities, and a program that runs them.

Every activity writes a line to a ledger when it begins and another when it has ended.
The ledger is the outside world: it shows what really ran, whatever a history claims.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from durable import (
    Engine,
    RetryPolicy,
    activity,
    activity_info,
    sleep,
    workflow,
)


@dataclass
class Item:
    """One line of an order."""

    sku: str
    quantity: int
    cents: int


@dataclass
class Order:
    """What a customer wants."""

    id: str
    customer: str
    items: list[Item]


@dataclass
class Shipment:
    """What the shop did about it."""

    order_id: str
    paid_cents: int
    tracking: str


class GatewayDown(Exception):
    """The payment gateway did not answer."""


def note(order_id: str, what: str, phase: str) -> None:
    """Write one line to the ledger; a single append is whole or not there."""
    line = {
        "pid": os.getpid(),
        "order": order_id,
        "what": what,
        "phase": phase,
        "attempt": activity_info().attempt,
    }
    with Path(os.environ["DEMO_LEDGER"]).open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


@activity
async def reserve(order_id: str, item: Item) -> str:
    """Put an item aside in the warehouse."""
    note(order_id, f"reserve {item.sku}", "begin")
    await asyncio.sleep(0.15)
    note(order_id, f"reserve {item.sku}", "end")
    return f"shelf-{len(item.sku)}"


@activity(retry=RetryPolicy(max_attempts=10, initial_interval="200ms"))
async def charge(order: Order) -> int:
    """Take the money. The gateway is down for a moment, for one customer."""
    note(order.id, "charge", "begin")
    await asyncio.sleep(0.15)
    if order.customer.startswith("grace") and activity_info().attempt == 2:
        raise GatewayDown("no answer from the payment gateway")
    note(order.id, "charge", "end")
    return sum(item.quantity * item.cents for item in order.items)


@activity
def pack(order_id: str, shelves: list[str]) -> int:
    """Pack a parcel: a plain function, so it runs in a thread."""
    note(order_id, "pack", "begin")
    time.sleep(0.15)
    note(order_id, "pack", "end")
    return len(shelves)


@activity
async def ship(order_id: str) -> str:
    """Hand the parcel to the carrier."""
    note(order_id, "ship", "begin")
    await asyncio.sleep(0.15)
    note(order_id, "ship", "end")
    return f"TRACK-{order_id[-4:]}"


@activity
async def send_mail(customer: str, order_id: str) -> None:
    """Tell the customer."""
    note(order_id, "send_mail", "begin")
    await asyncio.sleep(0.1)
    note(order_id, "send_mail", "end")


@workflow
async def place_order(order: Order) -> Shipment:
    """The order's whole life, as ordinary async code."""
    shelves = await asyncio.gather(*(reserve(order.id, item) for item in order.items))
    paid = await charge(order)
    await sleep("500ms", summary="the customer may still change their mind")
    await pack(order.id, shelves)
    tracking, _ = await asyncio.gather(
        ship(order.id), send_mail(order.customer, order.id)
    )
    return Shipment(order.id, paid, tracking)


async def main(database: str, orders: list[Order]) -> None:
    """Start every order (or find it started) and wait until all are shipped."""
    async with Engine(database) as engine:
        runs = [await engine.start(place_order(order), id=order.id) for order in orders]
        for run in runs:
            shipment = await run.result()
            print(f"{shipment.order_id} {shipment.paid_cents} {shipment.tracking}")


if __name__ == "__main__":
    placed = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=list[Order])
    asyncio.run(main(sys.argv[1], placed))

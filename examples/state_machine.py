"""An order as a state machine: events, guards, a time limit, an illegal event."""

import asyncio
import dataclasses

from durable import (
    Engine,
    StateMachine,
    UpdateFailedError,
    activity,
)


@dataclasses.dataclass
class Order:
    """What the machine works on."""

    sku: str
    price_cents: int
    receipt: str = ""
    parcel: str = ""


@activity
async def charge(cents: int) -> str:
    """Take the money."""
    return f"receipt over {cents}"


@activity
async def pack(sku: str) -> str:
    """Pack a parcel."""
    return f"parcel with {sku}"


order = StateMachine(
    "order", data=Order, initial="pending", final={"completed", "cancelled"}
)


@order.on_enter("fulfillment")
async def fulfil(order: Order) -> None:
    """Done whenever this state is entered."""
    order.parcel = await pack(order.sku)


def covers_price(order: Order, cents: int) -> bool:
    """A guard only looks."""
    return cents >= order.price_cents


@order.transition("pending", "fulfillment", guard=covers_price)
async def pay(order: Order, cents: int) -> None:
    """An action may call activities; if one fails, nothing has happened."""
    order.receipt = await charge(cents)


order.add_transition("fulfillment", "completed", on="deliver")
order.add_transition("pending", "cancelled", on="cancel")
order.add_transition("pending", "cancelled", after="3d")


async def main() -> None:
    """Send events, one of which is illegal and one not allowed by its guard."""
    print(order.diagram())
    async with Engine("memory://") as engine:
        run = await engine.start(order(Order("tea", 500)), id="order-42")
        for event in (order.fire("deliver"), pay(300), pay(500)):
            try:
                print(f"{event.name}: now {await run.update(event)}")
            except UpdateFailedError as error:
                why = error.__cause__
                print(f"{event.name}: {type(why).__name__}: {why}")
        print(f"the run says {await run.query(order.data())}")
        print(f"deliver: now {await run.update(order.fire('deliver'))}")
        print(f"the result is {await run.result()}, state {await run.state()!r}")


if __name__ == "__main__":
    asyncio.run(main())

"""What becomes of an order: this file knows nothing of HTTP."""

import asyncio

from pydantic import BaseModel, Field

from durable import (
    RetryPolicy,
    Signal,
    activity,
    activity_info,
    logger,
    set_state,
    workflow,
)

from . import payments

APPROVAL_CENTS = 100_000
PATIENCE_SECONDS = 3 * 86_400

approval = Signal("approval", bool)


class Order(BaseModel):
    id: str
    customer: str
    cents: int = Field(gt=0)


class Receipt(BaseModel):
    order_id: str
    status: str
    receipt: str | None = None
    parcel: str | None = None


@activity(retry=RetryPolicy(max_attempts=10), start_to_close_timeout="30s")
def charge(order: Order) -> str:
    """A plain function: it runs in a thread and may block."""
    # Equal in all attempts, so that the provider knows a second one for what it is.
    return payments.charge(activity_info().idempotency_key, order.id, order.cents)


@activity(start_to_close_timeout="30s")
async def ship(order_id: str) -> str:
    await asyncio.sleep(0.05)  # your carrier's client here
    return f"parcel-{order_id}"


async def is_approved(order: Order) -> bool:
    if order.cents < APPROVAL_CENTS:
        return True
    set_state("waits for approval")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await approval.receive()
    except TimeoutError:
        return False


@workflow
async def place_order(order: Order) -> Receipt:
    if not await is_approved(order):
        set_state("declined")
        return Receipt(order_id=order.id, status="declined")
    set_state("is being charged")
    receipt = await charge(order)
    set_state("is being shipped")
    parcel = await ship(order.id)
    set_state("shipped")
    logger.info("shipped")  # said once, however often the run is replayed
    return Receipt(order_id=order.id, status="shipped", receipt=receipt, parcel=parcel)

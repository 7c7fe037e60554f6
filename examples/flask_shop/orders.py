"""What becomes of an order: this file knows nothing of HTTP."""

import time
from dataclasses import dataclass

from durable import (
    RetryPolicy,
    activity,
    activity_info,
    query,
    run,
    signal,
    wait_condition,
    workflow,
)

from . import payments

APPROVAL_CENTS = 100_000
PATIENCE_SECONDS = 3 * 86_400


@dataclass
class Order:
    id: str
    customer: str
    cents: int

    def __post_init__(self) -> None:
        if self.cents <= 0:
            raise ValueError("an order costs something")


@activity(retry=RetryPolicy(max_attempts=10), start_to_close_timeout="30s")
def charge(order: Order) -> str:
    """A plain function: it runs in a thread and may block."""
    # Equal in all attempts, so that the provider knows a second one for what it is.
    return payments.charge(activity_info().idempotency_key, order.id, order.cents)


@activity(start_to_close_timeout="30s")
def ship(order_id: str) -> str:
    time.sleep(0.05)  # your carrier's client here
    return f"parcel-{order_id}"


@workflow
class PlaceOrder:
    """An order as a class: its state is there to be asked for."""

    def __init__(self) -> None:
        self.state = "new"
        self.approved: bool | None = None

    @run
    async def place(self, order: Order) -> dict[str, str]:
        if order.cents >= APPROVAL_CENTS:
            self.state = "waits for approval"
            try:
                await wait_condition(
                    lambda: self.approved is not None, timeout=PATIENCE_SECONDS
                )
            except TimeoutError:
                self.approved = False
            if not self.approved:
                self.state = "declined"
                return {"order_id": order.id, "status": self.state}
        self.state = "is being charged"
        receipt = await charge(order)
        self.state = "is being shipped"
        parcel = await ship(order.id)
        self.state = "shipped"
        return {
            "order_id": order.id,
            "status": self.state,
            "receipt": receipt,
            "parcel": parcel,
        }

    @signal
    def approve(self, is_approved: bool) -> None:
        self.approved = is_approved

    @query
    def status(self) -> str:
        return self.state

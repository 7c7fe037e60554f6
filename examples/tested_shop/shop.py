"""What is tested: an order that is paid, and a question two weeks later."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from durable import Engine, RetryPolicy, Signal, activity, sleep, workflow

APPROVAL_CENTS = 100_000
BOOK = Path("book.txt")  # what the payment provider has heard

approval = Signal("approval", bool)


@dataclass
class Order:
    id: str
    customer: str
    cents: int


class CardDeclined(Exception):
    """The bank said no, and asking again will not help."""


def with_postage(cents: int) -> int:
    return cents if cents >= 5_000 else cents + 490


@activity(retry=RetryPolicy(non_retryable=(CardDeclined,)))
def charge(order: Order, cents: int) -> str:
    with BOOK.open("a") as book:
        print(order.id, cents, file=book)
    return f"receipt-{order.id}"


@activity
async def send_mail(customer: str, text: str) -> None:
    print(f"to {customer}: {text}", flush=True)


async def is_approved() -> bool:
    try:
        async with asyncio.timeout(3 * 86_400):
            return await approval.receive()
    except TimeoutError:
        return False


@workflow
async def place_order(order: Order) -> str:
    cents = with_postage(order.cents)
    if cents >= APPROVAL_CENTS and not await is_approved():
        await send_mail(order.customer, "We cannot take your order.")
        return "declined"
    receipt = await charge(order, cents)
    await send_mail(order.customer, f"Thank you: {receipt}")
    await sleep("14d", summary="until the customer has used it")
    await send_mail(order.customer, "How was it?")
    return receipt


async def main(order: Order) -> None:
    async with Engine(Path("shop.db")) as engine:
        print(await engine.execute(place_order(order), id=order.id))


if __name__ == "__main__":
    asyncio.run(main(Order(id=sys.argv[1], customer="ada", cents=2_000)))

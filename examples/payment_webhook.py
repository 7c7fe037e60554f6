"""A webhook completes a payment: the activity hands out a token, and is gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from durable import (
    ActivityNotFoundError,
    AttemptOverError,
    Engine,
    activity,
    complete_later,
    resource,
    workflow,
)

Deliver = Callable[[bytes], Awaitable[int]]


@dataclass
class Receipt:
    """What the payment service says in the end."""

    payment: str
    cents: int


class PaymentService:
    """Somebody else's service: it takes an order now, and calls back later, twice."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._tasks: set[asyncio.Task[None]] = set()

    async def charge(self, cents: int, reference: str) -> None:
        """Accept a payment; `reference` comes back with the call."""
        task = asyncio.create_task(self._call_back(cents, reference))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call_back(self, cents: int, reference: str) -> None:
        await asyncio.sleep(0.2)
        paid = {"reference": reference, "payment": "p-77", "cents": cents}
        for _ in range(2):  # as such services do
            print("  webhook answers", await self._deliver(json.dumps(paid).encode()))


@activity(start_to_close_timeout="1h")
async def charge(
    cents: int, service: PaymentService = resource(PaymentService)
) -> Receipt:
    """Ask for a payment; whoever has the token says how it went."""
    later = await complete_later()
    await service.charge(cents, later.token)
    return later.outcome  # type: ignore[no-any-return]  # it stands for the receipt


@workflow
async def checkout(cents: int) -> str:
    """Wait for the payment, however long that takes and whoever is restarted."""
    receipt = await charge(cents)
    return f"paid {receipt.cents / 100:.2f} by {receipt.payment}"


def make_webhook(find_engine: Callable[[], Engine]) -> Deliver:
    """Make what a web framework would call for each request; it gives a status."""

    async def webhook(body: bytes) -> int:
        paid = json.loads(body)
        receipt = Receipt(paid["payment"], paid["cents"])
        try:
            await find_engine().activities.complete(paid["reference"], receipt)
        except (ActivityNotFoundError, AttemptOverError):
            return 410  # it is done already, or nobody wants it any more
        return 204

    return webhook


async def main() -> None:
    """Pay for one order."""
    engines: list[Engine] = []
    service = PaymentService(make_webhook(lambda: engines[0]))
    async with Engine("memory://", resources={PaymentService: service}) as engine:
        engines.append(engine)
        run = await engine.start(checkout(4_200), id="order-1")
        print(" ", await run.result())
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    asyncio.run(main())

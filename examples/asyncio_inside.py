"""Plain asyncio inside a workflow: races, task groups, timeouts, a semaphore."""

import asyncio

from durable import Engine, activity, random, workflow


@activity
async def quote(dealer: str, seconds: float) -> str:
    """Ask one dealer; some are slow."""
    await asyncio.sleep(seconds)
    return f"{dealer} offers {len(dealer) * 100}"


@activity
async def book(offer: str) -> str:
    """Take an offer."""
    return f"booked: {offer}"


@workflow
async def best_offer(dealers: dict[str, float]) -> list[str]:
    """Take the first answer, cancel the rest, then book within a time limit."""
    asked = [asyncio.create_task(quote(name, delay)) for name, delay in dealers.items()]
    done, late = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    winner = next(iter(done)).result()

    booked: list[str] = []
    places = asyncio.Semaphore(2)

    async def book_one(number: int) -> None:
        async with places:
            booked.append(await book(f"{winner} (seat {number})"))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in sorted(random().sample(range(1, 50), k=3)):
            group.create_task(book_one(number))
    return booked


async def main() -> None:
    """Run it."""
    async with Engine("memory://") as engine:
        dealers = {"Slow & Sons": 30.0, "Swift": 0.01, "Tardy Ltd": 20.0}
        for line in await engine.execute(best_offer(dealers)):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())

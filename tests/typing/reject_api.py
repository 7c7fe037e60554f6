"""Wrong use of the public face: each marked line must be an error in each checker."""

from __future__ import annotations

from durable import Engine, RetryPolicy, activity, step, workflow


@activity
async def charge(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


@activity
def pack(items: list[str]) -> str:
    return ",".join(items)


@activity(run_in="process")
def compress(data: bytes) -> bytes:
    return data


@activity(run_in="fibre")  # E
def spin() -> None: ...


@activity(effect="twice")  # E
def twice() -> None: ...


@activity(effect="once", in_doubt="ask")  # E
def asks() -> None: ...


@activity(effect="once", verify=3)  # E
def verified() -> None: ...


@activity(priority="high", fairness_key=3)  # E
def urgent() -> None: ...


@workflow
async def place_order(order_id: int, *, gift: bool = False) -> str:
    await charge("5")  # E
    await compress("5")  # E
    await charge(5, curency="USD")  # E
    await charge()  # E
    number: int = await charge(5)  # E
    await pack("a")  # E
    weight: float = await pack(["a"])  # E
    await charge.options(sumary="x")(5)  # E
    await charge.options(start_to_close_timeout=[1])(5)  # E
    return f"{number} {weight}"


@workflow  # E
def not_async(order_id: int) -> str:
    return str(order_id)


async def main(engine: Engine) -> None:
    place_order("a")  # E
    place_order(1, gft=True)  # E
    run = await engine.start(place_order(1))
    number: int = await run.result()  # E
    await engine.start(place_order)  # E
    await engine.start(charge(1))  # E
    await engine.start(place_order(1), idd="x")  # E
    await engine.start_activity(charge)  # E
    await engine.start_activity(charge(1), retry=None)  # E
    await engine.activities.resolve("done", token="t")  # E
    print(number, RetryPolicy(max_attempt=3))  # E


async def steps(prompt: str) -> str:
    def takes(number: int) -> str:
        return f"{number}{prompt}"

    await step("a", takes)  # E
    await step("a", 5)  # E
    await step(lambda: 1, "a")  # E
    await step("a", lambda: 1, retyr=None)  # E
    return await step("a", lambda: 1)  # E

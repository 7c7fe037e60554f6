"""Wrong use of sagas, state machines and flows: each checker must reject it."""

from __future__ import annotations

import dataclasses

from durable import Saga, StateMachine, activity, par, seq, workflow


@dataclasses.dataclass
class Order:
    cents: int


class Receipt: ...


@activity
async def refund(receipt: Receipt, order: Order) -> None: ...


@activity
async def release(seat: int) -> None: ...


@activity(compensate=refund)  # E
async def wrong_argument(order: int) -> Receipt:
    return Receipt()


@activity(compensate=refund)  # E
async def wrong_result(order: Order) -> int:
    return order.cents


@activity(compensate=release)  # E
async def wrong_result_alone(order: Order) -> Receipt:
    return Receipt()


@activity(compensate="release")  # E
async def no_activity(order: Order) -> int:
    return 1


@activity(compensate=release)
async def reserve(order: Order) -> int:
    return 1


@workflow
async def travel(order: Order) -> None:
    await reserve(5)  # E
    async with Saga(parallel="yes") as saga:  # E
        saga.add_compensation(release, "five")  # E
        saga.add_compensation(release)  # E
    Saga().add_step(lambda: reserve(order), refund)  # E
    Saga().add_step(5)  # E


machine = StateMachine("rejected", data=Order, initial="new", final={"done"})


def of_text(text: str) -> bool:
    return bool(text)


@machine.transition("new", "done")
async def pay(order: Order, cents: int) -> None: ...


machine(5)  # E
pay("much")  # E
pay()  # E
machine.add_state("paid", on_enter=of_text)  # E
machine.add_transition("new", "done", guard=of_text)  # E
machine.add_transition("new", "done", untill="3d")  # E
StateMachine("no.initial", data=Order)  # E


async def total(both: tuple[int, str]) -> float:
    return len(both)


seq(reserve, total)  # E
checkout = seq(par(reserve, reserve), par(total, total))  # E
par(5, reserve)  # E

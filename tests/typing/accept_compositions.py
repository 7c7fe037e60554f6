"""Good use of sagas, state machines and flows: no checker may object."""

from __future__ import annotations

import dataclasses
from typing import Any, assert_type

from durable import (
    Engine,
    Flow,
    Saga,
    StateMachine,
    UpdateCall,
    WorkflowCall,
    activity,
    choice,
    fail,
    need,
    never,
    par,
    provide,
    seq,
    skip,
    workflow,
)


@dataclasses.dataclass
class Order:
    cents: int


class Receipt: ...


class Declined(Exception): ...


# --- compensations --------------------------------------------------------------------


@activity
async def refund(receipt: Receipt, order: Order) -> None: ...


@activity
async def release(seat: int) -> None: ...


@activity
def credit(account: str, cents: int) -> None: ...


@activity
async def close_valve() -> None: ...


@activity(compensate=refund, retry=None)
async def charge(order: Order) -> Receipt:
    return Receipt()


@activity(compensate=release)
async def reserve(show: str, row: int = 1) -> int:
    return row


@activity(compensate=release, name="reserve_in_a_thread")
def reserve_in_a_thread(show: str, row: int = 1) -> int:
    return row


@activity(compensate=credit)
async def debit(account: str, cents: int) -> None: ...


@activity(compensate=close_valve)
async def open_valve() -> None: ...


@activity(compensate=None)
async def plain(order: Order) -> int:
    return order.cents


async def by_code(what: str, *, loud: bool = False) -> None: ...


@workflow
async def child(order: Order) -> str:
    return "done"


@workflow
async def travel(order: Order) -> list[Any]:
    async with Saga(parallel=True, on_cancel=False) as saga:
        assert_type(saga, Saga)
        assert_type(await charge(order=order), Receipt)
        assert_type(await reserve("hamlet", row=3), int)
        assert_type(await reserve_in_a_thread(show="hamlet"), int)
        await debit(account="ada", cents=5)
        await charge.options(retry=None)(order)
        await open_valve()
        saga.add_compensation(release, 5)
        saga.add_compensation(by_code, "x", loud=True)
        saga.add_compensation(child, order)
        saga.point_of_no_return()
    steps = (
        Saga().add_step(lambda: plain(order), release).add_step(lambda: child(order))
    )
    return await steps.execute()


# --- state machines -------------------------------------------------------------------

machine = StateMachine("typed", data=Order, initial="new", final={"done"})
names = StateMachine("typed.names", data=list[str], initial="new", version="1.0.0")


def covers(order: Order, cents: int) -> bool:
    return cents >= order.cents


@machine.on_enter("paid")
async def entering(order: Order) -> None: ...


@machine.transition("new", "paid", guard=covers)
async def pay(order: Order, cents: int, *, tip: int = 0) -> None: ...


@machine.transition({"new", "paid"}, "done")
def close(order: Order) -> Order:
    return order


machine.add_state("late", on_enter=lambda order: Order(order.cents + 1))
machine.add_transition("new", "late", after="3d", guard=lambda order: order.cents > 3)
machine.add_transition("late", "done", on="end", action=lambda order: None)


async def use(engine: Engine) -> None:
    assert_type(machine, StateMachine[Order])
    assert_type(names, StateMachine[list[str]])
    assert_type(machine(Order(1)), WorkflowCall[Order])
    assert_type(pay(5, tip=1), UpdateCall[str])
    run = await engine.start(machine(Order(1)), id="x")
    assert_type(await run.update(pay(5)), str)
    assert_type(await run.update(machine.fire("end")), str)
    assert_type(await run.query(machine.state()), str)
    assert_type(await run.query(machine.data()), Order)
    assert_type(await run.result(), Order)


# --- flows ----------------------------------------------------------------------------


async def total(both: tuple[int, str]) -> float:
    return len(both)


async def sign(text: str) -> str:
    return text


async def sign_number(number: int) -> str:
    return f"{number}"


@workflow
async def flows(order: Order) -> float:
    checkout = seq(par(plain, child), total)
    assert_type(checkout, Flow[Order, float])
    checkout.check()
    assert_type(choice(plain, child), Flow[Order, int | str])
    assert_type(seq(plain, provide("x"), need("x")), Flow[Order, int])
    assert_type(seq(skip(), plain), Flow[Order, int])
    assert_type(seq(need("x"), plain, sign_number), Flow[Order, str])
    assert_type(choice(child, seq(plain, fail(Declined))), Flow[Order, str])
    assert_type(choice(never(), seq(child, skip())), Flow[Order, str])
    assert_type(par(plain, plain, plain), Flow[Order, tuple[int, int, int]])
    assert_type(seq(*[sign, sign]), Flow[str, str])
    many = [plain, plain]
    assert_type(par(*many), Flow[Order, tuple[int, ...]])
    return await checkout(order)

"""Sagas, state machines and flows in an engine: restarts, cancellation, mocks."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from durable import (
    CompensationFailed,
    Engine,
    IllegalTransition,
    RunStatus,
    Saga,
    StateMachine,
    UpdateFailedError,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowFailedError,
    activity,
    choice,
    never,
    par,
    seq,
    sleep,
    workflow,
)
from durable.testing.environment import TestEnvironment

DONE: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    DONE.clear()


class Refused(Exception):
    """What compensations and payments raise."""


@activity(name="sagas.release", retry=None)
async def release(seat: str) -> None:
    DONE.append(f"release {seat}")
    await asyncio.sleep(40)
    if seat == "stuck":
        raise Refused(seat)
    DONE.append(f"released {seat}")


@activity(name="sagas.book", compensate=release, retry=None)
async def book(seat: str) -> str:
    DONE.append(f"book {seat}")
    return seat


@activity(
    name="sagas.stubborn",
    compensate=release,
    retry=None,
    start_to_close_timeout="1h",
)
async def stubborn(seat: str) -> str:
    """Finish although it was asked to stop."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        DONE.append("asked to stop")
    return seat


@activity(name="sagas.pay", retry=None)
async def pay(cents: int) -> None:
    raise Refused(f"{cents}")


@workflow(name="sagas.travel")
async def travel(seats: list[str]) -> None:
    async with Saga():
        for seat in seats:
            await book(seat)
        await pay(5)


@workflow(name="sagas.waiting")
async def waiting() -> None:
    async with Saga():
        await book("a")
        await stubborn("b")


async def test_undoing_goes_on_after_a_restart(database: str) -> None:
    async with TestEnvironment(database, drain_timeout="90s") as env:
        await env.start(travel(["a", "b", "c"]), id="w")
        await env.sleep(30)
    assert DONE == ["book a", "book b", "book c", "release c", "released c"]
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=travel)
        with pytest.raises(WorkflowFailedError) as caught:
            await run.result()
    assert isinstance(caught.value.__cause__, Refused)
    assert DONE[5:] == ["release b", "released b", "release a", "released a"]


async def test_the_handle_shows_every_error_and_the_first_cause(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(travel(["stuck", "free", "stuck"]))
        with pytest.raises(WorkflowFailedError) as caught:
            await run.result()
    failed = caught.value.__cause__
    assert isinstance(failed, CompensationFailed)
    assert [repr(error) for error in failed.errors] == ["Refused('stuck')"] * 2
    assert repr(failed.__cause__) == "Refused('5')"
    assert "released free" in DONE


async def test_a_cancelled_step_that_finishes_all_the_same_is_undone() -> None:
    async with TestEnvironment() as env:
        run = await env.start(waiting())
        await env.sleep(5)
        await run.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await run.result()
    assert DONE == [
        "book a",
        "asked to stop",
        "release b",
        "released b",
        "release a",
        "released a",
    ]


async def test_a_terminated_run_undoes_nothing() -> None:
    async with TestEnvironment() as env:
        run = await env.start(waiting())
        await env.sleep(5)
        await run.terminate("now")
        await env.settle()
    assert [line for line in DONE if line.startswith("release")] == []


async def test_compensations_can_be_mocked() -> None:
    undone: list[str] = []
    async with TestEnvironment(mocks={release: undone.append}) as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(travel(["a", "b"]))
    assert undone == ["b", "a"]


async def test_an_engine_of_some_definitions_knows_what_undoes_them() -> None:
    async with TestEnvironment(definitions=[travel, book, pay]) as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(travel(["a"]))
    assert DONE[-1] == "released a"


# --- state machines -------------------------------------------------------------------


@dataclasses.dataclass
class Visit:
    seat: str
    log: list[str] = dataclasses.field(default_factory=list)


visit = StateMachine("sagas.visit", data=Visit, initial="asked", final={"over"})


@visit.on_enter("booked")
async def on_booked(visit: Visit) -> None:
    visit.log.append(await book(visit.seat))


visit.add_transition("asked", "booked", on="accept")
visit.add_transition("booked", "over", after="3d")
visit.add_transition("booked", "asked", on="forget")


async def test_a_machine_goes_on_after_restarts(database: str) -> None:
    async with TestEnvironment(database) as env:
        await env.start(visit(Visit("a")), id="w")
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=visit)
        assert await run.update(visit.fire("accept")) == "booked"
        await env.sleep("2d")
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=visit)
        assert await run.state() == "booked"
        assert await run.query(visit.data()) == Visit("a", ["a"])
        with pytest.raises(UpdateFailedError) as caught:
            await run.update("accept")
        assert isinstance(caught.value.__cause__, IllegalTransition)
        assert caught.value.__cause__.state == "booked"
        await env.sleep("25h")
        assert await run.result() == Visit("a", ["a"])
        assert await run.query(visit.state()) == "over"
        with pytest.raises(WorkflowClosedError):
            await run.update(visit.fire("accept"))


async def test_senders_hear_when_a_machine_is_cancelled_while_they_wait() -> None:
    slow = StateMachine("sagas.slow", data=int, initial="a", final="z")

    async def take_long(data: int) -> None:
        await sleep("1d")

    slow.add_transition("a", "z", on="go", action=take_long)
    async with TestEnvironment() as env:
        run = await env.start(slow(1))
        sent = await run.start_update(slow.fire("go"))
        await run.cancel()
        with pytest.raises(UpdateFailedError, match="ended before its handler"):
            await sent.result()
        assert (await run.describe()).status is RunStatus.CANCELLED


async def test_two_senders_of_one_event_cannot_both_have_it() -> None:
    async with Engine("memory://") as engine:
        run = await engine.start(visit(Visit("a")))
        answers = await asyncio.gather(
            *(run.update(visit.fire("accept")) for _ in range(5)),
            return_exceptions=True,
        )
        await run.terminate()
    assert answers.count("booked") == 1
    refused = [a.__cause__ for a in answers if isinstance(a, UpdateFailedError)]
    assert [type(why) for why in refused] == [IllegalTransition] * 4


# --- flows ----------------------------------------------------------------------------


@workflow(name="sagas.child")
async def child(seat: str) -> str:
    await sleep("1h")
    return f"child of {seat}"


@workflow(name="sagas.patient")
async def patient(seat: str) -> None:
    await sleep("10d")


async def last(found: tuple[str, str]) -> str:
    return found[-1]


flow = seq(par(book, child), last)
racing = choice(seq(child, book), patient, never())


@workflow(name="sagas.flowing")
async def flowing(seat: str) -> list[str | None]:
    return [await flow(seat), await racing(seat)]


async def test_flows_run_activities_and_children(database: str) -> None:
    async with TestEnvironment(database) as env:
        await env.start(flowing("a"), id="w")
        await env.sleep("90m")
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=flowing)
        assert await run.result() == ["child of a", "child of a"]
        others = await env.list(workflow_type="sagas.patient")
        await env.settle()
        assert [run.status for run in others] == [RunStatus.CANCELLED]
    assert DONE == ["book a", "book child of a"]

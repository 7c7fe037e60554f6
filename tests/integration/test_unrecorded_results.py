"""A function that has returned is not run again because its result is no data."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from durable import (
    DurableError,
    RunStatus,
    WorkflowStuckError,
    activity,
    workflow,
)
from durable.client.handle import Handle
from durable.errors import InvalidCallError, PayloadError
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment

CHARGED: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CHARGED.clear()


@dataclass
class Paid:
    receipt: str


class Opaque:
    """No data at all."""


ODD: dict[str, Any] = {
    "big": "x" * 3_000_000,
    "type": 5,
    "nan": float("nan"),
    "surrogate": "\ud800",
    "object": Opaque(),
    "tuple": ("a", 1),
}
FINE = "fine"


@activity(name="unrecorded.charge")
async def charge(kind: str) -> str:
    CHARGED.append(kind)
    result: str = {FINE: FINE, **ODD}[kind]
    return result


@activity(name="unrecorded.charge_in_thread")
def charge_in_thread(kind: str) -> str:
    CHARGED.append(kind)
    result: str = {FINE: FINE, **ODD}[kind]
    return result


@workflow(name="unrecorded.order")
async def order(kind: str) -> str:
    return str(await charge(kind))


@workflow(name="unrecorded.order_in_thread")
async def order_in_thread(kind: str) -> str:
    return str(await charge_in_thread(kind))


async def stuck_by(run: Handle[Any]) -> str:
    with pytest.raises(WorkflowStuckError) as stuck:
        await run.result()
    return str(stuck.value)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("flow", [order, order_in_thread])
async def test_a_result_that_cannot_be_recorded_parks_and_is_never_charged_again(
    kind: str, flow: Any, database: str
) -> None:
    definitions = [order, order_in_thread, charge, charge_in_thread]
    async with TestEnvironment(database, definitions=definitions) as env:
        run = await env.start(flow(kind), id="o")
        text = await stuck_by(run)
        assert "'unrecorded.charge" in text
        assert "test_unrecorded_results.py:" in text
        assert [row.state for row in await run.attempts()] == [AttemptState.RETURNED]
    for _ in range(2):  # restarts change nothing while the code is as it was
        async with TestEnvironment(
            database, definitions=definitions, clock=env.clock
        ) as env:
            await env.sleep("1d")
            assert "is not run again" in await stuck_by(await env.get("o"))
    assert [kind] == CHARGED


async def test_a_kept_result_goes_on_once_the_annotation_is_mended(
    database: str,
) -> None:
    @activity(name="unrecorded.charge")
    async def mended(kind: str) -> int:
        raise AssertionError("was charged again")

    @workflow(name="unrecorded.order")
    async def mended_order(kind: str) -> str:
        return str(await mended(kind))

    async with TestEnvironment(database, definitions=[order, charge]) as env:
        await stuck_by(await env.start(order("type"), id="o"))
    async with TestEnvironment(
        database, definitions=[mended_order, mended], clock=env.clock
    ) as env:
        run = await env.get("o")
        assert await run.result() == "5"
        assert (await run.attempts())[0].state is AttemptState.COMPLETED
    assert CHARGED == ["type"]


async def test_a_value_that_would_change_waits_for_its_exact_type(
    database: str,
) -> None:
    def app(annotation: Any) -> list[Any]:
        async def charge(n: int) -> Any:
            CHARGED.append("tuple")
            return ("receipt", n)

        charge.__annotations__["return"] = annotation
        made = activity(name="unrecorded.pair")(charge)

        @workflow(name="unrecorded.pairs")
        async def pairs() -> str:
            return repr(await made(1))

        return [pairs, made]

    definitions = app(Any)
    async with TestEnvironment(database, definitions=definitions) as env:
        await stuck_by(await env.start(definitions[0](), id="o"))
    async with TestEnvironment(database, definitions=app(Any), clock=env.clock) as env:
        await stuck_by(await env.get("o"))  # a list is not what it returned
    exact = app(tuple[str, int])
    async with TestEnvironment(database, definitions=exact, clock=env.clock) as env:
        run = await env.get("o")
        assert await run.result() == "('receipt', 1)"
    assert CHARGED == ["tuple"]


async def test_siblings_end_before_the_run_parks(database: str) -> None:
    @activity(name="unrecorded.slow")
    async def slow() -> str:
        CHARGED.append("slow")
        await asyncio.sleep(30)
        return "slow"

    @workflow(name="unrecorded.both")
    async def both() -> str:
        return "".join(await asyncio.gather(charge("type"), slow()))

    async with TestEnvironment(database, definitions=[both, charge, slow]) as env:
        run = await env.start(both(), id="o")
        await stuck_by(run)
        kinds = [type(event.attributes).__name__ for event in await run.history()]
        assert kinds.count("ActivityTaskCompleted") == 1
    assert sorted(CHARGED) == ["slow", "type"]


@pytest.mark.parametrize("kind", ["object", "type"])
async def test_an_operator_gives_the_result(kind: str, database: str) -> None:
    async with TestEnvironment(database, definitions=[order, charge]) as env:
        run = await env.start(order(kind), id="o")
        await stuck_by(run)
        with pytest.raises(PayloadError):
            await run.complete_activity("1", 7)
        with pytest.raises(InvalidCallError, match=r"1 \(unrecorded.charge\)"):
            await run.complete_activity("2", "paid")
        await run.complete_activity("1", "paid")
        assert await healed(env, run) == "paid"
        with pytest.raises(DurableError):
            await run.retry_activity("1")
    assert [kind] == CHARGED


async def test_what_an_operator_decided_counts_for_more_than_what_was_kept(
    database: str,
) -> None:
    @activity(name="unrecorded.charge")
    async def mended(kind: str) -> int | str:
        CHARGED.append("again")
        return "charged again"

    @workflow(name="unrecorded.order")
    async def mended_order(kind: str) -> str:
        return str(await mended(kind))

    async with TestEnvironment(database, definitions=[order, charge]) as env:
        for id in ("given", "again", "kept"):
            await stuck_by(await env.start(order("type"), id=id))
    async with TestEnvironment(database, worker=False, clock=env.clock) as engine:
        await (await engine.get("given")).complete_activity("1", "paid")
        await (await engine.get("again")).retry_activity("1")
    async with TestEnvironment(
        database, definitions=[mended_order, mended], clock=env.clock
    ) as env:
        results = {
            id: await healed(env, await env.get(id))
            for id in ("given", "again", "kept")
        }
    assert results == {"given": "paid", "again": "charged again", "kept": "5"}
    assert CHARGED == ["type", "type", "type", "again"]


async def test_an_operator_has_it_run_again(database: str) -> None:
    async with TestEnvironment(database, definitions=[order, charge]) as env:
        run = await env.start(order("object"), id="o")
        await stuck_by(run)
        ODD["object"], odd = "paid", ODD["object"]
        try:
            await run.retry_activity("1")
            assert await healed(env, run) == "paid"
        finally:
            ODD["object"] = odd
        rows = await run.attempts()
        assert [(row.attempt, row.state) for row in rows] == [
            (1, AttemptState.RETURNED),
            (2, AttemptState.COMPLETED),
        ]
    assert CHARGED == ["object", "object"]


async def healed(env: TestEnvironment, run: Handle[Any]) -> Any:
    """The result of a run that was parked a moment ago."""
    for _ in range(60):
        await env.sleep("1s")
        if (await run.describe()).stuck is None:
            break
    return await run.result()


async def test_a_cancelled_activity_is_not_waited_for(database: str) -> None:
    @workflow(name="unrecorded.impatient")
    async def impatient() -> str:
        task = asyncio.ensure_future(charge("type"))
        await asyncio.sleep(5)
        task.cancel()
        return "gone on"

    async with TestEnvironment(database, definitions=[impatient, charge]) as env:
        run = await env.start(impatient(), id="o")
        await stuck_by(run)
        await run.cancel()
        assert (await run.describe()).status is RunStatus.RUNNING
    assert CHARGED == ["type"]


# --- what the workflow itself gives and takes -----------------------------------------


async def test_a_workflows_result_parks_and_heals(database: str) -> None:
    @workflow(name="unrecorded.flow")
    async def flow() -> str:
        return 5  # type: ignore[return-value]  # the fault under test

    @workflow(name="unrecorded.flow")
    async def mended() -> int:
        return 5

    async with TestEnvironment(database, definitions=[flow]) as env:
        text = await stuck_by(await env.start(flow(), id="o"))
        assert "The result of 'unrecorded.flow'" in text
        assert "test_unrecorded_results.py:" in text
    async with TestEnvironment(database, definitions=[mended], clock=env.clock) as env:
        run = await env.get("o")
        assert await run.result() == 5


@pytest.mark.parametrize("arguments", [(), ("a", "b"), (5,)])
async def test_wrong_arguments_park_at_the_line_of_the_call(
    arguments: tuple[Any, ...], database: str
) -> None:
    @workflow(name="unrecorded.wrong")
    async def wrong() -> str:
        return await charge(*arguments)

    async with TestEnvironment(database, definitions=[wrong, charge]) as env:
        text = await stuck_by(await env.start(wrong(), id="o"))
        assert "unrecorded.charge" in text
        assert "return await charge(*arguments)" in text
    assert CHARGED == []


async def test_arguments_that_no_longer_fit_wait_for_right_code(database: str) -> None:
    @activity(name="unrecorded.charge")
    async def changed(kind: str, more: int) -> str:
        raise AssertionError("was called")

    @workflow(name="unrecorded.later")
    async def later() -> str:
        return await charge("fine")

    async with TestEnvironment(database, definitions=[later, changed]) as env:
        text = await stuck_by(await env.start(later(), id="o"))
        assert "was not called" in text
    async with TestEnvironment(
        database, definitions=[later, charge], clock=env.clock
    ) as env:
        run = await env.get("o")
        assert await run.result() == "fine"
    assert CHARGED == ["fine"]

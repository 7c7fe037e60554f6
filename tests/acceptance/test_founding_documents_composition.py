"""Sagas, timers, children, flows: what was asked for (see `founding_rows`)."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    ChildCancellationType,
    CompensationFailed,
    Flow,
    IllegalTransition,
    ParentClosePolicy,
    RunStatus,
    Saga,
    Signal,
    StateMachine,
    UpdateFailedError,
    Workflow,
    WorkflowBuilder,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    choice,
    info,
    need,
    never,
    now,
    par,
    provide,
    schedule_spec,
    seq,
    set_query_handler,
    skip,
    sleep,
    start_child,
    start_timer,
    workflow,
)
from durable.errors import DefinitionError, InvalidCallError
from durable.testing import Driver, TestEnvironment
from tests.acceptance.founding_rows import shows
from tests.sizes import examples

DID: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    DID.clear()


class Refused(Exception):
    """What activities raise here."""


# --- state machines -------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    cents: int
    paid: int = 0


def is_covered(order: Order, cents: int) -> bool:
    return cents >= order.cents


machine = StateMachine(
    "founding.order", data=Order, initial="pending", final={"completed"}
)
machine.add_state("payment_processing")
machine.add_state("fulfillment")


@machine.transition("pending", "payment_processing", guard=is_covered)
async def pay(order: Order, cents: int) -> None:
    order.paid = cents


machine.add_transition("payment_processing", "fulfillment", on="clear")
machine.add_transition("fulfillment", "completed", after="1d")


@shows(
    "state machine",
    "`StateMachine` with `add_state`, `add_transition` (`guard=`), `initial=`,"
    " `final=`. An engine starts it like any workflow; an illegal transition is"
    " refused by `IllegalTransition`, and recorded",
)
async def test_s1_2_2_1_order_goes_its_way_and_an_illegal_step_is_recorded() -> None:
    async with TestEnvironment() as env:
        run = await env.start(machine(Order(500)))
        for wrong in (machine.fire("clear"), pay(499)):
            with pytest.raises(UpdateFailedError) as caught:
                await run.update(wrong)
            assert isinstance(caught.value.__cause__, IllegalTransition)
        assert await run.update(pay(500)) == "payment_processing"
        assert await run.update("clear") == "fulfillment"
        assert await run.result() == Order(500, paid=500)
        kinds = [type(event.attributes).__name__ for event in await run.history()]
    assert kinds.count("WorkflowExecutionUpdateCompleted") == 4
    assert kinds.count("StateTransitioned") == 4


@shows(
    "workflow data",
    "`data=` is any type with a JSON form; `run.workflow_id`, `run.state()` and the"
    " `status` of `run.describe()`",
)
async def test_s1_2_2_1_instance_has_id_data_state_and_status() -> None:
    async with TestEnvironment() as env:
        run = await env.start(machine(Order(500)), id="order-42")
        await run.update(pay(700))
        assert (run.workflow_id, await run.state()) == (
            "order-42",
            "payment_processing",
        )
        assert await run.query(machine.data()) == Order(500, paid=700)
        assert (await run.describe()).status is RunStatus.RUNNING


# --- sagas ----------------------------------------------------------------------------


@activity(name="founding.undo", retry=None)
async def undo(step: str) -> None:
    DID.append(f"undo {step}")
    if "fixed" in step:
        raise Refused(f"cannot undo {step}")
    await asyncio.sleep(50)


@activity(name="founding.do", compensate=undo, retry=None)
async def do(step: str) -> str:
    if step == "3":
        raise Refused("step 3")
    DID.append(step)
    return step


@workflow(name="founding.saga")
async def saga_of(steps: list[str]) -> None:
    async with Saga():
        for step in steps:
            await do(step)


@shows(
    "saga",
    "`async with Saga()` around activities with `compensate=`; the error itself goes"
    " on, or `CompensationFailed` with all `errors` and the first one as its cause",
)
async def test_s1_2_2_2_third_step_fails_and_two_and_one_are_undone() -> None:
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(saga_of(["1", "2", "3"]))
    assert isinstance(caught.value.__cause__, Refused)
    assert DID == ["1", "2", "undo 2", "undo 1"]


@shows("saga")
async def test_s1_2_2_2_both_undos_fail_and_both_are_told_beside_the_cause() -> None:
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(saga_of(["1 fixed", "2 fixed", "3"]))
    failed = caught.value.__cause__
    assert isinstance(failed, CompensationFailed)
    assert [str(error) for error in failed.errors] == [
        "cannot undo 2 fixed",
        "cannot undo 1 fixed",
    ]
    assert str(failed.__cause__) == "step 3"
    assert isinstance(failed.__cause__, Refused)


@activity(name="founding.give_back")
async def give_back(step: str) -> None:
    DID.append(f"back {step}")
    await asyncio.sleep(50)


@workflow(name="founding.saga_steps")
async def saga_steps() -> None:
    saga = Saga()
    saga.add_step(lambda: do("1"), give_back)
    saga.add_step(lambda: do("2"), give_back)
    saga.add_step(lambda: do("3"))
    await saga.execute()


@shows(
    "saga steps",
    "`Saga().add_step(do, undo)` and `execute()`; undoing goes on after a crash",
)
@pytest.mark.slow
async def test_s1_5_2_2_process_that_dies_while_it_undoes_undoes_the_rest(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'saga.db'}"
    async with TestEnvironment(url, drain_timeout="1ms") as env:
        await env.start(saga_steps(), id="w")
        await env.sleep(60)  # into the second undo
        assert DID == ["1", "2", "back 2", "back 1"]
    async with TestEnvironment(url, clock=env.clock) as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await env.get("w")).result()
    assert DID == ["1", "2", "back 2", "back 1", "back 1"]
    assert str(caught.value.__cause__) == "step 3"


@shows("auto rollback", "a `Saga` undoes on failure and on cancellation (`on_cancel=`)")
@pytest.mark.parametrize("on_cancel", [True, False])
async def test_s1_saga_is_undone_on_cancellation_and_that_is_not_cancelled(
    on_cancel: bool,
) -> None:
    @workflow(name="founding.cancelled_saga")
    async def cancelled_saga() -> None:
        async with Saga(on_cancel=on_cancel):
            await do("1")
            await do("2")
            await sleep("1d")

    async with TestEnvironment() as env:
        run = await env.start(cancelled_saga())
        await env.sleep(1)
        await run.cancel()
        await env.sleep(10)
        if on_cancel:
            await run.cancel("again")
        with pytest.raises(WorkflowCancelledError):
            await run.result()
    assert ["1", "2", *(["undo 2", "undo 1"] if on_cancel else [])] == DID


# --- timers ---------------------------------------------------------------------------


@workflow(name="founding.reminder")
async def reminder() -> list[Any]:
    began = now()
    timer, other = start_timer("3d", summary="remind"), start_timer("9d")
    set_query_handler("is_triggered", lambda: timer.is_triggered)
    found: list[Any] = [timer.is_triggered, await timer.wait(), timer.is_triggered]
    found.append((now() - began).total_seconds())
    return [*found, other.cancel(), other.is_triggered, timer.cancel()]


@shows(
    "timer object",
    "`start_timer()` gives a `Timer`: `wait()`, `is_triggered`, `cancel()`. It is"
    " recorded",
)
@pytest.mark.slow
async def test_s1_4_2_1_timer_is_triggered_once_across_a_restart(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'timer.db'}"
    async with TestEnvironment(url) as env:
        run = await env.start(reminder(), id="w")
        await env.sleep("1d")
        assert await run.query("is_triggered") is False
    async with TestEnvironment(url, clock=env.clock) as env:
        run = await env.get("w", workflow=reminder)
        assert await run.query("is_triggered") is False
        assert await run.result() == [False, True, True, 3 * 86_400, True, False, False]
        assert await run.query("is_triggered") is True
        kinds = [type(event.attributes).__name__ for event in await run.history()]
    assert [kind for kind in kinds if kind.startswith("Timer")] == [
        "TimerStarted",
        "TimerStarted",
        "TimerFired",
        "TimerCanceled",
    ]


@workflow(name="founding.tick")
async def tick() -> str:
    return now().isoformat()


@shows(
    "timers",
    "microseconds, never early; kept in the database; `@schedule` and"
    " `engine.schedules` with cron, calendars and time zones",
)
async def test_s1_timers_are_never_early_and_late_by_nothing_in_virtual_time() -> None:
    @workflow(name="founding.short")
    async def short() -> list[float]:
        found = []
        for duration in ("1ms", "250ms", "1.5s"):
            before = now()
            await sleep(duration)
            found.append((now() - before).total_seconds())
        return found

    async with TestEnvironment() as env:
        assert await env.execute(short()) == [0.001, 0.25, 1.5]
        handle = await env.schedules.create("s", tick(), "30 9 * * *")
        await env.sleep("3d")
        starts = [run.started_at for run in await env.list(workflow_type=tick.name)]
        await handle.delete()
    days = [datetime(2025, 1, day, 9, 30, tzinfo=UTC) for day in (3, 2, 1)]
    assert starts == days


@shows("timers")
async def test_s1_cron_keeps_to_the_wall_clock_over_a_change_to_summer_time() -> None:
    async with TestEnvironment() as env:
        await env.sleep(
            datetime(2025, 3, 28, tzinfo=UTC) - datetime(2025, 1, 1, tzinfo=UTC)
        )
        spec = schedule_spec("30 2 * * *", timezone="Europe/Berlin")
        handle = await env.schedules.create("s", tick(), spec)
        found = (await handle.describe()).next[:4]
    # On the 30th there is no half past two.
    assert [moment.astimezone(UTC).isoformat()[:16] for moment in found] == [
        "2025-03-28T01:30",
        "2025-03-29T01:30",
        "2025-03-31T00:30",
        "2025-04-01T00:30",
    ]


# --- children -------------------------------------------------------------------------

go_on = Signal("go_on", str)


@workflow(name="founding.child")
async def child(what: str) -> str:
    if what == "fail":
        raise Refused("no child's play")
    if what == "sleep":
        await sleep("30d")
    if what == "listen":
        return await go_on.receive()
    return f"{info().parent_workflow_id}'s {what}"


@shows(
    "child workflow",
    "`await child(...)`, or `start_child()` and `await` its handle; the end is told,"
    " not asked for, and a failed child raises",
)
async def test_s1_4_2_2_child_is_awaited_and_a_failed_one_raises() -> None:
    @workflow(name="founding.parent")
    async def parent(what: str) -> str:
        handle = await start_child(child(what), id=f"child-{what}")
        try:
            return await handle
        except Refused as error:
            return f"raised {error}"

    async with TestEnvironment() as env:
        began = env.now()
        assert await env.execute(parent("toy"), id="p") == "p's toy"
        assert await env.execute(parent("fail"), id="q") == "raised no child's play"
        assert env.now() == began


Given = tuple[bool, ...]
BY_DEFAULT_TRUE: list[Given] = [(), (True,), (False,)]


@shows(
    "child options",
    "`child.options(...)` with the same names; all three are true by default",
)
@pytest.mark.parametrize("given", BY_DEFAULT_TRUE, ids=str)
async def test_s2_5_1_propagate_failures_raises_or_gives_none(given: Given) -> None:
    options: Any = dict.fromkeys(["propagate_failures"] if given else [], all(given))

    @workflow(name="founding.propagates")
    async def propagating() -> str:
        try:
            return str(await child.options(**options)("fail"))
        except Refused:
            return "raised"

    async with TestEnvironment() as env:
        expected = "raised" if all(given) else "None"
        assert await env.execute(propagating()) == expected


@shows("child options")
@pytest.mark.parametrize("given", BY_DEFAULT_TRUE, ids=str)
async def test_s2_5_1_child_has_what_its_parent_has_left_or_longer(
    given: Given,
) -> None:
    options: Any = dict.fromkeys(
        ["inherit_parent_timeout"] if given else [], all(given)
    )

    @workflow(name="founding.inherits", run_timeout="1h")
    async def inheriting() -> None:
        policy = ParentClosePolicy.ABANDON
        made = child.options(parent_close_policy=policy, id="child", **options)
        await start_child(made("sleep"))

    async with TestEnvironment() as env:
        await env.execute(inheriting())
        await env.sleep("2h")
        status = (await (await env.get("child")).describe()).status
    assert status is (RunStatus.TIMED_OUT if all(given) else RunStatus.RUNNING)


@workflow(name="founding.slow_to_stop")
async def slow_to_stop() -> None:
    try:
        await sleep("30d")
    finally:
        await sleep("1h")


@shows("child options")
@pytest.mark.parametrize("given", BY_DEFAULT_TRUE, ids=str)
async def test_s2_5_1_cancelled_parent_waits_for_its_child_or_not(given: Given) -> None:
    options: Any = dict.fromkeys(["wait_for_cancellation"] if given else [], all(given))

    @workflow(name="founding.waits")
    async def waiting() -> None:
        policy = ParentClosePolicy.ABANDON
        made = slow_to_stop.options(parent_close_policy=policy, id="child", **options)
        await made()

    async with TestEnvironment() as env:
        run = await env.start(waiting())
        await env.sleep("1d")
        await run.cancel()
        began = env.now()
        with pytest.raises(WorkflowCancelledError):
            await run.result()
        assert env.now() - began == timedelta(hours=1 if all(given) else 0)
        with pytest.raises(WorkflowCancelledError):
            await (await env.get("child")).result()


@shows(
    "child messages",
    "`handle.signal()`, `handle.cancel()`, `external(id)`; `parent_close_policy` and"
    " `cancellation_type`",
)
async def test_s1_parent_signals_its_child_and_its_end_ends_the_child() -> None:
    @workflow(name="founding.family")
    async def family() -> str:
        first = await start_child(child("listen"), id="listening")
        for policy in ParentClosePolicy:
            made = child.options(
                parent_close_policy=policy,
                cancellation_type=ChildCancellationType.ABANDON,
            )
            await start_child(made("sleep"), id=policy.value)
        await first.signal(go_on("with it"))
        return await first

    async with TestEnvironment() as env:
        assert await env.execute(family()) == "with it"
        await env.settle()
        found = {
            policy.value: (await (await env.get(policy.value)).describe()).status.value
            for policy in ParentClosePolicy
        }
    assert found == {
        "terminate": "terminated",
        "abandon": "running",
        "request_cancel": "cancelled",
    }


# --- builders and flows ---------------------------------------------------------------


@activity(name="founding.price")
async def price(sku: str) -> int:
    DID.append(f"price {sku}")
    return len(sku)


@activity(name="founding.stock")
async def stock(sku: str) -> int:
    DID.append(f"stock {sku}")
    return 3


async def worth(both: tuple[int, int]) -> int:
    return both[0] * both[1]


@shows(
    "builder",
    "`WorkflowBuilder(name).configure(...).run(flow).build()`: mypy and pyright"
    " reject any other order, and so does the program",
)
async def test_s1_3_1_2_builder_is_ready_only_in_the_right_order() -> None:
    initial: Any = WorkflowBuilder("founding.built")
    with pytest.raises(InvalidCallError, match="is initial and not ready"):
        initial.build()
    configured = initial.configure(takes=str, gives=int, version="1.0.0")
    with pytest.raises(InvalidCallError, match="is configured and not ready"):
        configured.build()
    built: Workflow[[str], int] = configured.run(seq(par(price, stock), worth)).build()
    async with TestEnvironment() as env:
        run = await env.start(built("tea"))
        assert await run.result() == 9
        assert (await run.describe()).version == "1.0.0"
    # That type checkers agree: tests/typing/reject_builders.py.


async def plus(value: Any) -> Any:
    return value + 1


async def times(value: Any) -> Any:
    await sleep(value % 3)
    return value * 2


STEPS = st.recursive(
    st.sampled_from([seq(plus), seq(times), skip()]),
    lambda flows: st.builds(seq, flows, flows),
    max_leaves=4,
)


def result_of(flow: Flow[Any, Any], value: int) -> Any:
    @workflow(name="founding.law")
    async def law(value: int) -> str:
        return repr(await flow(value))

    driver = Driver(law(value))
    driver.start()
    while driver.next_timer_at is not None:
        driver.fire_next_timer()
    return ast.literal_eval(driver.result())


@shows(
    "process algebra",
    "`seq`, `par`, `choice`, `skip`, `never`; their laws are tried as properties, and"
    " `flow.check()` finds what can never run and what waits for ever. They cost"
    " microseconds, not nothing: the page on combining has the figures",
)
@pytest.mark.slow
@settings(max_examples=examples(100))
@given(f=STEPS, g=STEPS, h=STEPS, value=st.integers(0, 50))
def test_s1_3_1_1_flows_keep_the_laws(f: Any, g: Any, h: Any, value: int) -> None:
    assert result_of(seq(seq(f, g), h), value) == result_of(seq(f, seq(g, h)), value)
    assert result_of(seq(skip(), f), value) == result_of(seq(f, skip()), value)
    assert result_of(choice(f, never()), value) == result_of(f, value)
    left, right = result_of(par(f, g), value), result_of(par(g, f), value)
    assert left == tuple(reversed(right))
    one, two = result_of(par(par(f, g), h), value), result_of(par(f, par(g, h)), value)
    assert (*one[0], one[1]) == (two[0], *two[1])


@shows("process algebra")
async def test_s1_3_3_1_first_of_a_choice_wins_and_deadlocks_are_found() -> None:
    async def late(value: str) -> str:
        await sleep("1h")
        DID.append("late")
        return "late"

    async def soon(value: str) -> str:
        await sleep("1m")
        return "soon"

    @workflow(name="founding.race")
    async def race() -> str:
        return await choice(late, soon)("")

    async with TestEnvironment() as env:
        assert await env.execute(race()) == "soon"
        await env.sleep("2h")
    assert DID == []
    crossed = par(
        seq(need("bill"), plus, provide("parcel")),
        seq(need("parcel"), plus, provide("bill")),
    )
    with pytest.raises(DefinitionError, match="waits for provide"):
        crossed.check()

"""Child workflows and other runs, as workflow code sees them."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import (
    ChildWorkflowError,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    external,
    run,
    sleep,
    start_child,
    workflow,
)
from durable.core.history.commands import (
    RequestCancelExternalWorkflowExecution,
    SignalExternalWorkflowExecution,
)
from durable.core.history.events import (
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionTerminated,
    ChildWorkflowExecutionTimedOut,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    RequestCancelExternalWorkflowExecutionFailed,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionFailed,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionFailed,
    WorkflowExecutionCanceled,
    WorkflowExecutionFailed,
)
from durable.core.history.payload import Failure
from durable.errors import (
    InvalidCallError,
    InvalidIdError,
    NotInWorkflowError,
)
from tests.unit.api.workflows.family import Family

approved = Signal("approved", bool)


class Declined(Exception):
    pass


@activity(name="children.visible")
async def visible() -> None:
    """Makes this module's exceptions visible."""


@workflow(name="children.pay", version="2.0.0")
async def pay(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


@workflow(name="children.Cart", task_queue="carts", run_timeout="1h")
class Cart:
    @run
    async def run(self, customer: str) -> list[int]:
        return [len(customer)]


BY_HAND = pay(7)


async def gathered() -> list[Any]:
    return list(await asyncio.gather(pay(1), Cart.run("ab")))


async def awaited() -> list[Any]:
    return [await pay(1), await Cart.run("ab")]


async def grouped() -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pay(1)), group.create_task(Cart.run("ab"))]
    return [task.result() for task in tasks]


async def shielded() -> list[Any]:
    return [
        await asyncio.shield(pay(1)),
        await asyncio.wait_for(Cart.run("ab"), timeout=60),
    ]


async def timed() -> list[Any]:
    async with asyncio.timeout(60):
        return [await pay(1), await asyncio.ensure_future(Cart.run("ab"))]


async def handled() -> list[Any]:
    first = await start_child(pay(1))
    second = await start_child(Cart.run("ab"))
    return [await first, await second.result()]


WAYS: dict[str, Callable[[], Awaitable[list[Any]]]] = {
    "await": awaited,
    "gather": gathered,
    "TaskGroup": grouped,
    "shield and wait_for": shielded,
    "timeout": timed,
    "start_child": handled,
}


@workflow(name="children.parent")
async def parent(way: str) -> list[Any]:
    return await WAYS[way]()


@pytest.mark.parametrize("way", WAYS)
def test_child_is_awaited_like_any_coroutine(way: str) -> None:
    family = Family(parent(way))
    family.start()
    if len(family.initiated()) == 1:
        family.turn(family.begun(0))
    if len(family.initiated()) == 1:
        family.turn(family.completed("1 EUR", 0))
    if way in ("gather", "TaskGroup"):
        family.turn(family.begun(0), family.completed("1 EUR", 0))
    family.turn(family.begun(1))
    if way == "start_child":
        family.turn(family.completed("1 EUR", 0))
    family.turn(family.completed([2], 1))
    assert family.result() == ["1 EUR", [2]]


@pytest.mark.parametrize("way", WAYS)
def test_event_names_the_line_that_asks(way: str) -> None:
    family = Family(parent(way))
    family.start()
    source = family.initiated()[0][1].source
    path, _, line = source.rpartition(":")
    assert path == __file__
    assert "pay(1)" in linecache.getline(path, int(line))


def test_call_made_elsewhere_names_the_line_that_awaits_it() -> None:
    @workflow(name="children.by_hand")
    async def by_hand() -> str:
        return await BY_HAND  # here

    family = Family(by_hand())
    family.start()
    path, _, line = family.initiated()[0][1].source.rpartition(":")
    assert "# here" in linecache.getline(path, int(line))


def test_call_can_be_awaited_again_as_another_child() -> None:
    @workflow(name="children.again")
    async def again() -> list[str]:
        call = pay(5)
        return [await call, await call]

    family = Family(again())
    family.start()
    family.turn(family.begun(0), family.completed("first", 0))
    family.turn(family.begun(1), family.completed("second", 1))
    assert family.result() == ["first", "second"]
    one, other = family.initiated()
    assert one[1].workflow_id != other[1].workflow_id


def test_task_cancelled_before_its_first_step_asks_for_nothing() -> None:
    @workflow(name="children.early")
    async def early() -> str:
        task = asyncio.create_task(pay(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "went on"

    family = Family(early())
    family.start()
    assert family.initiated() == []
    assert family.result() == "went on"


async def test_awaiting_outside_of_a_workflow_is_refused() -> None:
    for awaiting in (
        lambda: pay(1),
        lambda: asyncio.create_task(pay(1)),
        lambda: asyncio.gather(pay(1)),
    ):
        with pytest.raises(InvalidCallError, match=r"engine\.execute"):
            await awaiting()
    with pytest.raises(NotInWorkflowError):
        await start_child(pay(1))
    with pytest.raises(NotInWorkflowError):
        external("x")
    pay(1).close()


# --- failures -------------------------------------------------------------------------


@workflow(name="children.catching")
async def catching(kind: str) -> list[Any]:
    definition: Any = pay
    if kind != "plain":
        definition = pay.options(propagate_failures=kind == "propagate")
    try:
        if kind == "handle":
            handle = await start_child(definition(5))
            return [await handle]
        return [await definition(5)]
    except Exception as error:  # noqa: BLE001 - whatever comes is what is tested
        return [type(error).__name__, str(error), *getattr(error, "__notes__", ())]


@pytest.mark.parametrize("kind", ["plain", "propagate"])
@pytest.mark.parametrize(
    ("error", "name", "said"),
    [
        (Declined("no funds"), "Declined", "no funds"),
        (TypeError("bug there"), "TypeError", "bug there"),
    ],
)
def test_failure_of_a_child_is_what_it_raised(
    kind: str, error: Exception, name: str, said: str
) -> None:
    family = Family(catching(kind))
    family.start()
    family.turn(family.begun(), family.failed(error))
    assert family.result()[:2] == [name, said]
    assert "'children.pay'" in family.result()[2]
    assert family.initiated()[0][1].workflow_id in family.result()[2]


def test_failure_of_an_unknown_class_is_a_child_workflow_error() -> None:
    @workflow(name="children.unknown")
    async def unknown() -> list[Any]:
        with pytest.raises(ChildWorkflowError, match=r"failed: Gone: boom") as caught:
            await pay.options(id="child-1")(5)
        error = caught.value
        return [
            error.workflow_type,
            error.workflow_id,
            error.run_id,
            str(error.__cause__),
        ]

    family = Family(unknown())
    family.start()
    gone = Failure(message="boom", type="Gone", module="gone")
    family.turn(
        family.begun(), ChildWorkflowExecutionFailed(*family.ids(0), failure=gone)
    )
    assert family.result() == ["children.pay", "child-1", "run-0", "Gone: boom"]


@pytest.mark.parametrize("ending", ["terminated", "timed out"])
@pytest.mark.parametrize("kind", ["plain", "quiet", "handle"])
def test_end_without_an_outcome_is_an_error_of_its_own(kind: str, ending: str) -> None:
    family = Family(catching(kind))
    family.start()
    family.turn(family.begun())
    if ending == "terminated":
        family.turn(ChildWorkflowExecutionTerminated(*family.ids(0), reason="enough"))
        name, said = "WorkflowTerminatedError", "enough"
    else:
        family.turn(ChildWorkflowExecutionTimedOut(*family.ids(0), timeout_type="run"))
        name, said = "WorkflowTimedOutError", "run_timeout"
    if kind == "plain":
        assert family.result()[0] == name
        assert said in family.result()[1]
        assert "'children.pay'" in family.result()[1]
    else:
        assert family.result() == [None]


@pytest.mark.parametrize("kind", ["quiet", "handle"])
def test_failures_that_are_not_propagated_give_none(kind: str) -> None:
    family = Family(catching(kind))
    family.start()
    family.turn(family.begun())
    family.turn(family.failed(Declined("no")))
    assert family.result() == [None]
    ok = Family(catching(kind))
    ok.start()
    ok.turn(ok.begun())
    ok.turn(ok.completed("5 EUR"))
    assert ok.result() == ["5 EUR"]


def test_cancellation_of_the_parent_is_raised_even_if_failures_are_not() -> None:
    @workflow(name="children.cancelled")
    async def cancelled() -> str | None:
        return await pay.options(propagate_failures=False, wait_for_cancellation=False)(
            5
        )

    family = Family(cancelled())
    family.start()
    family.turn(family.begun())
    done = family.cancel()
    assert isinstance(family.history[-1].attributes, WorkflowExecutionCanceled)
    (command,) = [
        c
        for c in done.commands
        if isinstance(c, RequestCancelExternalWorkflowExecution)
    ]
    assert command.child_workflow_only


def test_failure_that_leaves_the_parent_is_recorded_as_it_came() -> None:
    @workflow(name="children.passing")
    async def passing() -> str:
        return await pay(5)

    family = Family(passing())
    family.start()
    family.turn(family.begun(), family.failed(TypeError("bug there")))
    (event,) = family.events(WorkflowExecutionFailed)
    failure = event.failure
    assert failure.kind == "child_workflow"
    assert (failure.workflow_type, failure.run_id) == ("children.pay", "run-0")
    assert failure.cause is not None
    assert (failure.cause.type, failure.cause.message) == ("TypeError", "bug there")
    with pytest.raises(TypeError, match="bug there"):
        family.result()


def test_child_whose_id_is_taken_is_an_error_that_is_always_raised() -> None:
    @workflow(name="children.taken")
    async def taken(kind: str) -> list[str]:
        call = pay.options(propagate_failures=False, id="taken")(5)
        try:
            await (start_child(call) if kind == "start" else call)
        except WorkflowAlreadyStartedError as error:
            return [error.workflow_id]
        return []

    for kind in ("start", "await"):
        family = Family(taken(kind))
        family.start()
        event_id, child = family.initiated()[0]
        family.turn(
            StartChildWorkflowExecutionFailed(
                event_id,
                child.workflow_id,
                child.workflow_type,
                cause=WorkflowAlreadyStartedError.code,
                message="It is taken.",
            )
        )
        assert family.result() == ["taken"]


# --- handles --------------------------------------------------------------------------


@workflow(name="children.handling")
async def handling(kind: str) -> list[Any]:
    handle = await start_child(pay(5), id="child-1")
    found: list[Any] = [handle.workflow_id, handle.run_id, repr(handle)]
    if kind == "call":
        await handle.signal(approved(True))
    elif kind == "name":
        await handle.signal("approved", True)
    elif kind == "cancel":
        await handle.cancel("enough")
    return found


@pytest.mark.parametrize("kind", ["call", "name"])
def test_handle_sends_signals_to_the_child(kind: str) -> None:
    family = Family(handling(kind))
    family.start()
    done = family.turn(family.begun())
    (command,) = done.commands
    assert isinstance(command, SignalExternalWorkflowExecution)
    assert (command.workflow_id, command.run_id) == ("child-1", None)
    assert (command.signal_name, command.child_workflow_only) == ("approved", True)
    assert [bytes(p.json) for p in command.input] == [b"true"]
    event_id = family.event_id(SignalExternalWorkflowExecutionInitiated)
    family.turn(ExternalWorkflowExecutionSignaled(event_id, "child-1", "run-0"))
    assert family.result() == ["child-1", "run-0", "<child workflow 'child-1'>"]


def test_handle_asks_the_child_to_stop() -> None:
    family = Family(handling("cancel"))
    family.start()
    (command,) = family.turn(family.begun()).commands
    assert isinstance(command, RequestCancelExternalWorkflowExecution)
    assert (command.workflow_id, command.reason) == ("child-1", "enough")
    assert command.child_workflow_only
    event_id = family.event_id(RequestCancelExternalWorkflowExecutionInitiated)
    family.turn(ExternalWorkflowExecutionCancelRequested(event_id, "child-1", "run-0"))
    assert family.result()[0] == "child-1"


def test_start_child_refuses_what_is_no_call() -> None:
    @workflow(name="children.confused")
    async def confused() -> bool:
        for wrong in (pay, 5, approved(True)):
            with pytest.raises(InvalidCallError, match="no workflow call"):
                await start_child(wrong)  # type: ignore[arg-type]  # the fault under test
        with pytest.raises(InvalidIdError):
            await start_child(pay(5), id="")
        return True

    family = Family(confused())
    family.start()
    assert family.initiated() == []
    assert family.result() is True


def test_cancelled_start_leaves_the_child_alone() -> None:
    @workflow(name="children.impatient")
    async def impatient() -> str:
        try:
            async with asyncio.timeout(1):
                await start_child(pay(5))
        except TimeoutError:
            await sleep(60)
            return "gave up"
        return "started"

    family = Family(impatient())
    family.start()
    family.now += 1_000_000
    done = family.turn()
    assert not any(
        isinstance(c, RequestCancelExternalWorkflowExecution) for c in done.commands
    )
    family.turn(family.begun())
    family.now += 60_000_000
    family.turn()
    assert family.result() == "gave up"


# --- other runs -----------------------------------------------------------------------


@workflow(name="children.reaching")
async def reaching(what: str, run_id: str | None) -> str:
    other = external("order-41", run_id=run_id)
    try:
        if what == "signal":
            await other.signal(approved(False))
        elif what == "name":
            await other.signal("approved", False)
        else:
            await other.cancel("enough")
    except (WorkflowNotFoundError, WorkflowClosedError) as error:
        return type(error).__name__
    return repr(other)


@pytest.mark.parametrize("run_id", [None, "run-7"])
@pytest.mark.parametrize("what", ["signal", "name", "cancel"])
def test_other_run_is_reached_by_its_id(what: str, run_id: str | None) -> None:
    family = Family(reaching(what, run_id))
    (command,) = family.start().commands
    assert isinstance(
        command,
        SignalExternalWorkflowExecution | RequestCancelExternalWorkflowExecution,
    )
    assert (command.workflow_id, command.run_id) == ("order-41", run_id)
    assert not command.child_workflow_only
    if what == "cancel":
        event_id = family.event_id(RequestCancelExternalWorkflowExecutionInitiated)
        family.turn(ExternalWorkflowExecutionCancelRequested(event_id, "order-41", "r"))
    else:
        event_id = family.event_id(SignalExternalWorkflowExecutionInitiated)
        family.turn(ExternalWorkflowExecutionSignaled(event_id, "order-41", "r"))
    assert family.result() == "<external workflow 'order-41'>"


@pytest.mark.parametrize("error", [WorkflowNotFoundError, WorkflowClosedError])
@pytest.mark.parametrize("what", ["signal", "cancel"])
def test_run_that_cannot_be_reached_is_an_error(
    what: str, error: type[WorkflowNotFoundError | WorkflowClosedError]
) -> None:
    family = Family(reaching(what, None))
    family.start()
    if what == "cancel":
        event_id = family.event_id(RequestCancelExternalWorkflowExecutionInitiated)
        family.turn(
            RequestCancelExternalWorkflowExecutionFailed(
                event_id, "order-41", error.code, "Gone."
            )
        )
    else:
        event_id = family.event_id(SignalExternalWorkflowExecutionInitiated)
        family.turn(
            SignalExternalWorkflowExecutionFailed(
                event_id, "order-41", error.code, "Gone."
            )
        )
    assert family.result() == error.__name__


def test_ids_of_other_runs_are_checked() -> None:
    @workflow(name="children.odd_ids")
    async def odd_ids() -> bool:
        for ids in ({"workflow_id": ""}, {"workflow_id": "x", "run_id": " "}):
            with pytest.raises(InvalidIdError):
                external(ids.pop("workflow_id"), **ids)
        return True

    family = Family(odd_ids())
    family.start()
    assert family.result() is True


def test_errors_of_ended_children_carry_the_ids() -> None:
    @workflow(name="children.ids")
    async def with_ids(kind: str) -> list[str]:
        try:
            await pay.options(id="child-1")(5)
        except (WorkflowTerminatedError, WorkflowTimedOutError) as error:
            return [error.workflow_id, error.run_id]
        return []

    family = Family(with_ids("x"))
    family.start()
    family.turn(
        family.begun(), ChildWorkflowExecutionTerminated(*family.ids(0), reason="")
    )
    assert family.result() == ["child-1", "run-0"]

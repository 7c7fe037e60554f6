"""The activity machine at every cut: how it can stand when a turn ends."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ActivityError,
    ActivityTimeoutError,
    ApplicationError,
    NondeterminismError,
    WorkflowFailedError,
    activity,
    sleep,
    workflow,
)
from durable.core.history.commands import (
    CompleteWorkflowExecution,
    RequestCancelActivityTask,
)
from durable.core.history.events import ActivityTaskScheduled
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.machine import Move, State
from durable.errors import InternalError
from durable.testing.driver import Driver


class Declined(Exception):
    pass


@activity(name="activity machine.charge", retry=None)
async def charge(amount: int) -> str:
    return f"charged {amount}"


@activity(name="activity machine.refund", retry=None)
async def refund(amount: int) -> str:
    return f"refunded {amount}"


@activity(name="activity machine.unmatched", retry=None, match_arguments=False)
async def unmatched(amount: int, note: str = "") -> str:
    return f"{amount}{note}"


@workflow(name="activity machine.charging")
async def charging(amount: int) -> str:
    return await charge(amount)


def started() -> Driver:
    driver = Driver(charging(5))
    driver.start()
    return driver


def test_scheduled_event_holds_everything_written_out() -> None:
    driver = started()
    event = driver.history[1].attributes
    assert isinstance(event, ActivityTaskScheduled)
    assert (event.activity_type, event.activity_id) == ("activity machine.charge", "1")
    assert [bytes(payload.json) for payload in event.input] == [b"5"]
    assert event.settings.task_queue == "default"
    assert event.settings.start_to_close_timeout == 60_000_000
    assert event.settings.retry_policy.max_attempts == 1
    assert event.source.rpartition(":")[0] == __file__
    line = int(event.source.rpartition(":")[2])
    assert "charge(amount)" in Path(__file__).read_text().splitlines()[line - 1]


@pytest.mark.parametrize("crash", [False, True])
def test_suspended_activity_waits(crash: bool) -> None:
    driver = started()
    if crash:
        driver.crash()
    assert driver.advance(1000) is None
    (pending,) = driver.pending
    assert (pending.scheduled_event_id, pending.is_cancel_requested) == (2, False)


@pytest.mark.parametrize("crash", [False, True])
def test_completed_activity_gives_the_recorded_value(crash: bool) -> None:
    driver = started()
    if crash:
        driver.crash()
    driver.complete(2, "yes")
    assert driver.result() == "yes"
    driver.crash()
    driver.replay()
    assert driver.pending == []


@pytest.mark.parametrize("crash", [False, True])
def test_failed_activity_raises_its_own_class(crash: bool) -> None:
    @workflow
    async def catching() -> str:
        try:
            return await charge(1)
        except Declined as error:
            return f"declined: {error}"

    driver = Driver(catching())
    driver.start()
    if crash:
        driver.crash()
    driver.fail(2, Declined("no funds"))
    assert driver.result() == "declined: no funds"


def test_failure_of_an_unknown_class_is_an_activity_error() -> None:
    class Local(Exception):
        """Visible in no module."""

    driver = started()
    driver.fail(2, Local("x"))
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    cause = caught.value.__cause__
    assert isinstance(cause, ActivityError)
    assert (cause.activity_type, cause.activity_id, cause.attempt) == (
        "activity machine.charge",
        "1",
        1,
    )


@pytest.mark.parametrize("timeout_type", ["start_to_close", "schedule_to_close"])
def test_timed_out_activity_raises_a_timeout_error(timeout_type: str) -> None:
    driver = started()
    driver.turn(driver.timed_out(2, timeout_type))
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    cause = caught.value.__cause__
    assert isinstance(cause, ActivityTimeoutError)
    assert isinstance(cause, TimeoutError)
    assert cause.timeout_type == timeout_type


def test_activity_that_stops_unasked_by_the_run_is_a_cancelled_error() -> None:
    driver = started()
    driver.turn(driver.cancelled(2))
    with pytest.raises(WorkflowFailedError):
        driver.result()


def cancelling() -> Driver:
    @workflow
    async def cancelling() -> str:
        task = asyncio.ensure_future(charge(1))
        await sleep(1)
        task.cancel()
        await sleep(10)
        return "over"

    driver = Driver(cancelling())
    driver.start()
    return driver


@pytest.mark.parametrize("crash", [False, True])
def test_cancelled_activity_is_asked_to_stop_and_stays_pending(crash: bool) -> None:
    driver = cancelling()
    if crash:
        driver.crash()
    completion = driver.advance(1)
    assert completion is not None
    assert isinstance(completion.commands[1], RequestCancelActivityTask)
    assert completion.commands[1].scheduled_event_id == 3
    if crash:
        driver.crash()
    (pending,) = driver.pending
    assert pending.is_cancel_requested


@pytest.mark.parametrize("how", ["completed", "failed", "timed out", "cancelled"])
@pytest.mark.parametrize("crash", [False, True])
def test_outcome_of_a_cancelled_activity_is_unheard(how: str, crash: bool) -> None:
    driver = cancelling()
    driver.advance(1)
    (pending,) = driver.pending
    outcomes: dict[str, Callable[[], Any]] = {
        "completed": lambda: driver.completed(pending, "late"),
        "failed": lambda: driver.failed(pending, Declined()),
        "timed out": lambda: driver.timed_out(pending),
        "cancelled": lambda: driver.cancelled(pending),
    }
    assert driver.turn(outcomes[how]()).commands == ()
    assert driver.pending == []
    if crash:
        driver.crash()
    driver.fire_next_timer()
    assert driver.result() == "over"


def test_second_outcome_of_one_activity_is_void() -> None:
    @workflow
    async def waiting() -> str:
        first = await charge(1)
        await sleep(5)
        return first

    driver = Driver(waiting())
    driver.start()
    driver.complete(2, "one")
    assert driver.turn(driver.completed(2, "two")).commands == ()
    driver.crash()
    driver.fire_next_timer()
    assert driver.result() == "one"


def test_activity_of_another_id_is_a_mismatch() -> None:
    is_edited = False

    @workflow
    async def counting() -> str:
        if is_edited:
            asyncio.ensure_future(charge(9)).cancel()
            task = asyncio.ensure_future(charge(9))
            await asyncio.sleep(0)
            task.cancel()
        return await charge(1)

    driver = Driver(counting())
    driver.start()
    driver.crash()
    is_edited = True
    with pytest.raises(NondeterminismError, match="the activity id differs"):
        driver.complete(2, "a")


def test_changed_type_is_a_mismatch_that_names_both_lines() -> None:
    call = charge

    @workflow
    async def changing() -> str:
        return await call(1)

    driver = Driver(changing())
    driver.start()
    driver.crash()
    call = refund
    with pytest.raises(NondeterminismError) as caught:
        driver.complete(2, "a")
    error = caught.value
    assert error.event_id == 2
    assert error.recorded is not None
    assert error.recorded.startswith(
        "ActivityTaskScheduled('activity machine.charge', id 1"
    )
    assert error.found is not None
    assert error.found.startswith(
        "ScheduleActivityTask('activity machine.refund', id 1"
    )
    assert __file__ in error.recorded
    assert __file__ in error.found


def test_arguments_may_change_where_they_are_not_matched() -> None:
    arguments: dict[str, Any] = {"amount": 1}

    @workflow
    async def changing() -> str:
        return await unmatched(**arguments)

    driver = Driver(changing())
    driver.start()
    driver.crash()
    arguments = {"amount": 2}
    driver.replay()
    driver.crash()
    arguments = {"amount": 2, "note": "one more"}
    with pytest.raises(NondeterminismError, match="the number of arguments differs"):
        driver.replay()


def test_sets_and_new_defaults_are_no_mismatch() -> None:
    @activity(name="same set", retry=None)
    async def takes_set(items: frozenset[str]) -> int:
        return len(items)

    words = [str(number) for number in range(20)]

    @workflow
    async def with_set() -> int:
        return await takes_set(frozenset(words))

    driver = Driver(with_set())
    driver.start()
    driver.crash()
    words.reverse()
    driver.complete(2, 20)
    assert driver.result() == 20


@pytest.mark.parametrize(
    ("state", "move"),
    [
        (State.CREATED, Move.RESOLVE),
        (State.PENDING, Move.RECORD),
        (State.CANCEL_REQUESTED, Move.CANCEL),
        (State.CANCEL_REQUESTED, Move.RECORD),
        (State.CLOSED, Move.RESOLVE),
        (State.CLOSED, Move.CANCEL),
        (State.CLOSED, Move.RECORD),
    ],
)
def test_illegal_move_is_refused_by_name(state: State, move: Move) -> None:
    machine = ActivityMachine.__new__(ActivityMachine)
    machine.state = state
    with pytest.raises(InternalError, match=f"{move.name} while {state.name}"):
        machine.move(move)
    assert machine.state is state


def test_every_state_can_be_reached_and_left_but_the_last() -> None:
    table = ActivityMachine.table
    assert set(table.values()) == set(State) - {State.CREATED}
    assert {state for state, _ in table} == set(State) - {State.CLOSED}


def test_run_that_ends_leaves_its_activities() -> None:
    @workflow
    async def leaving() -> str:
        task = asyncio.ensure_future(charge(1))
        await sleep(1)
        return str(task.done())

    driver = Driver(leaving())
    driver.start()
    completion = driver.advance(1)
    assert completion is not None
    assert [type(command) for command in completion.commands] == [
        CompleteWorkflowExecution
    ]


def test_error_of_the_activity_keeps_its_notes_and_is_no_bug() -> None:
    """A TypeError that an activity raised fails the run: mending code cannot help."""
    driver = started()
    driver.fail(2, TypeError("from the activity"))
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    cause = caught.value.__cause__
    assert isinstance(cause, TypeError)
    assert (
        "raised by activity 'activity machine.charge' (id 1), attempt 1"
        in cause.__notes__[0]
    )


def test_application_error_keeps_its_fields() -> None:
    driver = started()
    driver.fail(2, ApplicationError("no", {"code": 5}, type="Declined"))
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    cause = caught.value.__cause__
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.details) == ("Declined", ({"code": 5},))

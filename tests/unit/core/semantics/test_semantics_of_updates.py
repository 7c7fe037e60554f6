"""Rows 4 to 7 of the semantics: updates, validators, and errors of handlers.

See `test_semantics.py` for the others.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import durable
from durable import (
    ApplicationError,
    WorkflowFailedError,
    all_handlers_finished,
    current_update,
    now,
    set_query_handler,
    set_signal_handler,
    set_update_handler,
    sleep,
    wait_condition,
    workflow,
)
from durable.core.history.commands import (
    CompleteWorkflowExecution,
    CompleteWorkflowExecutionUpdate,
    FailWorkflowExecution,
    ScheduleActivityTask,
)
from durable.core.history.events import (
    TERMINAL_EVENTS,
    WorkflowExecutionUpdateAccepted,
)
from durable.errors import QueryFailedError, ReadOnlyError
from durable.testing import Driver
from tests.unit.core.semantics.logbook import Log, finished, kinds, ship, words

# --- row 4 ----------------------------------------------------------------------------


def test_row_04_acceptance_and_answer_are_two_events() -> None:
    driver = Driver(Log.run("log"))
    driver.start()
    accepted = driver.update(Log.store("x"), update_id="u")
    assert kinds(accepted) == [ScheduleActivityTask]
    assert isinstance(accepted.events[0].attributes, WorkflowExecutionUpdateAccepted)
    driver.crash()
    answered = driver.complete(driver.pending[0], "x")
    assert kinds(answered) == [CompleteWorkflowExecutionUpdate]


def test_row_04_a_rejected_update_leaves_no_trace_at_all() -> None:
    driver = Driver(Log.run("log"))
    driver.start()
    before = len(driver.history), driver._live().task_count
    done = driver.update(Log.change([]), update_id="u")
    assert [update_id for update_id, _ in done.rejected] == ["u"]
    assert done.events == ()
    assert (len(driver.history), driver._live().task_count) == before
    # The id was forgotten, so the same may be tried again.
    assert driver.update(Log.change(["y"]), update_id="u").rejected == ()


def test_row_04_a_rejection_within_a_turn_changes_nothing_else_in_it() -> None:
    @workflow(name="messages.drawing")
    async def drawing() -> list[str]:
        set_update_handler("ask", lambda value: value, validator=_refuse_odd)
        seen = [await words.receive()]
        seen += [str(durable.uuid4())]
        tasks = {asyncio.create_task(ship(item), name=item) for item in "abcd"}
        done, _ = await asyncio.wait(tasks)
        return [*seen, *(task.get_name() for task in done)]

    def play(*others: int) -> list[str]:
        driver = Driver(drawing())
        driver.start()
        updates = [driver.requested("ask", number) for number in others]
        driver.turn(*updates, driver.signalled(words("go")))
        driver.turn(*(driver.completed(one, "x") for one in driver.pending))
        return list(finished(driver))

    assert play() == play(1) == play(1, 3, 5)


def _refuse_odd(value: int) -> None:
    if value % 2:
        raise ValueError("odd")


# --- row 5 ----------------------------------------------------------------------------


def test_row_05_an_accepted_update_that_is_unfinished_at_the_end_has_no_answer() -> (
    None
):
    driver = Driver(Log.run("log"))
    driver.start()
    driver.update(Log.store("x"), update_id="u")
    driver.signal(Log.close())
    assert driver.is_closed
    assert driver._live().open_updates() == ["u"]
    assert any("handlers" in str(entry.get("message")) for entry in driver.unhandled)


def test_row_05_an_update_of_the_last_turn_is_answered_if_it_can_be() -> None:
    driver = Driver(Log.run("log"))
    driver.start()
    done = driver.turn(
        driver.signalled(Log.close()), driver.requested(Log.change(["x"]))
    )
    assert kinds(done) == [CompleteWorkflowExecutionUpdate, CompleteWorkflowExecution]
    assert finished(driver)[-1] == "x"


def test_row_05_waiting_for_handlers_lets_them_finish() -> None:
    @workflow(name="messages.patient")
    async def patient() -> str:
        async def work() -> str:
            return await ship("x")

        set_update_handler("work", work)
        await words.receive()
        await wait_condition(all_handlers_finished)
        return "patient"

    driver = Driver(patient())
    driver.start()
    driver.update("work")
    assert kinds(driver.signal(words("stop"))) == []
    assert kinds(driver.complete(driver.pending[0], "x")) == [
        CompleteWorkflowExecutionUpdate,
        CompleteWorkflowExecution,
    ]


# --- row 6 ----------------------------------------------------------------------------


def test_row_06_what_a_validator_does_to_its_arguments_is_not_seen() -> None:
    driver = Driver(Log.run("log"))
    driver.start()
    driver.update(Log.change(["x", "y"]))
    assert driver.query(Log.read())[-2:] == ["x", "y"]


def test_row_06_a_validator_runs_live_and_never_on_replay() -> None:
    calls: list[int] = []

    @workflow(name="messages.validated")
    async def validated() -> list[int]:
        seen: list[int] = []

        def check(value: int) -> None:
            calls.append(value)

        def take(value: int) -> int:
            seen.append(value)
            return value

        set_update_handler("take", take, validator=check)
        await words.receive()
        return seen

    driver = Driver(validated())
    driver.start()
    driver.update("take", 1)
    live = list(calls)
    for _ in range(3):
        driver.crash()
        driver.replay()
    driver.signal(words("stop"))
    assert driver.result() == [1]
    assert calls == live


def test_row_06_a_change_by_a_validator_fails_the_turn_any_other_error_rejects() -> (
    None
):
    @workflow(name="messages.meddling")
    async def meddling() -> None:
        def check(value: int) -> None:
            if value == 1:
                asyncio.get_running_loop().call_soon(print)
            raise KeyError(value)  # which would be a bug anywhere else

        set_update_handler("take", lambda value: value, validator=check)
        await words.receive()

    driver = Driver(meddling())
    driver.start()
    ((_, failure),) = driver.update("take", 0).rejected
    assert failure.type == "KeyError"
    with pytest.raises(ReadOnlyError):
        driver.update("take", 1)


# --- row 7 ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_row_07_a_failing_signal_handler_fails_the_run_a_bug_only_its_task(
    is_async: bool,
) -> None:
    @workflow(name=f"messages.handling {is_async}")
    async def handling() -> None:
        def take(value: int) -> None:
            raise ApplicationError("no") if value else KeyError("a bug")

        async def take_async(value: int) -> None:
            take(value)

        set_signal_handler("take", take_async if is_async else take)
        await words.receive()

    driver = Driver(handling())
    driver.start()
    with pytest.raises(KeyError):
        driver.signal("take", 0)
    assert not isinstance(driver.history[-1].attributes, TERMINAL_EVENTS)
    failing = Driver(handling())
    failing.start()
    assert kinds(failing.signal("take", 1)) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        failing.result()
    assert isinstance(caught.value.__cause__, ApplicationError)


@pytest.mark.parametrize("is_async", [False, True])
def test_row_07_a_failing_update_handler_fails_that_update_only(
    is_async: bool,
) -> None:
    @workflow(name=f"messages.updating {is_async}")
    async def updating() -> str:
        def take(value: int) -> None:
            raise ApplicationError("no") if value else KeyError("a bug")

        async def take_async(value: int) -> None:
            take(value)

        set_update_handler("take", take_async if is_async else take)
        return await words.receive()

    driver = Driver(updating())
    driver.start()
    (command,) = driver.update("take", 1).commands
    assert isinstance(command, CompleteWorkflowExecutionUpdate)
    assert command.failure is not None
    driver.signal(words("alive"))
    assert finished(driver) == "alive"
    parked = Driver(updating())
    parked.start()
    with pytest.raises(KeyError):
        parked.update("take", 0)


def test_row_07_a_failing_query_and_unknown_names_are_the_askers_own() -> None:
    def broken() -> None:
        raise KeyError("broken")

    @workflow(name="messages.asked")
    async def asked() -> str:
        set_query_handler("broken", broken)
        return await words.receive()

    driver = Driver(asked())
    driver.start()
    with pytest.raises(KeyError):
        driver.query("broken")
    with pytest.raises(QueryFailedError, match="broken"):
        driver.query("other")
    ((_, failure),) = driver.update("other").rejected
    assert "other" in failure.message
    driver.signal(words("alive"))
    assert finished(driver) == "alive"


def test_row_07_a_cancelled_error_of_a_handler_is_a_failure_unless_asked_for() -> None:
    @workflow(name="messages.cancelling")
    async def cancelling() -> str:
        def stop() -> None:
            raise asyncio.CancelledError

        set_signal_handler("stop", stop)
        while True:
            try:
                return await words.receive()
            except asyncio.CancelledError:
                pass

    driver = Driver(cancelling())
    driver.start()
    assert kinds(driver.signal("stop")) == [FailWorkflowExecution]
    asked = Driver(cancelling())
    asked.start()
    asked.cancel()
    asked.signal("stop")
    assert type(asked.history[-1].attributes).__name__ == "WorkflowExecutionCanceled"


# --- validators -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["alone", "together", "beside a signal", "at once"])
def test_each_validator_runs_once_after_the_handlers_before_it(way: str) -> None:
    seen: list[str] = []

    @workflow(name="messages.one_validation")
    async def once() -> None:
        def check(value: str) -> None:
            found = current_update()
            assert found is not None
            seen.append(f"check {value} of {found.id}")
            if value == "no":
                raise ValueError(value)

        def take(value: str) -> None:
            found = current_update()
            assert found is not None
            seen.append(f"take {value} of {found.id}")

        set_update_handler("take", take, validator=check)
        await words.receive()

    driver = Driver(once())
    asked = [driver.requested("take", one) for one in ("no", "a", "no", "b")]
    if way == "at once":
        driver.turn(driver.started(), *asked)
    else:
        driver.start()
    if way == "alone":
        for one in asked:
            driver.turn(one)
    elif way == "together":
        driver.turn(*asked)
    elif way == "beside a signal":
        driver.turn(driver.signalled(words("stop")), *asked)
    ids = [one.update_id for one in asked]
    assert seen == [
        f"check no of {ids[0]}",
        f"check a of {ids[1]}",
        f"take a of {ids[1]}",
        f"check no of {ids[2]}",
        f"check b of {ids[3]}",
        f"take b of {ids[3]}",
    ]


def test_a_validator_sees_the_time_of_its_update() -> None:
    seen: list[float] = []

    @workflow(name="messages.punctual")
    async def punctual() -> None:
        def take() -> None:
            seen.append(now().timestamp())

        set_update_handler("take", take, validator=take)
        await words.receive()

    driver = Driver(punctual())
    driver.start()
    driver.clock.advance(5)
    driver.update("take")
    assert seen == [driver.clock.now() / 1_000_000] * 2


def _wait_by_hand() -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    return [
        lambda: ship("x"),
        lambda: wait_condition(lambda: False),
        lambda: words.receive(),
        lambda: sleep(1),
        lambda: asyncio.sleep(1),
        lambda: asyncio.Event().wait(),
        lambda: asyncio.Queue[int]().get(),
    ]


@pytest.mark.parametrize("way", range(len(_wait_by_hand())))
@pytest.mark.parametrize("kind", ["query", "validator"])
def test_what_reads_may_not_step_a_coroutine_that_waits(kind: str, way: int) -> None:
    @workflow(name="messages.stepped")
    async def stepped() -> str:
        def step(value: int = 0) -> None:
            coroutine = _wait_by_hand()[way]()
            try:
                coroutine.send(None)
            finally:
                coroutine.close()

        set_query_handler("step", step)
        set_update_handler("step", lambda value: None, validator=step)
        return await words.receive()

    driver = Driver(stepped())
    driver.start()
    before = len(driver.history)
    if kind == "query":
        with pytest.raises(ReadOnlyError):
            driver.query("step")
    else:
        with pytest.raises(ReadOnlyError):
            driver.update("step", 1)
    assert len(driver.history) == before
    driver.crash()
    driver.signal(words("stop"))
    assert driver.result() == "stop"

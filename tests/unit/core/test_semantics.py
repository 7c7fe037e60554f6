"""The semantics that reimplementations of durable execution get wrong, by row.

The rows are those of the feature reference, section 4, as far as this release has the
feature. Rows that need the store as well are in `test_semantics_of_runs.py`.
"""

import asyncio
import uuid
from datetime import datetime
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    ApplicationError,
    NondeterminismError,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    deprecate_patch,
    info,
    now,
    patched,
    random,
    sleep,
    uuid4,
    wait_condition,
    workflow,
)
from durable.core import flags
from durable.core.commands import (
    CancelTimer,
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    FailWorkflowExecution,
    RecordMarker,
    RequestCancelActivityTask,
    ScheduleActivityTask,
    StartTimer,
)
from durable.core.events import HistoryEvent, TimerFired
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.errors import InvalidDurationError
from durable.testing.driver import RUN_ID, Driver


@activity(name="semantics.ship", retry=None)
async def ship(item: str) -> str:
    return item


@activity(
    name="semantics.ship_and_wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def ship_and_wait(item: str) -> str:
    return item


@activity(
    name="semantics.ship_and_forget",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def ship_and_forget(item: str) -> str:
    return item


def kinds(completion: WorkflowTaskCompletion | None) -> list[type]:
    assert completion is not None
    return [type(command) for command in completion.commands]


# --- row 8 -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), ApplicationError("x"), OSError(5)])
def test_row_08_an_error_fails_the_workflow(error: Exception) -> None:
    @workflow
    async def failing() -> None:
        raise error

    driver = Driver(failing())
    assert kinds(driver.start()) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert type(caught.value.__cause__) is type(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("x"),
        KeyError("x"),
        AssertionError("x"),
        ExceptionGroup("x", [ValueError(1), ExceptionGroup("y", [NameError("z")])]),
    ],
)
def test_row_08_a_bug_fails_only_the_task_and_the_inputs_wait(error: Exception) -> None:
    bug: Exception | None = error

    @workflow
    async def buggy() -> str:
        item = await ship("a")
        if bug is not None:
            raise bug
        return item

    driver = Driver(buggy())
    driver.start()
    with pytest.raises(type(error)):
        driver.complete(2, "a")
    last = driver.history[-1]
    assert (last.task_number, last.event_id) == (0, 3)
    with pytest.raises(type(error)):  # a retry changes nothing in the history
        driver.turn()
    assert len(driver.history) == 3

    bug = None  # the mended code takes the input that waited
    driver.turn()
    assert driver.result() == "a"


# --- row 9 -----------------------------------------------------------------------------


def test_row_09_cancellation_is_a_state_delivered_once() -> None:
    @workflow
    async def stubborn() -> int:
        seen = 0
        for _ in range(3):
            try:
                await sleep(10)
            except asyncio.CancelledError:
                seen += 1
        return seen

    driver = Driver(stubborn())
    driver.start()
    driver.cancel("once")
    assert kinds(driver.cancel("twice")) == []
    driver.crash()
    driver.cancel("thrice")
    driver.fire_next_timer()
    driver.fire_next_timer()
    assert driver.result() == 1


def test_row_09_a_swallowed_cancel_completes_the_run() -> None:
    @workflow
    async def swallowing() -> str | None:
        try:
            await sleep(10)
        except asyncio.CancelledError:
            return info().cancellation_reason
        return None

    driver = Driver(swallowing())
    driver.start()
    driver.cancel("closing time")
    assert driver.result() == "closing time"


def test_row_09_a_cancel_before_the_first_task_lets_the_code_begin() -> None:
    begun = []

    @workflow
    async def beginning() -> None:
        begun.append(1)
        await sleep(10)

    driver = Driver(beginning())
    completion = driver.turn(driver.started(), driver.cancel_requested())
    assert begun == [1]
    assert kinds(completion) == [CancelWorkflowExecution]


def test_row_09_code_that_never_waits_outruns_an_early_cancel() -> None:
    @workflow
    async def quick() -> int:
        return 1

    driver = Driver(quick())
    driver.turn(driver.started(), driver.cancel_requested())
    assert driver.result() == 1


def test_row_09_the_status_is_cancelled_only_if_requested() -> None:
    @workflow
    async def cancelling() -> None:
        raise asyncio.CancelledError

    driver = Driver(cancelling())
    assert kinds(driver.start()) == [FailWorkflowExecution]


def test_row_09_another_error_after_a_cancel_is_a_failure() -> None:
    @workflow
    async def failing() -> None:
        try:
            await sleep(10)
        finally:
            raise ValueError("cleanup failed")

    driver = Driver(failing())
    driver.start()
    assert kinds(driver.cancel())[-1] is FailWorkflowExecution


def test_row_09_cleanup_after_a_cancel_may_wait() -> None:
    @workflow
    async def compensating() -> None:
        try:
            await sleep(10)
        finally:
            await ship("back")

    driver = Driver(compensating())
    driver.start()
    assert kinds(driver.cancel()) == [CancelTimer, ScheduleActivityTask]
    assert kinds(driver.complete(driver.pending[0], "back")) == [
        CancelWorkflowExecution
    ]
    with pytest.raises(WorkflowCancelledError):
        driver.result()


# --- row 10 ----------------------------------------------------------------------------


def test_row_10_try_cancel_raises_at_once_and_asks_the_activity_to_stop() -> None:
    @workflow
    async def trying() -> str:
        try:
            return await ship("a")
        except asyncio.CancelledError:
            return "cancelled"

    driver = Driver(trying())
    driver.start()
    assert kinds(driver.cancel()) == [
        RequestCancelActivityTask,
        CompleteWorkflowExecution,
    ]
    assert driver.result() == "cancelled"


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_row_10_wait_cancellation_gives_the_true_outcome(outcome: str) -> None:
    @workflow
    async def waiting() -> str:
        try:
            return await ship_and_wait("a")
        except asyncio.CancelledError:
            return "cancelled"
        except ApplicationError:
            return "failed"

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.cancel()) == [RequestCancelActivityTask]
    (pending,) = driver.pending
    assert pending.is_cancel_requested
    if outcome == "completed":
        driver.complete(pending, "completed")
    elif outcome == "failed":
        driver.fail(pending, ApplicationError("no"))
    else:
        driver.turn(driver.cancelled(pending))
    assert driver.result() == outcome


def test_row_10_abandon_raises_at_once_and_sends_nothing() -> None:
    @workflow
    async def abandoning() -> str:
        try:
            return await ship_and_forget("a")
        except asyncio.CancelledError:
            await sleep(1)
            return "abandoned"

    driver = Driver(abandoning())
    driver.start()
    assert kinds(driver.cancel()) == [StartTimer]
    assert kinds(driver.complete(2, "late")) == []  # unheard, and no error
    driver.fire_next_timer()
    assert driver.result() == "abandoned"


@pytest.mark.parametrize("act", [ship, ship_and_wait, ship_and_forget])
def test_row_10_an_activity_cancelled_in_its_own_turn_is_never_recorded(
    act: object,
) -> None:
    @workflow
    async def hasty() -> str:
        task = asyncio.ensure_future(act("a"))  # type: ignore[operator]  # one of the three above
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return await ship("b")

    driver = Driver(hasty())
    driver.start()
    (pending,) = driver.pending
    # The id of the one that was withdrawn stays used, on every replay alike.
    assert (pending.activity_id, len(driver.history)) == ("2", 2)
    driver.crash()
    driver.complete(pending, "b")
    assert driver.result() == "b"


# --- row 11 ----------------------------------------------------------------------------


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("crash", [True, False])
def test_row_11_a_cancel_in_the_turn_of_the_result_is_seen(
    cancel_first: bool, crash: bool
) -> None:
    @workflow
    async def seeing() -> str:
        try:
            return await ship("a")
        except asyncio.CancelledError:
            await sleep(1)
            return "cancelled"

    driver = Driver(seeing())
    driver.start()
    inputs = [driver.completed(2, "a"), driver.cancel_requested()]
    if cancel_first:
        inputs.reverse()
    assert kinds(driver.turn(*inputs)) == [StartTimer]  # and no request to cancel
    if crash:
        driver.crash()
    driver.fire_next_timer()
    assert driver.result() == "cancelled"


def test_row_11_the_rule_is_recorded_with_the_turn() -> None:
    @workflow
    async def quick() -> int:
        return 1

    driver = Driver(quick())
    driver.start()
    assert {event.flags for event in driver.history} == {flags.Flag.DRAIN_ONCE}


# --- row 12 ----------------------------------------------------------------------------


def test_row_12_shield_keeps_the_inner_operation() -> None:
    @workflow
    async def shielding() -> str:
        inner = asyncio.ensure_future(ship("a"))
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            return "outer cancelled, inner " + await inner

    driver = Driver(shielding())
    driver.start()
    assert kinds(driver.cancel()) == []
    driver.complete(2, "done")
    assert driver.result() == "outer cancelled, inner done"


def test_row_12_a_timeout_within_a_cancelled_run_counts_right() -> None:
    @workflow
    async def counting() -> int:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(5):
                await ship("a")
        except TimeoutError:
            return task.cancelling()
        return -1

    driver = Driver(counting())
    driver.start()
    driver.advance(5)
    assert driver.result() == 0


def test_row_12_waiting_for_a_true_outcome_clears_the_cancel() -> None:
    @workflow
    async def waiting() -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        first = await ship_and_wait("a")
        counted = task.cancelling()
        second = await ship("b")  # would raise at once if the cancel were left over
        return [first, counted, second]

    driver = Driver(waiting())
    driver.start()
    driver.cancel()
    driver.complete(2, "one")
    driver.complete(driver.pending[0], "two")
    assert driver.result() == ["one", 0, "two"]


def test_row_12_a_wait_for_that_expires_cancels_the_activity() -> None:
    @workflow
    async def limited() -> str:
        try:
            return await asyncio.wait_for(ship("a"), 3)
        except TimeoutError:
            return "late"

    driver = Driver(limited())
    assert kinds(driver.start()) == [StartTimer, ScheduleActivityTask]
    assert kinds(driver.advance(3)) == [
        RequestCancelActivityTask,
        CompleteWorkflowExecution,
    ]
    assert driver.result() == "late"


# --- row 13 ----------------------------------------------------------------------------


def test_row_13_a_durable_sleep_of_zero_is_a_timer_and_a_turn() -> None:
    @workflow
    async def dozing() -> None:
        await sleep(0)

    driver = Driver(dozing())
    assert kinds(driver.start()) == [StartTimer]
    assert kinds(driver.advance(0)) == [CompleteWorkflowExecution]


def test_row_13_an_asyncio_sleep_of_zero_only_yields() -> None:
    @workflow
    async def yielding() -> None:
        await asyncio.sleep(0)

    assert kinds(Driver(yielding()).start()) == [CompleteWorkflowExecution]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e18])
def test_row_13_a_durable_sleep_refuses_what_is_no_duration(seconds: float) -> None:
    @workflow
    async def wrong() -> None:
        await sleep(seconds)

    driver = Driver(wrong())
    assert kinds(driver.start()) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert isinstance(caught.value.__cause__, InvalidDurationError)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e18])
def test_row_13_an_asyncio_sleep_refuses_what_is_no_duration(seconds: float) -> None:
    @workflow
    async def wrong() -> None:
        await asyncio.sleep(seconds)

    assert kinds(Driver(wrong()).start()) == [FailWorkflowExecution]


def test_row_13_a_cancel_beats_a_fire_that_is_stored_already() -> None:
    @workflow
    async def racing() -> str:
        timer = asyncio.ensure_future(sleep(5))
        item = await ship("a")
        timer.cancel()
        await asyncio.wait([timer])
        await sleep(60)
        return f"{item} {timer.cancelled()}"

    driver = Driver(racing())
    driver.start()
    started = driver.history[2]
    assert kinds(driver.complete(2, "a")) == [CancelTimer, StartTimer]
    late = TimerFired(timer_id="1", started_event_id=started.event_id)
    assert kinds(driver.turn(late)) == []
    driver.crash()  # the void fire is in the history, and replays as void
    driver.fire_next_timer()
    assert driver.result() == "a True"


def test_row_13_a_fire_of_an_unknown_timer_is_ignored() -> None:
    @workflow
    async def waiting() -> None:
        await sleep(5)

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.turn(TimerFired(timer_id="9", started_event_id=77))) == []


# --- row 14 ----------------------------------------------------------------------------


def test_row_14_a_condition_without_timeout_makes_no_timer() -> None:
    @workflow
    async def waiting() -> int:
        items: list[str] = []

        async def fill() -> None:
            items.append(await ship("a"))

        filling = asyncio.ensure_future(fill())
        await wait_condition(lambda: bool(items))
        await filling
        return len(items)

    driver = Driver(waiting())
    assert kinds(driver.start()) == [ScheduleActivityTask]
    driver.complete(2, "a")
    assert driver.result() == 1


def test_row_14_success_cancels_the_timer() -> None:
    @workflow
    async def waiting() -> None:
        items: list[str] = []

        async def fill() -> None:
            items.append(await ship("a"))

        filling = asyncio.ensure_future(fill())
        await wait_condition(lambda: bool(items), timeout=10)
        await filling

    driver = Driver(waiting())
    assert kinds(driver.start()) == [StartTimer, ScheduleActivityTask]
    assert kinds(driver.complete(3, "a")) == [CancelTimer, CompleteWorkflowExecution]


def test_row_14_expiry_raises_timeout_error_which_fails_the_run() -> None:
    @workflow
    async def waiting() -> None:
        await wait_condition(lambda: False, timeout=10)

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.advance(10)) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_row_14_a_timeout_of_zero_only_looks() -> None:
    @workflow
    async def looking() -> list[Any]:
        await wait_condition(lambda: True, timeout=0)
        try:
            await wait_condition(lambda: False, timeout=0)
        except TimeoutError:
            return ["at once", info().history_length]
        return []

    assert kinds(Driver(looking()).start()) == [CompleteWorkflowExecution]


def test_row_14_a_condition_that_holds_at_once_leaves_no_trace() -> None:
    @workflow
    async def looking() -> None:
        await wait_condition(lambda: True, timeout=10)

    assert kinds(Driver(looking()).start()) == [CompleteWorkflowExecution]


@pytest.mark.parametrize("timeout", [None, 0, 5])
def test_row_14_what_the_predicate_raises_is_raised_where_the_code_waits(
    timeout: int | None,
) -> None:
    def broken() -> bool:
        raise ApplicationError("broken predicate")

    @workflow
    async def looking() -> str:
        try:
            await wait_condition(broken, timeout=timeout)
        except ApplicationError as error:
            return error.message
        return "nothing was raised"

    driver = Driver(looking())
    driver.start()
    assert driver.result() == "broken predicate"


def test_row_14_conditions_are_checked_after_everything_ready_has_run() -> None:
    @workflow
    async def ordered() -> list[str]:
        seen: list[str] = []
        state = {"count": 0}

        async def count() -> None:
            for _ in range(3):
                state["count"] += 1
                seen.append(f"count {state['count']}")
                await asyncio.sleep(0)

        async def watch() -> None:
            await wait_condition(lambda: state["count"] > 0)
            seen.append("watched")

        await asyncio.gather(watch(), count())
        return seen

    driver = Driver(ordered())
    driver.start()
    assert driver.result() == ["count 1", "count 2", "count 3", "watched"]


# --- row 15 and 16 ---------------------------------------------------------------------


def test_row_15_results_resolve_in_the_order_of_history() -> None:
    @workflow
    async def collecting() -> list[str]:
        seen: list[str] = []

        async def one(item: str) -> None:
            seen.append(await ship(item))

        await asyncio.gather(*map(one, "abc"))
        return seen

    driver = Driver(collecting())
    driver.start()
    driver.turn(driver.completed(4, "c"), driver.completed(2, "a"))
    driver.crash()
    driver.complete(3, "b")
    assert driver.result() == ["c", "a", "b"]


def test_row_15_results_come_before_timers_of_the_same_turn() -> None:
    @workflow
    async def racing() -> str:
        shipping = asyncio.ensure_future(ship("a"))
        sleeping = asyncio.ensure_future(sleep(5))
        done, _ = await asyncio.wait(
            {shipping, sleeping}, return_when=asyncio.FIRST_COMPLETED
        )
        return f"{shipping in done} {sleeping in done}"

    driver = Driver(racing())
    driver.start()
    driver.clock.advance(5)
    driver.turn(driver.completed(2, "a"))
    assert [type(e.attributes).__name__ for e in driver.history[3:5]] == [
        "ActivityTaskCompleted",
        "TimerFired",
    ]
    assert driver.result() == "True True"


def test_row_16_all_events_of_a_turn_are_applied_before_any_code_runs() -> None:
    @workflow
    async def seeing() -> list[bool]:
        first, second = (asyncio.ensure_future(ship(item)) for item in "ab")
        seen: list[bool] = []
        await first
        # The second result came in the same turn; its task has not run, but is ready.
        await asyncio.sleep(0)
        seen.append(second.done())
        await second
        return seen

    driver = Driver(seeing())
    driver.start()
    driver.turn(driver.completed(2, "a"), driver.completed(3, "b"))
    assert driver.result() == [True]


# --- row 17 ----------------------------------------------------------------------------


def test_row_17_commands_of_other_tasks_come_before_the_end() -> None:
    @workflow
    async def leaving() -> str:
        background = asyncio.ensure_future(ship("background"))
        await asyncio.sleep(0)
        del background
        return "done"

    driver = Driver(leaving())
    assert kinds(driver.start()) == [ScheduleActivityTask, CompleteWorkflowExecution]


def test_row_17_tasks_that_run_on_after_the_return_are_still_committed() -> None:
    @workflow
    async def leaving() -> str:
        async def later() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await ship("later")

        asyncio.ensure_future(later())  # noqa: RUF006 - nobody holds it, on purpose
        await asyncio.sleep(0)
        return "done"

    driver = Driver(leaving())
    assert kinds(driver.start()) == [ScheduleActivityTask, CompleteWorkflowExecution]
    driver.crash()
    driver.replay()
    assert driver.result() == "done"


# --- row 19 ----------------------------------------------------------------------------


def test_row_19_durations_timeouts_and_labels_may_change() -> None:
    seconds, label, act = 5.0, "old", ship

    @workflow
    async def changing() -> str:
        await sleep(seconds, summary=label)
        return await act("a")

    driver = Driver(changing())
    driver.start()
    driver.fire_next_timer()
    seconds, label = 99.0, "new"
    act = ship.options(start_to_close_timeout=999, retry=None, summary="other")
    driver.crash()
    driver.complete(driver.pending[0], "a")
    assert driver.result() == "a"


def test_row_19_a_changed_duration_does_not_touch_a_running_timer() -> None:
    seconds = 5.0

    @workflow
    async def changing() -> None:
        await sleep(seconds)

    driver = Driver(changing())
    driver.start()
    seconds = 500.0
    driver.crash()
    assert kinds(driver.advance(5)) == [CompleteWorkflowExecution]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("other activity", "the activity differs"),
        ("other arguments", "the arguments differ"),
        ("timer instead", "but the code issues StartTimer"),
        ("nothing", "but the code issues CompleteWorkflowExecution"),
        ("more", "history holds nothing more"),
        ("swapped", "the activity differs"),
    ],
)
def test_row_19_missing_extra_and_other_commands_are_errors(
    way: str, message: str
) -> None:
    edit = ""

    @workflow
    async def edited() -> None:
        if edit == "swapped":
            await asyncio.gather(ship_and_wait("b"), ship("a"))
        elif edit == "timer instead":
            await sleep(1)
        elif edit == "more":
            await asyncio.gather(ship("a"), ship_and_wait("b"), ship("c"))
        elif edit == "other arguments":
            await asyncio.gather(ship("A"), ship_and_wait("b"))
        elif edit == "other activity":
            await asyncio.gather(ship_and_forget("a"), ship_and_wait("b"))
        elif edit != "nothing":
            await asyncio.gather(ship("a"), ship_and_wait("b"))

    driver = Driver(edited())
    driver.start()
    driver.crash()
    edit = way
    with pytest.raises(NondeterminismError, match=message):
        driver.complete(2, "a")
    # It parks: nothing but the input is recorded, and the old code goes on.
    assert [event.task_number for event in driver.history] == [1, 1, 1, 0]
    edit = ""
    driver.turn()
    driver.complete(3, "b")
    assert driver.is_closed


@pytest.mark.parametrize("is_longer", [True, False])
def test_row_19_ending_earlier_or_later_than_history_is_an_error(
    is_longer: bool,
) -> None:
    rounds = 1 if is_longer else 2

    @workflow
    async def rounding() -> None:
        for _ in range(rounds):
            await ship("a")

    driver = Driver(rounding())
    driver.start()
    driver.complete(2, "a")
    rounds = 2 if is_longer else 1
    driver.crash()
    with pytest.raises(NondeterminismError):
        driver.replay()


# --- row 20 ----------------------------------------------------------------------------


def test_row_20_time_is_that_of_the_turn_and_never_steps_back() -> None:
    @workflow
    async def telling() -> list[datetime]:
        times = [now(), now()]
        await ship("a")
        times.append(now())
        await ship("b")
        times.append(now())
        return times

    driver = Driver(telling())
    start = driver.clock.datetime()
    driver.start()
    driver.clock.advance(60)
    driver.complete(2, "a")
    driver.clock.set_back(3600)
    driver.crash()
    driver.complete(driver.pending[0], "b")
    seconds = [(time - start).total_seconds() for time in driver.result()]
    assert seconds == [0, 0, 60, 60]


def test_row_20_randomness_is_seeded_by_the_run_id() -> None:
    @workflow
    async def drawing() -> list[Any]:
        first = [random().random(), uuid4()]
        await ship("a")
        return [*map(str, first), random().randrange(10**9), str(uuid4())]

    def draw(run_id: str, *, crash: bool) -> object:
        driver = Driver(drawing(), run_id=run_id)
        driver.start()
        if crash:
            driver.crash()
        driver.complete(2, "a")
        return driver.result()

    assert draw(RUN_ID, crash=True) == draw(RUN_ID, crash=False)
    other = str(uuid.UUID(int=uuid.UUID(RUN_ID).int + 1))
    assert draw(other, crash=False) != draw(RUN_ID, crash=False)


def test_row_20_the_draws_are_those_of_temporals_sdk() -> None:
    """The seed is SipHash-1-3 of the id and 0xff, as CPython computes it too."""

    @workflow
    async def drawing() -> int:
        return random().getrandbits(64)

    driver = Driver(drawing())
    driver.start()
    assert driver.result() == 5671028360305360263


# --- row 25 ----------------------------------------------------------------------------


def test_row_25_the_first_answer_is_the_last() -> None:
    is_new_code = False

    @workflow
    async def patching() -> list[bool]:
        answers = []
        for _ in range(3):
            if is_new_code:
                answers.append(patched("change"))
            await ship("a")
        return answers

    driver = Driver(patching())
    driver.start()
    is_new_code = True
    driver.crash()  # replay meets the call without a marker: false, for good
    for _ in range(3):
        driver.complete(driver.pending[0], "a")
    assert driver.result() == [False, False, False]


def test_row_25_a_first_live_call_is_true_even_in_an_old_run() -> None:
    is_new_code = False

    @workflow
    async def patching() -> bool | None:
        await ship("a")
        answer = patched("late change") if is_new_code else None
        await ship("b")
        return answer

    driver = Driver(patching())
    driver.start()
    is_new_code = True
    driver.crash()
    assert kinds(driver.complete(2, "a")) == [RecordMarker, ScheduleActivityTask]
    driver.crash()
    driver.complete(driver.pending[0], "b")
    assert driver.result() is True


def test_row_25_one_marker_per_patch_and_run() -> None:
    @workflow
    async def patching() -> list[bool]:
        return [patched("a"), patched("b"), patched("a")]

    driver = Driver(patching())
    assert kinds(driver.start()) == [
        RecordMarker,
        RecordMarker,
        CompleteWorkflowExecution,
    ]


def test_row_25_a_deprecated_marker_may_be_missing_later() -> None:
    stage = "patched"

    @workflow
    async def patching() -> str:
        if stage == "patched":
            patched("change")
        elif stage == "deprecated":
            deprecate_patch("change")
        return await ship("a")

    def run(first: str, then: str) -> object:
        nonlocal stage
        stage = first
        driver = Driver(patching())
        driver.start()
        stage = then
        driver.crash()
        driver.complete(driver.pending[0], "a")
        return driver.result()

    assert run("patched", "deprecated") == "a"
    assert run("deprecated", "removed") == "a"
    with pytest.raises(NondeterminismError, match="change"):
        run("patched", "removed")


def test_row_25_a_patch_replays_alike_wherever_the_history_is_cut() -> None:
    @workflow
    async def patching() -> str:
        if patched("change"):
            await sleep(1)
        return await ship("a")

    driver = Driver(patching())
    driver.start()
    driver.crash()
    driver.fire_next_timer()
    driver.crash()
    driver.complete(driver.pending[0], "a")
    assert [type(event.attributes).__name__ for event in driver.history] == [
        "WorkflowExecutionStarted",
        "MarkerRecorded",
        "TimerStarted",
        "TimerFired",
        "ActivityTaskScheduled",
        "ActivityTaskCompleted",
        "WorkflowExecutionCompleted",
    ]
    assert all(isinstance(event, HistoryEvent) for event in driver.history)

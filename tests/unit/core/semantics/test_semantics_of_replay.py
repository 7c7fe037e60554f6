"""Rows 19, 20 and 25 of the semantics: matching, time and randomness, patches.

See `test_semantics.py` for the others.
"""

import asyncio
import contextlib
import math
import uuid
from datetime import datetime
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    NondeterminismError,
    activity,
    deprecate_patch,
    now,
    patched,
    random,
    sleep,
    uuid4,
    workflow,
)
from durable.core.history import flags
from durable.core.history.commands import (
    CompleteWorkflowExecution,
    RecordMarker,
    ScheduleActivityTask,
)
from durable.core.history.events import HistoryEvent
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.limits import PAYLOAD_BYTES_MAX
from durable.testing import replay, replay_at_every_prefix
from durable.testing.driver import RUN_ID, Driver


@activity(name="replaying.ship", retry=None)
async def ship(item: str) -> str:
    return item


@activity(
    name="replaying.ship_and_wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def ship_and_wait(item: str) -> str:
    return item


@activity(
    name="replaying.ship_and_forget",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def ship_and_forget(item: str) -> str:
    return item


def kinds(completion: WorkflowTaskCompletion | None) -> list[type]:
    assert completion is not None
    return [type(command) for command in completion.commands]


class Text(str):
    """A text that would come back as a plain one."""


@activity(name="replaying.measure", retry=None)
async def measure(value: float | str | list[float]) -> str:
    return str(value)


@activity(name="replaying.measure_anything", retry=None)
async def measure_anything(value: Any) -> str:
    return str(value)


# --- what is refused live is refused on replay ----------------------------------------

REFUSED: dict[str, Any] = {
    "not a number": math.nan,
    "infinity inside": [1.0, math.inf],
    "too large": "x" * (PAYLOAD_BYTES_MAX + 1),
    "of a subclass": Text("x"),
    "a tuple": (1, 2),
    "no data": object(),
    "a surrogate": "\ud800",
}


@pytest.mark.parametrize("untyped", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_an_argument_that_was_refused_live_is_refused_on_replay(
    kind: str, untyped: bool
) -> None:
    value = REFUSED[kind]
    target = measure_anything if untyped else measure

    @workflow
    async def careful() -> list[str]:
        try:
            seen = await target(value)
        except ValueError:
            seen = await target(0.0)
        await sleep(1)
        try:
            return [seen, await target(value)]
        except ValueError as error:
            return [seen, type(error).__name__]

    driver = Driver(careful())
    driver.start()
    driver.crash()
    driver.complete(driver.pending[0], "kept")
    driver.crash()
    driver.advance(1)
    found = list(driver.result())
    assert found[0] == "kept"
    assert found[1].startswith("Payload")
    replay_at_every_prefix(driver.history, [careful])


def test_a_refusal_that_an_earlier_release_did_not_note_is_found() -> None:
    @workflow
    async def careful() -> str:
        seen = await ship("a")
        try:
            seen += await measure(math.nan)
        except ValueError:
            seen += await measure(0.0)
        await sleep(1)
        return seen

    driver = Driver(careful())
    driver.start()
    for _ in range(2):
        driver.complete(driver.pending[0], "x")
    driver.fire_next_timer()
    assert driver.result() == "xx"
    history = [
        HistoryEvent(
            event.event_id,
            event.task_number,
            event.time,
            event.attributes,
            event.flags & ~flags.Flag.ARGUMENTS_REFUSED,
        )
        for event in driver.history
    ]
    assert replay(history, [careful]).result == "xx"

    @workflow(name=careful.name)
    async def changed() -> None:
        await ship("a")
        await sleep(1)

    with pytest.raises(NondeterminismError, match="event 4 is ActivityTaskScheduled"):
        replay(history, [changed])


def test_a_refusal_is_noted_in_its_turn_alone() -> None:
    @workflow
    async def careful() -> None:
        await ship("a")
        with contextlib.suppress(ValueError):
            await measure(math.nan)
        await ship("b")
        await ship("c")

    driver = Driver(careful())
    driver.start()
    for _ in range(3):
        driver.complete(driver.pending[0], "x")
    noted = {
        event.task_number
        for event in driver.history
        if event.flags & flags.Flag.ARGUMENTS_REFUSED
    }
    assert noted == {2}


# --- row 19 ---------------------------------------------------------------------------


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
        ("other arguments", r"argument 1 \('\w+'\) differs"),
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


# --- row 20 ---------------------------------------------------------------------------


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


# --- row 25 ---------------------------------------------------------------------------


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

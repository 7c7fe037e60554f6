"""What becomes of the attempts of activities, and of the rows that speak of them."""

from __future__ import annotations

from typing import Any

import pytest

from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
)
from durable.core.messages import ActivityResolution, encode_message
from durable.runs import inputs
from durable.runs.effects import Then
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import (
    AT_REST,
    BACKOFF,
    CANCELLING,
    GONE,
    HELD,
    OVER,
    PARKING,
    QUEUED,
    RECORDING,
    RUNNING,
    UNREAD,
    Phase,
)
from durable.store.records import RecordAttempts
from tests.obeyer import letter, payload
from tests.run_world import SECOND, RunWorld


class Acting(RunWorld):
    """A world whose run has one activity under way."""

    def __init__(self, do: str = "act") -> None:
        super().__init__()
        self.live: LiveRun = self.at_rest()
        self.obey(do)
        (self.attempt,) = self.running

    def obey(self, do: str) -> None:
        """Have the code do something."""
        self.tell(letter(f"{do} {len(self.answers)}", do))
        self.drive()
        self.store()

    def bring(self, phase: Phase) -> Attempt:
        """The attempt of the activity, which is in a phase."""
        attempt = self.attempt
        match phase:
            case Phase.QUEUED | Phase.RECORDING:
                self.end_attempt(attempt, "queued")
                self.store()
                if phase is RECORDING:
                    self.make_room(attempt)
            case Phase.BACKOFF:
                self.end_attempt(attempt, "failed")
                self.store()
                (attempt,) = self.live.backoffs.values()
            case Phase.HELD:
                self.end_attempt(attempt, "unrecorded")
            case Phase.CANCELLING:
                self.obey("cancel")
            case _:
                pass
        assert attempt.phase is phase
        return attempt

    def states(self) -> list[tuple[int, str]]:
        """Attempts and their states, as committed."""
        return [
            (attempt, row.state.value)
            for (_, attempt), row in sorted(self.attempt_rows.items())
        ]

    def ends(self) -> list[Any]:
        """How activities have ended, as committed."""
        kinds = (
            ActivityTaskCompleted,
            ActivityTaskFailed,
            ActivityTaskTimedOut,
            ActivityTaskCanceled,
        )
        return [e.attributes for e in self.events() if isinstance(e.attributes, kinds)]

    def settle(self) -> None:
        """Drive and commit until nothing is left to do."""
        self.drive_on()
        while self.queue:
            self.store()
            self.drive_on()


@pytest.fixture
def world() -> Acting:
    return Acting()


def test_nothing_begins_before_its_scheduling_is_recorded() -> None:
    world = RunWorld()
    world.at_rest()
    world.tell(letter("act", "act"))
    world.drive()
    assert world.running == []
    world.store()
    assert len(world.running) == 1
    assert world.record is not None
    assert (world.record.is_active, world.record.wake_at) == (True, None)


def test_what_returned_is_recorded_without_a_row(world: Acting) -> None:
    world.end_attempt(world.attempt, "completed")
    world.settle()
    assert [type(end) for end in world.ends()] == [ActivityTaskCompleted]
    assert world.states() == []
    assert world.record is not None
    assert not world.record.is_active


# --- again ----------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "state"), [("failed", 0), ("timed out", 1)])
def test_one_that_failed_is_followed_by_one_that_waits(
    world: Acting, how: str, state: int
) -> None:
    world.end_attempt(world.attempt, how)
    (recording,) = [one.recording for one in world.queue]
    assert recording is not None
    assert recording.then is Then.FOLLOW
    world.store()
    assert world.states() == [(1, ["failed", "timed_out"][state]), (2, "backoff")]
    assert world.record is not None
    assert (world.record.is_active, world.record.wake_at) == (
        False,
        world.now + SECOND,
    )
    world.pass_time(SECOND)
    (following,) = world.live.attempts.values()
    assert (following.phase, world.running) == (RECORDING, [])
    world.store()
    assert (following.phase, world.running) == (RUNNING, [following])
    assert world.record.is_active


def test_the_last_of_its_tries_is_an_outcome(world: Acting) -> None:
    for _ in range(2):
        world.end_attempt(world.running[0], "failed")
        world.store()
        world.pass_time(10 * SECOND)
        world.store()
    world.end_attempt(world.running[0], "timed out")
    world.settle()
    (end,) = world.ends()
    assert isinstance(end, ActivityTaskTimedOut)
    assert (end.attempt, world.states()[-1]) == (3, (3, "timed_out"))


def test_a_row_of_an_end_that_was_not_written_goes_with_the_next_turn(
    world: Acting,
) -> None:
    world.end_attempt(world.attempt, "failed")
    world.store("taken")
    assert world.live.state is UNREAD
    assert [row.state.value for row in world.live.ended] == ["failed"]
    world.read()
    world.settle()
    assert (1, "failed") in world.states()
    assert world.live.ended == ()
    assert len(world.live.backoffs) == 1


def test_one_that_could_not_begin_is_tried_again_as_the_same(world: Acting) -> None:
    world.end_attempt(world.attempt, "not begun")
    world.store()
    assert world.states() == [(1, "backoff")]
    world.pass_time(SECOND)
    world.store()
    assert world.states() == [(1, "started")]
    assert world.running == [world.attempt]


def test_what_ends_twice_is_heard_once(world: Acting) -> None:
    attempt = world.attempt
    world.end_attempt(attempt, "completed")
    for how in ("failed", "completed", "stopped", "unrecorded", "doubtful", "lost"):
        world.running.append(attempt)
        world.end_attempt(attempt, how)
    world.settle()
    assert len(world.ends()) == 1
    assert attempt.phase is OVER


# --- its process died -----------------------------------------------------------------


def test_one_whose_process_died_is_lost_and_followed_at_once(world: Acting) -> None:
    world.end_attempt(world.attempt, "lost")
    world.store()
    assert world.states() == [(1, "lost"), (2, "started")]
    assert [attempt.attempt for attempt in world.running] == [2]
    # That one has not failed: its successor has all the attempts that there were.
    assert world.running[0].lost == 1


def test_one_that_may_run_once_and_whose_process_died_is_over() -> None:
    world = Acting("act once")
    world.end_attempt(world.attempt, "lost")
    world.settle()
    (end,) = world.ends()
    assert isinstance(end, ActivityTaskFailed)
    assert end.retry_state == "outcome_unknown"


def test_one_that_was_to_stop_and_whose_process_died_is_cancelled(
    world: Acting,
) -> None:
    attempt = world.bring(CANCELLING)
    world.end_attempt(attempt, "lost")
    world.settle()
    (end,) = world.ends()
    assert isinstance(end, ActivityTaskCanceled)


# --- asked to stop --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "is_over"),
    [
        (RUNNING, False),
        (CANCELLING, False),
        (QUEUED, True),
        (RECORDING, True),
        (BACKOFF, True),
        (HELD, True),
    ],
)
def test_one_that_is_asked_to_stop_is_over_unless_it_runs(
    world: Acting, phase: Phase, is_over: bool
) -> None:
    attempt = world.bring(QUEUED if phase is RECORDING else phase)
    if phase is not CANCELLING:
        world.tell(letter("cancel", "cancel"))
        world.drive()
        if phase is RECORDING:
            world.make_room(attempt)
            assert attempt.phase is RECORDING
        world.settle()
    if not is_over:
        assert attempt.phase is CANCELLING
        world.end_attempt(attempt, "stopped")
    assert attempt.phase is OVER
    assert not world.live.backoffs
    world.settle()
    assert world.running == []
    number = attempt.attempt
    assert dict(world.states())[number] == "cancelled"


@pytest.mark.parametrize("how", ["failed", "timed out"])
def test_one_that_fails_after_it_was_asked_to_stop_is_not_tried_again(
    world: Acting, how: str
) -> None:
    attempt = world.bring(CANCELLING)
    world.end_attempt(attempt, how)
    assert attempt.phase is OVER
    assert not world.live.backoffs


def test_one_that_was_asked_to_stop_and_could_not_begin_does_not_begin_again(
    world: Acting,
) -> None:
    attempt = world.bring(CANCELLING)
    world.end_attempt(attempt, "not begun")
    assert attempt.phase is OVER
    assert not world.live.backoffs
    world.settle()
    assert world.states() == [(1, "cancelled")]


def test_what_is_asked_for_and_called_off_in_one_turn_never_begins() -> None:
    world = RunWorld()
    world.at_rest()
    world.tell(letter("first"))
    world.drive()
    world.tell(letter("act", "act"))
    world.tell(letter("cancel", "cancel"))
    world.store()
    world.drive()
    world.store()
    assert all(attempt.phase is not RUNNING for attempt in world.running)
    assert world.running == []


# --- held -----------------------------------------------------------------------------


def test_a_run_parks_for_what_it_holds_once_its_row_says_so(world: Acting) -> None:
    world.bring(HELD)
    assert world.queue[0].recording is not None
    world.store()
    assert world.live.state is PARKING
    assert world.states() == [(1, "returned")]
    world.store()
    assert world.run is None
    assert world.record is not None
    assert world.record.stuck
    assert (world.record.is_active, world.record.wake_at) == (False, None)


def test_a_run_does_not_park_while_another_attempt_runs(world: Acting) -> None:
    world.obey("act")
    world.bring(HELD)
    world.store()
    assert world.live.state is AT_REST
    (other,) = world.running
    world.end_attempt(other, "completed")
    world.settle()
    assert world.record is not None
    assert world.record.stuck


def test_that_it_is_held_is_written_again(world: Acting) -> None:
    attempt = world.bring(HELD)
    world.store("taken")
    assert world.live.state is UNREAD
    world.feed(inputs.HoldAgain(attempt))
    world.read()
    world.drive()
    world.store()
    assert world.states() == [(1, "returned")]


@pytest.mark.parametrize("is_again", [False, True])
def test_an_operator_decides_of_what_is_held(world: Acting, is_again: bool) -> None:
    world.mends = False
    world.bring(HELD)
    while world.queue:
        world.store()
    result = None if is_again else payload(5)
    number = world.attempt.scheduled_event_id
    said = encode_message(ActivityResolution(number, 1, result))
    world.write_mail("resolve", "resolved", said)
    world.enter()
    world.settle()
    if is_again:
        (following,) = world.running
        assert (following.phase, following.attempt) == (RUNNING, 2)
        assert world.states() == [(1, "returned"), (2, "started")]
    else:
        (end,) = world.ends()
        assert bytes(end.result.json) == b"5"
        assert world.states() == [(1, "completed")]


def test_mended_code_takes_what_was_held(world: Acting) -> None:
    world.bring(HELD)
    while world.queue:
        world.store()
    world.enter()
    world.settle()
    assert [type(end) for end in world.ends()] == [ActivityTaskCompleted]
    assert world.record is not None
    assert world.record.stuck is None


# --- a worker that ends, or is lost ---------------------------------------------------


def test_who_drains_begins_nothing_more(world: Acting) -> None:
    world.bring(BACKOFF)
    world.terms.is_draining = True
    world.pass_time(10 * SECOND)
    assert (world.running, list(world.queue)) == ([], [])


def test_what_a_drain_has_not_begun_is_begun_by_the_next(world: Acting) -> None:
    world.terms.is_draining = True
    world.end_attempt(world.attempt, "left")
    world.store()
    world.leave()
    world.join()
    world.enter()
    world.drive()
    world.store()
    assert world.states() == [(1, "started")]
    assert [attempt.attempt for attempt in world.running] == [1]


def test_what_a_drain_cut_short_is_lost_and_says_why(world: Acting) -> None:
    world.terms.is_draining = True
    world.end_attempt(world.attempt, "doubtful")
    world.store()
    world.leave()
    world.join()
    world.enter()
    world.drive()
    world.store()
    assert world.states() == [(1, "lost"), (2, "started")]


def test_one_that_may_run_once_is_not_run_again_after_a_crash() -> None:
    world = Acting("act once")
    world.leave()
    world.enter()
    world.settle()
    (end,) = world.ends()
    assert isinstance(end, ActivityTaskFailed)
    assert end.retry_state == "outcome_unknown"
    assert world.states() == [(1, "lost")]


@pytest.mark.parametrize(
    "phase", [RUNNING, QUEUED, RECORDING, BACKOFF, HELD, CANCELLING]
)
@pytest.mark.parametrize(
    "given", [inputs.Leave(), inputs.ClosedElsewhere()], ids=["leave", "closed"]
)
def test_no_attempt_outlives_its_run(world: Acting, phase: Phase, given: Any) -> None:
    attempt = world.bring(phase)
    effects = world.feed(given)
    assert attempt.phase is OVER
    assert attempt in effects.rare.stop
    while world.queue:
        world.store()
    assert world.running == []


def test_one_whose_beginning_was_not_recorded_does_not_begin(world: Acting) -> None:
    attempt = world.bring(RECORDING)
    world.store("lease lost")
    assert (attempt.phase, world.live.state) == (OVER, GONE)
    assert world.running == []


def test_an_unknown_activity_waits_for_a_worker_that_knows_it(world: Acting) -> None:
    world.end_attempt(world.attempt, "unknown")
    recording = world.queue[-1].recording
    assert recording is not None
    assert (recording.then, recording.is_first) == (Then.SEEK, True)
    effects = world.store()
    assert effects is not None
    assert effects.rare.seek == [(world.attempt, True)]
    assert isinstance(recording.operation, RecordAttempts)
    assert recording.operation.is_active

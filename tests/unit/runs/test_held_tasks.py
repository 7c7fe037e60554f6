"""What becomes of a claimed activity, by the machine that stands in its run's place."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from durable import limits
from durable.core.history.commands import ONE_ATTEMPT, ActivitySettings, RetrySettings
from durable.core.history.events import ActivityTaskScheduled
from durable.core.history.payload import NULL, Failure, encode_details
from durable.core.messages import decode_message
from durable.runs import inputs
from durable.runs.activity_tasks import holding
from durable.runs.activity_tasks.holding import HeldTask, TaskEffects
from durable.runs.activity_tasks.judging import judge
from durable.runs.activity_tasks.pausing import PAUSED
from durable.runs.activity_tasks.task_rows import (
    TaskData,
    TaskProgress,
    data_of,
    encode,
    progress_of,
)
from durable.runs.live_run import Terms
from durable.runs.states import OVER
from durable.store.activity_tasks import (
    RUN_CLOSED,
    ActivityTaskRecord,
    CancelArrived,
    SettleActivityTask,
    TaskState,
)
from durable.store.records import AttemptState

NOW: Final = 1_700_000_000_000_000
SECOND: Final = 1_000_000
RETRIES: Final = RetrySettings(3, SECOND, 60 * SECOND, 2.0, (), ())


def record(**fields: Any) -> ActivityTaskRecord:
    """A claimed activity; settings and progress by their fields."""
    settings = ActivitySettings(
        task_queue="gpu",
        start_to_close_timeout=fields.pop("start_to_close", 60 * SECOND),
        schedule_to_close_timeout=None,
        schedule_to_start_timeout=fields.pop("schedule_to_start", None),
        heartbeat_timeout=fields.pop("heartbeat", None),
        retry_policy=fields.pop("retry", RETRIES),
        cancellation_type=fields.pop("cancellation", "try_cancel"),
        at_most_once=fields.pop("at_most_once", False),
    )
    scheduled = ActivityTaskScheduled("1", "render", (), settings, {})
    data = TaskData("w", "video", "default", scheduled, NOW - 10 * SECOND)
    progress = TaskProgress(lost=fields.pop("lost", 0))
    made = ActivityTaskRecord(
        run_id="r",
        scheduled_event_id=2,
        namespace="default",
        task_queue="gpu",
        activity_type="render",
        attempt=1,
        due_at=NOW - SECOND,
        data=encode(data),
        state=TaskState.CLAIMED,
        worker_id="me",
        started_at=NOW,
        progress=encode(progress),
    )
    return msgspec.structs.replace(made, **fields)


def hold(**fields: Any) -> HeldTask:
    terms = Terms(
        worker_id="me",
        max_tries=1,
        can_run=lambda queue, kind, version: False,
        knows_activity=lambda _: True,
        new_run_id=str,
        new_replayer=lambda: pytest.fail("no code is driven"),
    )
    return holding.hold(record(**fields), terms)


def feed(held: HeldTask, kind: type[Any], *given: Any) -> TaskEffects:
    return holding.handle(held, kind(held.attempt, *given), NOW)


def told(settle: SettleActivityTask | None) -> Any:
    """The event that the run is told."""
    assert settle is not None
    assert settle.message is not None
    return decode_message("activity", settle.message)


def after(settle: SettleActivityTask | None) -> ActivityTaskRecord:
    """The row that takes its place."""
    assert settle is not None
    assert settle.message is None
    assert settle.next is not None
    return settle.next


FAILURE: Final = Failure(message="no", type="ValueError")
DOUBT: Final = Failure(message="cut short", kind="outcome_unknown")


def test_the_first_end_counts() -> None:
    held = hold()
    settle = feed(held, inputs.AttemptCompleted, NULL, NOW).settle
    assert type(told(settle)).__name__ == "ActivityTaskCompleted"
    for kind, *given in (
        (inputs.AttemptFailed, FAILURE, NOW),
        (inputs.AttemptStopped, NOW),
        (inputs.AttemptDoubtful, DOUBT, NOW),
        (inputs.AttemptBeat, NOW),
    ):
        effects = feed(held, kind, *given)
        assert effects == TaskEffects() or effects.settle is None
    assert not holding.stop(held, RUN_CLOSED).stop


def test_a_failure_waits_for_its_time_with_what_was_said() -> None:
    held = hold()
    held.attempt.details = (NULL,)
    settle = feed(held, inputs.AttemptFailed, FAILURE, NOW).settle
    following = after(settle)
    assert (following.state, following.attempt) == (TaskState.WAITING, 2)
    assert following.due_at == NOW + SECOND
    progress = progress_of(following)
    assert (progress.details, progress.last_failure) == ((NULL,), FAILURE)
    assert settle is not None
    assert settle.attempts[0].details == encode_details((NULL,))


def test_a_cancel_that_comes_with_a_retry_ends_it() -> None:
    held = hold()
    feed(held, inputs.AttemptFailed, FAILURE, NOW)
    settle = holding.settled(held, CancelArrived("requested"), NOW)
    assert told(settle).retry_state == "cancel_requested"
    assert settle is not None
    assert settle.cancel == "requested"


def test_a_pause_that_comes_with_a_retry_keeps_it() -> None:
    held = hold()
    feed(held, inputs.AttemptFailed, FAILURE, NOW)
    following = after(holding.settled(held, CancelArrived(PAUSED), NOW))
    assert data_of(following).is_run_paused
    assert following.due_at > NOW + 60 * SECOND


@pytest.mark.parametrize(
    ("fields", "is_repeated"),
    [
        ({}, True),
        ({"at_most_once": True}, False),
        ({"retry": ONE_ATTEMPT}, False),
        ({"lost": limits.LOST_ATTEMPTS_MAX - 2}, True),
        ({"lost": limits.LOST_ATTEMPTS_MAX - 1}, False),
    ],
)
def test_doubts(fields: dict[str, Any], is_repeated: bool) -> None:
    here = feed(hold(**fields), inputs.AttemptDoubtful, DOUBT, NOW).settle
    elsewhere = judge(record(state=TaskState.LOST, expires_at=0, **fields), NOW)
    for settle in (here, elsewhere):
        assert settle is not None
        assert settle.attempts[0].state is AttemptState.LOST
        if is_repeated:
            lost = fields.get("lost", 0) + 1
            assert progress_of(after(settle)).lost == lost
            longest = limits.LOST_WAIT_SECONDS_MAX * SECOND if lost > 1 else 0
            assert NOW <= after(settle).due_at <= NOW + longest
        else:
            assert told(settle).failure.kind == "outcome_unknown"


def test_one_that_was_to_stop_and_is_lost_has_stopped() -> None:
    lost = record(state=TaskState.LOST, expires_at=0, cancel="requested")
    assert type(told(judge(lost, NOW))).__name__ == "ActivityTaskCanceled"


@pytest.mark.parametrize(
    ("kind", "given", "due_at"),
    [
        (inputs.AttemptLeft, (), NOW - SECOND),
        (inputs.AttemptQueued, (), NOW - SECOND),
        (inputs.AttemptNotBegun, (NOW + SECOND,), NOW + SECOND),
        (inputs.AttemptUnknown, (), NOW + holding.AGAIN_MICROSECONDS),
    ],
)
def test_what_has_not_begun_is_put_back(
    kind: type[Any], given: tuple[Any, ...], due_at: int
) -> None:
    held = hold(schedule_to_start=5 * SECOND)
    following = after(feed(held, kind, *given).settle)
    assert (following.attempt, following.due_at) == (1, due_at)
    assert following.expires_at == NOW - SECOND + 5 * SECOND  # it has waited since
    assert following.worker_id is None


def test_arguments_that_do_not_fit_wait_and_say_why() -> None:
    said = FAILURE, AttemptState.BACKOFF, NOW
    following = after(feed(hold(), inputs.AttemptUnrecorded, *said).settle)
    assert progress_of(following).problem == FAILURE
    assert following.due_at == NOW + holding.AGAIN_MICROSECONDS


def test_a_result_that_does_not_fit_goes_back_to_its_run() -> None:
    said = FAILURE, AttemptState.RETURNED, NOW
    settle = feed(hold(), inputs.AttemptUnrecorded, *said).settle
    assert type(told(settle)).__name__ == "ActivityReturned"
    assert settle is not None
    assert settle.attempts[0].state is AttemptState.RETURNED


@pytest.mark.parametrize("kind", ["try_cancel", "abandon"])
def test_the_end_of_its_run(kind: str) -> None:
    held = hold(cancellation=kind)
    effects = holding.stop(held, RUN_CLOSED)
    assert (effects.stop, effects.let_go) == (kind != "abandon", kind == "abandon")
    assert held.attempt.phase is OVER


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (
            {"state": TaskState.WAITING, "schedule_to_start": SECOND},
            "schedule_to_start",
        ),
        ({"state": TaskState.EXTERNAL, "retry": ONE_ATTEMPT}, "start_to_close"),
        (
            {"state": TaskState.EXTERNAL, "retry": ONE_ATTEMPT, "heartbeat": SECOND},
            "heartbeat",
        ),
    ],
)
def test_what_has_expired(fields: dict[str, Any], kind: str) -> None:
    settle = judge(record(**fields), NOW + 61 * SECOND)
    assert told(settle).failure.timeout_type == kind


def test_one_that_has_not_expired_yet_is_judged_later() -> None:
    one = record(state=TaskState.EXTERNAL, expires_at=1, judge_id="me")
    following = after(judge(one, NOW))
    assert following.expires_at == NOW + 60 * SECOND
    assert following.judge_id is None

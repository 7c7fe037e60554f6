"""What a schedule decides about times that have come, and how it counts them."""

from __future__ import annotations

import msgspec
import pytest

from durable.schedules.activities import find_times
from durable.schedules.cron import schedule_spec
from durable.schedules.definition import (
    ScheduleAction,
    ScheduleDefinition,
    ScheduleOverlap,
)
from durable.schedules.packing import pack, unpack
from durable.schedules.schedule_workflow import TimesWanted
from durable.schedules.state import BUFFER_MAX, Firing, ScheduleState

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def state(overlap: str = "skip", **how: object) -> ScheduleState:
    definition = ScheduleDefinition(
        action=ScheduleAction(workflow_type="w", input=(), workflow_id="s"),
        spec=schedule_spec("@hourly"),
        overlap=ScheduleOverlap(overlap),
        **how,  # type: ignore[arg-type]  # of the tests below
    )
    return ScheduleState(
        schedule_id="s", definition=definition, created_at=1, updated_at=1, after=0
    )


@pytest.mark.parametrize(
    ("overlap", "is_running", "starts", "beside", "waits", "skipped", "stops"),
    [
        ("skip", False, 1, [], [], 2, ""),
        ("skip", True, None, [], [], 3, ""),
        ("buffer_one", False, 1, [], [2], 1, ""),
        ("buffer_one", True, None, [], [1], 2, ""),
        ("buffer_all", False, 1, [], [2, 3], 0, ""),
        ("buffer_all", True, None, [], [1, 2, 3], 0, ""),
        ("cancel_other", False, 1, [], [3], 1, "cancel"),
        ("cancel_other", True, None, [], [3], 2, "cancel"),
        ("terminate_other", True, None, [], [3], 2, "terminate"),
        ("allow_all", True, None, [1, 2, 3], [], 0, ""),
    ],
)
def test_policy_decides_about_three_times(
    overlap: str,
    is_running: bool,
    starts: int | None,
    beside: list[int],
    waits: list[int],
    skipped: int,
    stops: str,
) -> None:
    one = state(overlap)
    one.buffer = [Firing(n) for n in (1, 2, 3)]
    found = one.decide(is_running)
    assert (found.start.at if found.start else None) == starts
    assert [firing.at for firing in found.beside] == beside
    assert [firing.at for firing in one.buffer] == waits
    assert one.counts.skipped == skipped
    assert (found.cancels, found.terminates) == (
        stops == "cancel",
        stops == "terminate",
    )


def test_own_policy_of_a_firing_goes_before_that_of_the_schedule() -> None:
    one = state("skip")
    one.buffer = [Firing(1), Firing(2, ScheduleOverlap.BUFFER_ALL, True)]
    one.decide(True)
    assert [firing.at for firing in one.buffer] == [2]


def test_paused_or_spent_schedule_starts_only_what_somebody_asked_for() -> None:
    for how in ({"paused": True}, {"remaining_actions": 0}):
        one = state("buffer_all", **how)
        one.buffer = [Firing(1), Firing(2, None, True)]
        found = one.decide(False)
        assert found.start == Firing(2, None, True)
        assert one.counts.actions == 1


def test_limit_ends_within_one_decision() -> None:
    one = state("allow_all", remaining_actions=2)
    one.buffer = [Firing(n) for n in (1, 2, 3)]
    assert len(one.decide(False).beside) == 2
    assert one.definition.remaining_actions == 0


def test_times_are_taken_missed_skipped_or_dropped() -> None:
    one = state("buffer_all", catchup_window="1h")
    one.upcoming = [(n * HOUR, n * HOUR) for n in (1, 2, 8, 9, 20)]
    one.lapsed_until = 1 * HOUR
    assert one.take_due(9 * HOUR)
    assert (one.counts.skipped, one.counts.missed) == (1, 1)
    assert [firing.at for firing in one.buffer] == [8 * HOUR, 9 * HOUR]
    assert one.upcoming == [(20 * HOUR, 20 * HOUR)]
    assert one.after == 9 * HOUR
    assert not one.take_due(9 * HOUR)
    one.buffer = [Firing(n) for n in range(BUFFER_MAX)]
    one.take_due(20 * HOUR)
    assert one.counts.dropped == 1


def test_jittered_time_is_acted_for_when_it_was_put_off_to() -> None:
    one = state()
    one.upcoming = [(HOUR, HOUR + 5)]
    assert not one.take_due(HOUR + 4)
    assert one.take_due(HOUR + 5)
    assert one.buffer == [Firing(HOUR)]


def test_state_of_this_release_is_read_from_its_json() -> None:
    one = state("buffer_all", catchup_window="1h", paused=True, note="n")
    one.buffer = [Firing(5, ScheduleOverlap.SKIP, True)]
    assert unpack(pack(one), ScheduleState) == one
    # A later release may add what this one does not know.
    more = msgspec.json.decode(msgspec.json.encode(one))
    more["novelty"] = 1
    assert unpack(pack(more), ScheduleState) == one


def times(after: int, now: int, not_before: int, text: str = "@hourly") -> TimesWanted:
    return TimesWanted(schedule_spec(text), "s", after, now, not_before)


def test_next_time_is_found_however_far_and_few_beyond_the_hour() -> None:
    found = find_times(times(0, 0, 0, "0 0 1 1 *"))
    assert len(found.times) == 1
    assert found.has_more
    found = find_times(times(0, 0, 0, "* * * * * * *"))
    assert len(found.times) == 16


def test_past_times_come_in_pages_that_lose_none() -> None:
    now, after, seen, missed = 3_000 * HOUR + 1, 0, [], 0
    while True:
        found = find_times(times(after, now, 500 * HOUR))
        missed += found.missed
        past = [at for at, _ in found.times if at <= now]
        seen += past
        after = max([found.after, *past])
        if len(past) < len(found.times):
            break
    assert missed == 499
    assert seen == [n * HOUR for n in range(500, 3_001)]


def test_last_time_is_the_end() -> None:
    spec = schedule_spec("0 0 1 1 * 1971")
    found = find_times(TimesWanted(spec, "s", 0, 0, 0))
    assert (len(found.times), found.has_more) == (1, False)

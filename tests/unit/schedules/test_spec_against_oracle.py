"""The instants of specs, against an oracle: it looks at each minute by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.schedules.cron import schedule_spec
from durable.schedules.spec import Calendar, Interval, ScheduleSpec
from tests.sizes import examples

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",  # moves its clock by half an hour
    "Africa/Casablanca",  # twice a year more, around Ramadan
    "America/Sao_Paulo",  # changed at midnight, until 2019
    "Pacific/Apia",  # left out 2011-12-30
    "Asia/Kathmandu",
)
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2024, 3, 10, 7, tzinfo=UTC),
    datetime(2023, 11, 5, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2018, 11, 4, 3, tzinfo=UTC),
    datetime(2018, 2, 18, 2, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
    datetime(2006, 10, 29, 4, tzinfo=UTC),  # St John's at 00:01
    datetime(2026, 2, 15, 2, tzinfo=UTC),
    datetime(2028, 2, 29, 0, tzinfo=UTC),
    datetime(2100, 2, 28, 23, tzinfo=UTC),
)
Numbers = dict[str, set[int]]
BOUNDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day_of_month": (1, 31),
    "month": (1, 12),
    "day_of_week": (0, 6),
}


@st.composite
def numbers(draw: st.DrawFn) -> Numbers:
    found = {}
    for name, (low, high) in BOUNDS.items():
        every = set(range(low, high + 1))
        some = st.sets(st.integers(low, high), min_size=1, max_size=6)
        steps = [frozenset(range(low, high + 1, step)) for step in range(1, 8)]
        dense = st.sampled_from(steps)
        found[name] = set(draw(st.one_of(st.just(every), some, dense)))
    return found


def calendar_of(fields: Numbers) -> Calendar:
    return Calendar(**{k: ",".join(map(str, sorted(v))) for k, v in fields.items()})


def possible(fields: Numbers) -> bool:
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    return any(
        min(fields["day_of_month"]) <= longest.get(month, 31)
        for month in fields["month"]
    ) and (
        min(fields["day_of_month"]) < 29
        or 2 not in fields["month"]
        or len(fields["day_of_week"]) == 7
    )


def says(fields: Numbers, local: datetime) -> bool:
    return (
        local.minute in fields["minute"]
        and local.hour in fields["hour"]
        and local.day in fields["day_of_month"]
        and local.month in fields["month"]
        and local.isoweekday() % 7 in fields["day_of_week"]
    )


def brute(
    spec: Numbers, skip: Numbers | None, zone: str, start: datetime, minutes: int
) -> list[datetime]:
    place = ZoneInfo(zone)
    found = []
    for n in range(minutes):
        moment = start + timedelta(minutes=n)
        local = moment.astimezone(place)
        if local.second:
            continue
        if says(spec, local) and not (skip and says(skip, local)):
            found.append(moment)
    return found


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(
    fields=numbers().filter(possible),
    skip=st.none() | numbers().filter(possible),
    zone=st.sampled_from(ZONES),
    change=st.sampled_from(CHANGES),
    before=st.integers(0, 48),
)
def test_spec_means_what_an_oracle_finds_minute_by_minute(
    fields: Numbers, skip: Numbers | None, zone: str, change: datetime, before: int
) -> None:
    start = change - timedelta(hours=before)
    minutes = 72 * 60
    end = start + timedelta(minutes=minutes - 1)
    spec = ScheduleSpec(
        calendars=(calendar_of(fields),),
        skip=() if skip is None else (calendar_of(skip),),
        timezone=zone,
    )
    wanted = brute(fields, skip, zone, start, minutes)
    assert list(spec.between(start, end)) == wanted
    # What is asked from anywhere agrees with one long enumeration.
    for n in range(0, minutes, 97):
        moment = start + timedelta(minutes=n, seconds=n % 60)
        following = next((one for one in wanted if one > moment), None)
        found = spec.next_after(moment)
        assert found == following or (
            following is None and (found is None or found > end)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"]
)
@pytest.mark.parametrize(
    "text", ["30 2 * * *", "20 */4 1-7 * MON", "15 1-3 * 3,4,10,11 *"]
)
def test_cron_text_over_three_years_agrees_with_the_oracle(
    zone: str, text: str
) -> None:
    fields: dict[str, Any] = {
        name: {*range(low, high + 1)} for name, (low, high) in BOUNDS.items()
    }
    parts = {
        "30 2 * * *": {"minute": {30}, "hour": {2}},
        "20 */4 1-7 * MON": {
            "minute": {20},
            "hour": {*range(0, 24, 4)},
            "day_of_month": {*range(1, 8)},
            "day_of_week": {1},
        },
        "15 1-3 * 3,4,10,11 *": {
            "minute": {15},
            "hour": {1, 2, 3},
            "month": {3, 4, 10, 11},
        },
    }[text]
    place, start = ZoneInfo(zone), datetime(2025, 1, 1, tzinfo=UTC)
    end = datetime(2028, 1, 1, tzinfo=UTC)
    wanted = []
    # All offsets are multiples of 30 minutes, so five minutes miss nothing.
    moment = start
    while moment <= end:
        if says({**fields, **parts}, moment.astimezone(place)):
            wanted.append(moment)
        moment += timedelta(minutes=5)
    assert list(schedule_spec(text, timezone=zone).between(start, end)) == wanted
    assert len(wanted) > 30


@given(
    every=st.integers(1, 10**6),
    part=st.floats(0, 0.999),
    at=st.integers(0, 4 * 10**9),
)
def test_interval_lies_on_the_grid_of_the_epoch(
    every: int, part: float, at: int
) -> None:
    offset = int(every * part)
    interval = Interval(timedelta(seconds=every), timedelta(seconds=offset))
    found = interval.next_after(at)
    assert at < found <= at + every
    assert (found - offset) % every == 0


@given(
    jitter=st.integers(0, 7_200),
    at=st.integers(0, 4 * 10**9),
    seed=st.text(max_size=5),
)
def test_jitter_never_reaches_the_next_time_and_is_the_same_each_time(
    jitter: int, at: int, seed: str
) -> None:
    spec = schedule_spec("@every 10m", jitter=jitter)
    nominal = spec.next_second(at)
    assert nominal is not None
    put_off = spec.put_off(nominal, seed)
    assert nominal * 10**6 <= put_off <= (nominal + min(jitter, 600)) * 10**6
    assert put_off == schedule_spec("@every 10m", jitter=jitter).put_off(nominal, seed)


def test_what_is_left_out_altogether_is_not_searched_to_the_last_year(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = {"minute": "*/3", "day_of_week": "1,2,3,4,6"}
    spec = ScheduleSpec(
        calendars=(Calendar(**some, hour="*/4"),), skip=(Calendar(**some, hour="*"),)
    )
    monkeypatch.setattr("durable.schedules.spec.next_match", None)

    assert spec.next_after(CHANGES[0]) is None

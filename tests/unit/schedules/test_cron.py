"""Texts of cron: what they become, and where they are wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import Calendar, Interval, ScheduleSpec, schedule_spec
from durable.errors import InvalidScheduleError
from durable.schedules.cron import read_cron

START = datetime(2026, 3, 1, tzinfo=UTC)


def calendar(text: str) -> Calendar:
    found, _ = read_cron(text)
    assert isinstance(found, Calendar)
    return found


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("1 2 3 4 5", {"minute": "1", "hour": "2", "day_of_month": "3", "month": "4"}),
        ("1 2 3 4 * 2027", {"year": "2027", "second": 0}),
        ("9 1 2 3 4 * 2027", {"second": "9", "minute": "1", "hour": "2"}),
        ("0 9 * * mon-FRI", {"day_of_week": "mon-FRI"}),
        ("@daily", {"minute": "0", "hour": "0", "day_of_month": "*"}),
        ("@WEEKLY", {"day_of_week": "0"}),
        ("  0  9 * * *  # mornings ", {"hour": "9"}),
    ],
)
def test_text_becomes_a_calendar_that_shows_it(
    text: str, fields: dict[str, Any]
) -> None:
    found = calendar(text)
    assert {name: getattr(found, name) for name in fields} == fields
    assert found.comment == text.strip()


def test_every_becomes_an_interval() -> None:
    assert read_cron("@every 14h/3h")[0] == Interval(
        timedelta(hours=14), timedelta(hours=3)
    )
    assert schedule_spec(timedelta(hours=2)).intervals == (
        Interval(timedelta(hours=2)),
    )


def test_zone_of_a_text_is_that_of_the_spec() -> None:
    assert schedule_spec("CRON_TZ=Europe/Berlin 0 9 * * *").timezone == "Europe/Berlin"
    with pytest.raises(InvalidScheduleError, match=r"'Asia/Tokyo' and 'Europe/Berlin'"):
        schedule_spec("TZ=Europe/Berlin @daily", timezone="Asia/Tokyo")


def test_day_of_month_and_day_of_week_must_both_match() -> None:
    found = schedule_spec("0 0 13 * FRI").next_after(START)
    assert found == datetime(2026, 3, 13, tzinfo=UTC)


def test_sunday_has_two_numbers_and_ranges_may_end_with_it() -> None:
    spec = schedule_spec("0 0 * * FRI-SUN"), schedule_spec("0 0 * * 5-7")
    for one in spec:
        days = [d.day for d in one.between(START, START + timedelta(days=7))]
        assert days == [1, 6, 7, 8]


@pytest.mark.parametrize(
    ("text", "position", "field"),
    [
        ("0 25 * * *", 3, "hour"),
        ("60 * * * *", 1, "minute"),
        ("0 9 * * MOM-FRI", 9, "day_of_week"),
        ("0 9 * * MON-FRY", 13, "day_of_week"),
        ("0,,1 * * * *", 3, "minute"),
        ("*/0 * * * *", 3, "minute"),
        ("*/x * * * *", 3, "minute"),
        (f"*/{'1' * 5000} * * * *", 3, "minute"),
        ("5-1 * * * *", 1, "minute"),
        ("0 0 0 * *", 5, "day_of_month"),
        ("0 0 L * *", 5, "day_of_month"),
        ("0 0 * * 1#1", 9, "day_of_week"),
        ("TZ=UTC 0 24 * * *", 10, "hour"),
        ("0 0 * * * 1969", 11, "year"),
        ("0 0 * * * 99999999999999999999", 11, "year"),
        ("* * * *", 7, ""),
        ("1 2 3 4 5 6 7 8", 15, ""),
        ("", 1, ""),
        ("@dayly", 1, ""),
        ("@every 0s", 8, "every"),
        ("@every 1.5s", 8, "every"),
        ("@every 1h/2h", 8, "every"),
        ("@every", 8, "every"),
        ("٣ * * * *", 1, "minute"),
    ],
)
def test_fault_is_named_with_its_place(text: str, position: int, field: str) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        read_cron(text)
    assert (caught.value.position, caught.value.field) == (position, field)
    assert repr(text)[:5] in str(caught.value)


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 29 2 * 2027"])
def test_date_that_never_comes_is_refused(text: str) -> None:
    with pytest.raises(InvalidScheduleError, match="No date ever matches"):
        schedule_spec(text)


def test_all_skipped_has_no_time() -> None:
    every = Calendar(second="*", minute="*", hour="*")
    for skip in (every, Calendar(minute="*", hour="*")):
        spec = schedule_spec("*/2 * * * *", skip=skip)
        assert spec.next_after(START) is None


def test_start_and_end_are_included() -> None:
    spec = schedule_spec("@hourly", start_at=START, end_at=START + timedelta(hours=2))
    times = [*spec.between(START - timedelta(1), START + timedelta(1))]
    assert times == [START + timedelta(hours=n) for n in range(3)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"calendars": ("@daily",)},
        {"calendars": (Calendar(),), "start_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - the wrong thing
        {"calendars": (Calendar(),), "timezone": "../etc/passwd"},
        {"calendars": (Calendar(),), "timezone": ""},
        {},
    ],
)
def test_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidScheduleError):
        ScheduleSpec(**wrong)


@pytest.mark.parametrize("value", [True, 1.5, None, "1;2"])
def test_wrong_field_is_refused(value: Any) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        Calendar(hour=value)
    assert caught.value.field == "hour"

"""Texts of cron: 5 to 7 fields, `@daily` and the like, `@every`, and `TZ=` before them.

A text becomes a calendar or an interval; the calendar's comment shows the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from durable.errors import InvalidScheduleError
from durable.options import Duration, to_microseconds
from durable.schedules.fields import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    HOUR,
    MINUTE,
    MONTH,
    SECOND,
    YEAR,
    read_field,
)
from durable.schedules.spec import Calendar, Interval, ScheduleSpec, interval_of
from durable.suggestions import ending_with_closest

When: TypeAlias = "str | timedelta | Calendar | Interval | ScheduleSpec"
"""A cron text, a distance, or what `ScheduleSpec` is made of."""

_SINGLE: Final = (str, timedelta, Calendar, Interval, ScheduleSpec)
_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIVE: Final = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)
_ORDER: Final = {5: _FIVE, 6: (*_FIVE, YEAR), 7: (SECOND, *_FIVE, YEAR)}
_COMMENT: Final = re.compile(r"(?:^|\s)#")
_ZONE: Final = re.compile(r"\s*(?:CRON_TZ|TZ)=(\S*)\s+")


def read_cron(text: str) -> tuple[Calendar | Interval, str | None]:
    """Read a text of cron.

    Five fields are minute, hour, day of month, month and day of week; six have the year
    behind them, seven the second before them, too. Text after ` #` is a comment.

    Returns:
        What it means, and the time zone that it names, if any.

    Raises:
        InvalidScheduleError: it means nothing; `position` is the column of the fault.
    """
    zone, begin = None, 0
    found = _ZONE.match(text)
    if found is not None:
        zone, begin = found[1], found.end()
    body = _COMMENT.split(text[begin:], maxsplit=1)[0]
    words = [(word[0], begin + word.start()) for word in re.finditer(r"\S+", body)]
    first = words[0][0].lower() if words else ""
    if first == "@every":
        return interval_of(body.strip()[len(first) :].strip(), words[0][1] + 8), zone
    if first.startswith("@"):
        if first not in _NAMED or len(words) > 1:
            raise InvalidScheduleError(
                f"{text!r} is wrong at column {words[0][1] + 1}: there is no"
                f" {' '.join(word for word, _ in words)!r}"
                f"{ending_with_closest(first, [*_NAMED, '@every'])}",
                position=words[0][1] + 1,
            )
        words = [(word, words[0][1]) for word in _NAMED[first].split()]
    order = _ORDER.get(len(words))
    if order is None:
        raise InvalidScheduleError(
            f"{text!r} has {len(words)} fields: a cron text has 5 (minute, hour, day of"
            " month, month, day of week), 6 (and year) or 7 (second before them).",
            position=(words[-1][1] if words else begin) + 1,
        )
    fields: dict[str, Any] = {}
    for field, (word, at) in zip(order, words, strict=True):
        read_field(field, word, text, at + 1)
        fields[field.name] = word
    return Calendar(**fields, comment=text.strip()), zone


def schedule_spec(
    *when: When | Iterable[When],
    timezone: str | None = None,
    skip: Calendar | Iterable[Calendar] = (),
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    jitter: Duration = 0,
) -> ScheduleSpec:
    """Make a spec of cron texts, distances, calendars and intervals.

        schedule_spec("0 9 * * MON-FRI", timezone="Europe/Berlin")
        schedule_spec("@every 3h", Calendar(hour=12, day_of_week="SUN"))

    Args:
        *when: texts of cron, a `timedelta` for every so often, `Calendar`s and
            `Interval`s; the schedule acts at the times of any. Or one `ScheduleSpec`,
            alone, which is returned.
        timezone: an IANA name such as "Europe/Berlin"; UTC by default. A text may name
            it, too, as in "TZ=Europe/Berlin 0 9 * * *".
        skip: calendars whose times are left out.
        start_at: nothing before this aware datetime.
        end_at: nothing after this one.
        jitter: each time is put off by up to so much.

    Raises:
        InvalidScheduleError, InvalidDurationError: one of it means nothing.
    """
    items = _flat(when)
    is_plain = timezone is None and not skip and start_at is end_at is None
    if len(items) == 1 and isinstance(items[0], ScheduleSpec) and is_plain:
        return items[0]
    calendars: list[Calendar] = []
    intervals: list[Interval] = []
    zones: set[str] = set() if timezone is None else {_zone(timezone)}
    for item in items:
        what: Any = item
        if isinstance(item, str):
            what, zone = read_cron(item)
            if zone is not None:
                zones.add(zone)
        elif isinstance(item, timedelta):
            what = Interval(item)
        if isinstance(what, Calendar):
            calendars.append(what)
        elif isinstance(what, Interval):
            intervals.append(what)
        else:
            raise InvalidScheduleError(
                f"{what!r} says no times.",
                hint='Give a text such as "0 9 * * MON-FRI", a timedelta, a Calendar or'
                " an Interval; a ScheduleSpec only alone.",
            )
    if len(zones) > 1:
        raise InvalidScheduleError(
            f"A schedule has one time zone, and this one names"
            f" {' and '.join(map(repr, sorted(zones)))}.",
            field="timezone",
        )
    return ScheduleSpec(
        calendars=tuple(calendars),
        intervals=tuple(intervals),
        skip=(skip,) if isinstance(skip, Calendar) else tuple(skip),
        start_at=start_at,
        end_at=end_at,
        jitter=timedelta(microseconds=to_microseconds(jitter, "jitter of a schedule")),
        timezone=next(iter(zones), "UTC"),
    )


def _zone(given: object) -> str:
    if not isinstance(given, str):
        raise InvalidScheduleError(
            f"timezone is {given!r}: give an IANA name such as 'Europe/Berlin'.",
            field="timezone",
        )
    return given


def _flat(when: Iterable[Any]) -> list[Any]:
    items: list[Any] = []
    for item in when:
        if type(item) in _SINGLE or not hasattr(item, "__iter__"):
            items.append(item)
        else:
            items.extend(item)
    return items

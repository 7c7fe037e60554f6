"""Which instants a schedule means: calendars and intervals, less what is skipped.

Pure: nothing here reads a clock. Instants are whole seconds since 1970 in UTC inside,
aware datetimes outside.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec

from durable.clock import from_datetime
from durable.errors import InvalidDurationError, InvalidScheduleError
from durable.options import to_microseconds
from durable.schedules.fields import FIELDS, read_field
from durable.schedules.matching import LAST, Matcher, next_match, skip_end
from durable.suggestions import ending_with_closest

_SKIPPED_MAX: Final = 100_000
"""Times in a row that are left out one by one: what skips as many skips all."""


class Calendar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Local times at which all fields match.

        Calendar(hour="9-17", minute="*/15", day_of_week="MON-FRI")

    Each field is a number or text: "*", "5", "1-5", "*/15", "8-18/2", "MON-FRI", and
    several of them with commas between. The day of the month *and* the day of the week
    must match. A local time that the zone's clock leaves out does not exist, so it
    never matches; one that it shows twice matches twice.

    Attributes:
        second: 0 to 59; 0 by default, as are minute and hour.
        minute: 0 to 59.
        hour: 0 to 23.
        day_of_month: 1 to 31; every day by default.
        month: 1 to 12, or names such as JAN.
        year: 1970 to 2199.
        day_of_week: 0 to 6 from Sunday, or names such as MON; 7 is Sunday, too.
        comment: whatever you want to remember, such as the cron text it came from.

    Raises:
        InvalidScheduleError: a field means nothing, or no date ever matches.
    """

    second: int | str = 0
    minute: int | str = 0
    hour: int | str = 0
    day_of_month: int | str = "*"
    month: int | str = "*"
    year: int | str = "*"
    day_of_week: int | str = "*"
    comment: str = ""

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not matcher_of(self).exists():
            raise InvalidScheduleError(
                f"No date ever matches {self!r}: day_of_month={self.day_of_month} with"
                f" month={self.month}, day_of_week={self.day_of_week} and"
                f" year={self.year} does not exist.",
                field="day_of_month",
            )


@functools.lru_cache(maxsize=4_096)
def matcher_of(calendar: Calendar) -> Matcher:
    """Read a calendar's fields.

    Raises:
        InvalidScheduleError: one means nothing.
    """
    found: dict[str, tuple[int, ...]] = {}
    for field in FIELDS:
        value: object = getattr(calendar, field.name)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidScheduleError(
                f"{field.name} of a Calendar is {value!r}: give a number or a text.",
                field=field.name,
            )
        text = str(value)
        found[field.name] = tuple(sorted(read_field(field, text, text, 1)))
    return Matcher(
        found["second"],
        found["minute"],
        found["hour"],
        found["day_of_month"],
        found["month"],
        frozenset(found["year"]),
        frozenset(found["day_of_week"]),
    )


class Interval(msgspec.Struct, frozen=True):
    """Every so often, on a grid that begins at 1970-01-01T00:00Z plus `offset`.

    The grid does not depend on when the schedule was made, or a worker started.

    Attributes:
        every: the distance, a `timedelta` of whole seconds.
        offset: how far the grid is shifted; less than `every`.

    Raises:
        InvalidScheduleError, InvalidDurationError: one breaks its rule.
    """

    every: timedelta
    offset: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        """Refuse what makes no grid of whole seconds."""
        for name in ("every", "offset"):
            value: Any = getattr(self, name)
            span = timedelta(
                microseconds=to_microseconds(value, f"{name} of an Interval")
            )
            msgspec.structs.force_setattr(self, name, span)
            if span.microseconds:
                raise InvalidScheduleError(
                    f"{name} of an Interval is {value!r}: give whole seconds.",
                    field=name,
                )
        if not self.every:
            raise InvalidScheduleError(
                "every of an Interval is 0: give at least a second.", field="every"
            )
        if self.offset >= self.every:
            raise InvalidScheduleError(
                f"offset of an Interval is {self.offset}, and every {self.every}: give"
                " less than that.",
                field="offset",
            )

    def next_after(self, instant: int) -> int:
        """The first instant of the grid after this one."""
        every, offset = (
            int(self.every.total_seconds()),
            int(self.offset.total_seconds()),
        )
        return ((instant - offset) // every + 1) * every + offset


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a schedule acts: at all times of its calendars and intervals.

    Texts of cron, such as "0 9 * * MON-FRI", become calendars: see
    `durable.schedule_spec`.

    Attributes:
        calendars: local times.
        intervals: grids of instants.
        skip: calendars whose times are left out.
        start_at: nothing before this aware datetime.
        end_at: nothing after this one.
        jitter: each time is put off by up to so much, though never to the next one;
            the same time always by the same.
        timezone: an IANA name such as "Europe/Berlin"; of calendars and of `skip`.

    Raises:
        InvalidScheduleError, InvalidDurationError: a value breaks its rule.
    """

    calendars: tuple[Calendar, ...] = ()
    intervals: tuple[Interval, ...] = ()
    skip: tuple[Calendar, ...] = ()
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter: timedelta = timedelta(0)
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, kind in (
            ("calendars", Calendar),
            ("intervals", Interval),
            ("skip", Calendar),
        ):
            given: Any = getattr(self, name)
            items: list[Any] = [*given] if type(given) in (tuple, list) else [None]
            if not all(isinstance(item, kind) for item in items):
                raise InvalidScheduleError(
                    f"{name} of a ScheduleSpec is {given!r}: give a tuple of"
                    f" {kind.__name__}.",
                    field=name,
                )
            msgspec.structs.force_setattr(self, name, tuple(items))
        if not self.calendars and not self.intervals:
            raise InvalidScheduleError(
                "The spec of a schedule has neither calendars nor intervals.",
                hint='Give it a text such as "0 9 * * MON-FRI", or a Calendar.',
            )
        for name in ("start_at", "end_at"):
            moment: Any = getattr(self, name)
            if moment is None:
                continue
            if not isinstance(moment, datetime) or moment.tzinfo is None:
                raise InvalidScheduleError(
                    f"{name} of a ScheduleSpec is {moment!r}: give a datetime with a"
                    " time zone.",
                    field=name,
                )
            msgspec.structs.force_setattr(self, name, moment.astimezone(UTC))
        jitter = to_microseconds(self.jitter, "jitter of a ScheduleSpec")
        msgspec.structs.force_setattr(self, "jitter", timedelta(microseconds=jitter))
        find_zone(self.timezone)

    # --- instants ---------------------------------------------------------------------

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`, without jitter; None if there is none."""
        found = self.next_second(from_datetime(moment) // 1_000_000)
        return None if found is None else datetime.fromtimestamp(found, UTC)

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The times from `start` to `end`, both included, without jitter."""
        last = from_datetime(end) // 1_000_000
        first = -(-from_datetime(start) // 1_000_000)
        found = self.next_second(first - 1)
        while found is not None and found <= last:
            yield datetime.fromtimestamp(found, UTC)
            found = self.next_second(found)

    def next_second(self, after: int) -> int | None:
        """As `next_after`, in seconds since 1970."""
        after = max(after, -1)
        if self.start_at is not None:
            start = from_datetime(self.start_at)
            after = max(after, -(-start // 1_000_000) - 1)
        last = LAST
        if self.end_at is not None:
            last = min(last, from_datetime(self.end_at) // 1_000_000)
        zone = find_zone(self.timezone)
        skips = [*map(matcher_of, self.skip)]
        wanted = [
            one
            for one in map(matcher_of, self.calendars)
            # Else each of its times until the last year would be found, and left out.
            if not any(skip.covers_all(one) for skip in skips)
        ]
        skipped = [
            (skip, not self.intervals and all(map(skip.covers, wanted)))
            for skip in skips
        ]
        for _ in range(_SKIPPED_MAX):
            found = self._next_of_any(wanted, zone, after)
            if found is None or found > last:
                return None
            ends = [
                skip_end(skip, zone, found, covers_days=covers_days)
                for skip, covers_days in skipped
            ]
            covered = [end for end in ends if end is not None]
            if not covered:
                return found
            after = max(covered) - 1
        return None

    def _next_of_any(
        self, wanted: list[Matcher], zone: ZoneInfo, after: int
    ) -> int | None:
        found = [interval.next_after(after) for interval in self.intervals]
        for matcher in wanted:
            instant = next_match(matcher, zone, after)
            if instant is not None:
                found.append(instant)
        return min(found, default=None)

    def put_off(self, nominal: int, seed: str) -> int:
        """When to act for a time: microseconds since 1970, with the jitter."""
        if not self.jitter:
            return nominal * 1_000_000
        jitter = self.jitter.total_seconds()
        following = self.next_second(nominal)
        if following is not None:
            jitter = min(jitter, following - nominal)
        digest = hashlib.blake2b(f"{seed}/{nominal}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return nominal * 1_000_000 + int(share * jitter * 1_000_000)


@functools.lru_cache(maxsize=1_024)
def find_zone(name: object) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        InvalidScheduleError: there is none.
    """
    if isinstance(name, str):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    meant = ending_with_closest(name, available_timezones())
    raise InvalidScheduleError(
        f"There is no time zone {name!r}{meant}",
        hint='Give an IANA name such as "Europe/Berlin". If this machine has no time'
        " zones at all, install the package tzdata.",
        field="timezone",
    )


def interval_of(text: str, column: int) -> Interval:
    """Read the part of a cron text after `@every`, such as "14h/3h".

    Raises:
        InvalidScheduleError: it means nothing.
    """
    every, slash, offset = text.strip().partition("/")
    try:
        return Interval(
            timedelta(microseconds=to_microseconds(every.strip(), "every")),
            timedelta(microseconds=to_microseconds(offset.strip(), "offset"))
            if slash
            else timedelta(0),
        )
    except (InvalidDurationError, InvalidScheduleError) as error:
        raise InvalidScheduleError(
            f"'@every {text}' is wrong at column {column}: {error.message}",
            hint='Write "@every 3h", or "@every 14h/3h" to shift it by 3 h.',
            field="every",
            position=column,
        ) from None

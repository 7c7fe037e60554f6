"""Which local times a calendar means, and which instants those are in a time zone.

Local times are seconds since 1970 on the wall clock; instants are seconds since 1970 in
UTC. Between two changes of a zone's offset they differ by a constant, so each such
piece is searched by itself: a local time that a change skips is never met, and one that
exists twice is met twice.
"""

from __future__ import annotations

import calendar
import functools
from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from durable.schedules.fields import YEAR_MAX

DAY: Final = 86_400
_EPOCH: Final = date(1970, 1, 1).toordinal()
_SAMPLE_SECONDS: Final = 6 * 3_600
"""No zone ever changed its offset and changed it back within so short a time."""
_LEAP_YEAR: Final = 2000
LAST: Final = int(datetime(YEAR_MAX + 1, 1, 1, tzinfo=UTC).timestamp()) - 1


class Matcher(msgspec.Struct, frozen=True):
    """A calendar's numbers, sorted; `days_of_week` counts from Sunday."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    years: frozenset[int]
    days_of_week: frozenset[int]

    def next_local(self, start: int) -> int | None:
        """The first local time from `start` on that matches."""
        day, time = divmod(start, DAY)
        found = self._next_day(day)
        if found == day:
            later = self._next_time(time)
            if later is not None:
                return day * DAY + later
            found = self._next_day(day + 1)
        if found is None:
            return None
        first = self.hours[0] * 3_600 + self.minutes[0] * 60 + self.seconds[0]
        return found * DAY + first

    def _next_time(self, time: int) -> int | None:
        hour, rest = divmod(time, 3_600)
        minute, second = divmod(rest, 60)
        at_hour = bisect_left(self.hours, hour)
        if at_hour == len(self.hours):
            return None
        if self.hours[at_hour] == hour:
            at_minute = bisect_left(self.minutes, minute)
            if at_minute < len(self.minutes) and self.minutes[at_minute] == minute:
                at_second = bisect_left(self.seconds, second)
                if at_second < len(self.seconds):
                    return hour * 3_600 + minute * 60 + self.seconds[at_second]
                at_minute += 1
            if at_minute < len(self.minutes):
                return hour * 3_600 + self.minutes[at_minute] * 60 + self.seconds[0]
            at_hour += 1
        if at_hour == len(self.hours):
            return None
        return self.hours[at_hour] * 3_600 + self.minutes[0] * 60 + self.seconds[0]

    def _next_day(self, day: int) -> int | None:
        """The first day since 1970 from `day` on whose date matches."""
        start = date.fromordinal(_EPOCH + day)
        for year in range(start.year, YEAR_MAX + 1):
            if year not in self.years:
                continue
            for month in self.months:
                if year == start.year and month < start.month:
                    continue
                last = calendar.monthrange(year, month)[1]
                is_first = (year, month) == (start.year, start.month)
                at = bisect_left(self.days, start.day) if is_first else 0
                for number in self.days[at:]:
                    if number > last:
                        break
                    ordinal = date(year, month, number).toordinal()
                    if ordinal % 7 in self.days_of_week:  # 0 is a Sunday
                        return ordinal - _EPOCH
        return None

    def covers(self, other: Matcher) -> bool:
        """Whether it has all times of day that another one has."""
        return (
            {*self.seconds}.issuperset(other.seconds)
            and {*self.minutes}.issuperset(other.minutes)
            and {*self.hours}.issuperset(other.hours)
        )

    def covers_all(self, other: Matcher) -> bool:
        """Whether it has all times that another one has."""
        return (
            self.covers(other)
            and {*self.days}.issuperset(other.days)
            and {*self.months}.issuperset(other.months)
            and self.years >= other.years
            and self.days_of_week >= other.days_of_week
        )

    def block_end(self, local: int, *, covers_days: bool) -> int:
        """The local time behind what is met with `local` without a gap.

        It is of the smallest unit whose smaller ones match throughout.
        """
        if not covers_days:
            if len(self.seconds) < 60:
                return local + 1
            if len(self.minutes) < 60:
                return local - local % 60 + 60
            if len(self.hours) < 24:
                return local - local % 3_600 + 3_600
        day = local // DAY
        if len(self.days) < 31 or len(self.days_of_week) < 7:
            return (day + 1) * DAY
        start = date.fromordinal(_EPOCH + day)
        year, month = start.year, start.month + 1
        if len(self.months) == 12 or month == 13:
            year, month = start.year + 1, 1
        return (date(year, month, 1).toordinal() - _EPOCH) * DAY

    def exists(self) -> bool:
        """Whether any date matches."""
        longest = [calendar.monthrange(_LEAP_YEAR, month)[1] for month in self.months]
        return self.days[0] <= max(longest) and self._next_day(0) is not None


# --- zones ----------------------------------------------------------------------------


def offset(zone: ZoneInfo, instant: int) -> int:
    """How many seconds the wall clock is ahead of UTC."""
    found = datetime.fromtimestamp(instant, zone).utcoffset()
    return 0 if found is None else int(found.total_seconds())


@functools.lru_cache(maxsize=4_096)
def _changes(zone: ZoneInfo, year: int) -> tuple[int, ...]:
    """The instants of a year of UTC from which on another offset holds."""
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found: list[int] = []
    before, held = begin - 1, offset(zone, begin - 1)
    for sample in [*range(begin - 1 + _SAMPLE_SECONDS, end, _SAMPLE_SECONDS), end - 1]:
        now = offset(zone, sample)
        if now != held:
            low, high = before, sample
            while high - low > 1:
                middle = (low + high) // 2
                if offset(zone, middle) == held:
                    low = middle
                else:
                    high = middle
            found.append(high)
        before, held = sample, now
    return tuple(found)


def _next_change(zone: ZoneInfo, after: int, until: int) -> int | None:
    """The first change after one instant and not after another."""
    first = datetime.fromtimestamp(after, UTC).year
    last = datetime.fromtimestamp(until, UTC).year
    for year in range(first, last + 1):
        changes = _changes(zone, year)
        at = bisect_right(changes, after)
        if at < len(changes):
            return changes[at] if changes[at] <= until else None
    return None


def next_match(matcher: Matcher, zone: ZoneInfo, after: int) -> int | None:
    """The first instant after `after` whose local time matches."""
    start = after + 1
    while start <= LAST:
        ahead = offset(zone, start)
        local = matcher.next_local(start + ahead)
        if local is None or local - ahead > LAST:
            return None
        change = _next_change(zone, start, local - ahead)
        if change is None:
            return local - ahead
        start = change
    return None


def skip_end(
    matcher: Matcher, zone: ZoneInfo, instant: int, *, covers_days: bool
) -> int | None:
    """The first instant that this one's match does not cover; None if none matches.

    `covers_days` says that no time of day is asked for that `matcher` has not.
    """
    ahead = offset(zone, instant)
    if matcher.next_local(instant + ahead) != instant + ahead:
        return None
    end = matcher.block_end(instant + ahead, covers_days=covers_days) - ahead
    return _next_change(zone, instant, end) or end

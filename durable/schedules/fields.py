"""Fields of calendars and cron texts: "0-30/10,45", "MON-FRI", "*"."""

from __future__ import annotations

from typing import Final

import msgspec

from durable.errors import InvalidScheduleError
from durable.suggestions import ending_with_closest

YEAR_MAX: Final = 2199
"""Nothing is scheduled after this year: what never matches must come to an end."""

_MONTHS: Final = (
    "January|February|March|April|May|June|July|August|September|October|November"
    "|December"
)
_DAYS: Final = "Sunday|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday"


class Field(msgspec.Struct, frozen=True):
    """What one field may hold."""

    name: str
    lowest: int
    highest: int
    names: dict[str, int] = {}


def _numbered(first: int, words: str) -> dict[str, int]:
    """Names as numbers: in full, and their first three letters."""
    numbers = dict(enumerate(words.upper().split("|"), start=first))
    short = {name[:3]: n for n, name in numbers.items()}
    return short | {name: n for n, name in numbers.items()}


SECOND: Final = Field("second", 0, 59)
MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTH: Final = Field("month", 1, 12, _numbered(1, _MONTHS))
YEAR: Final = Field("year", 1970, YEAR_MAX)
DAY_OF_WEEK: Final = Field("day_of_week", 0, 7, _numbered(0, _DAYS))
FIELDS: Final = (SECOND, MINUTE, HOUR, DAY_OF_MONTH, MONTH, YEAR, DAY_OF_WEEK)


class _Part(msgspec.Struct, frozen=True):
    """A piece of a field, where it stands in which text."""

    field: Field
    text: str
    whole: str
    column: int

    def refuse(self, what: str) -> InvalidScheduleError:
        name = self.field.name
        return InvalidScheduleError(
            f"{self.whole!r} is wrong at column {self.column}: {what}"
            f" in the field {name}.",
            hint=f"Give numbers from {self.field.lowest} to {self.field.highest}, such"
            f" as 1, 1-5, */2 or 1,3-5{_or_names(self.field)}.",
            field=name,
            position=self.column,
        )

    def number(self, text: str, at: int) -> int:
        """Read a number or a name."""
        field = self.field
        here = _Part(field, text, self.whole, self.column + at)
        known = field.names.get(text.upper())
        if known is not None:
            return known
        if not (text.isascii() and text.isdigit()):
            if not text:
                raise here.refuse("something is missing")
            meant = ending_with_closest(text, field.names).removesuffix(".")
            raise here.refuse(f"{text!r} is no number{meant}")
        number = int(text) if len(text) < 10 else YEAR_MAX + 1
        if not field.lowest <= number <= field.highest:
            raise here.refuse(f"{text} is out of range")
        return number


def _or_names(field: Field) -> str:
    if not field.names:
        return ""
    first, *_ = field.names
    return f", or names such as {first}"


def read_field(field: Field, text: str, whole: str, column: int) -> frozenset[int]:
    """Give the numbers that a field's text means.

    Args:
        field: which it is.
        text: its text.
        whole: the text that it is a part of, for errors.
        column: where in that it begins, from 1.

    Raises:
        InvalidScheduleError: it means nothing.
    """
    found: set[int] = set()
    at = 0
    for part in text.split(","):
        found.update(_read_part(_Part(field, part, whole, column + at)))
        at += len(part) + 1
    if field is DAY_OF_WEEK and 7 in found:
        found = (found - {7}) | {0}
    return frozenset(found)


def _read_part(part: _Part) -> range:
    field, text = part.field, part.text
    span, slash, step_text = text.partition("/")
    step = 1
    if slash:
        at = len(span) + 1
        if not (step_text.isascii() and step_text.isdigit()):
            raise _Part(field, text, part.whole, part.column + at).refuse(
                f"the step {step_text!r} is no number"
            )
        # Digits beyond number: int() refuses thousands of them.
        step = int(step_text) if len(step_text) < 10 else YEAR_MAX + 1
        if not 1 <= step <= field.highest:
            raise _Part(field, text, part.whole, part.column + at).refuse(
                f"the step {step_text} is out of range"
            )
    highest = 6 if field is DAY_OF_WEEK else field.highest
    if span == "*":
        return range(field.lowest, highest + 1, step)
    low_text, dash, high_text = span.partition("-")
    low = part.number(low_text, 0)
    if dash:
        high = part.number(high_text, len(low_text) + 1)
        if field is DAY_OF_WEEK and high == 0 < low:
            high = 7  # as in FRI-SUN
    else:
        high = max(low, highest) if slash else low
    if high < low:
        raise part.refuse(f"{span} ends before it begins")
    return range(low, high + 1, step)

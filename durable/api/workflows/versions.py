"""Versions of workflows (semver.org), and ranges of them such as ">=1.2,<2"."""

from __future__ import annotations

import re
from functools import total_ordering
from typing import Final, TypeAlias

from durable.errors import InvalidOptionError

_NUMBER: Final = re.compile(r"0|[1-9]\d{0,17}")
_LABELS: Final = re.compile(r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*")
_OPERATOR: Final = re.compile(r">=|<=|==|!=|>|<")
_SPACE: Final = re.compile(r"\s*")
_Key: TypeAlias = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]
_PARTS: Final = ("major", "minor", "patch")


@total_ordering
class Version:
    """A version; ordered as semver says: "2.0.0-rc.1" comes before "2.0.0".

    Args:
        text: three numbers, and perhaps labels: "2.1.0", "2.1.0-rc.1+build.5".
        what: what errors call it.

    Raises:
        InvalidOptionError: it is none; the error names the position of the fault.
    """

    __slots__ = ("_key", "text")

    def __init__(self, text: object, what: str = "a version") -> None:
        if not isinstance(text, str):
            raise InvalidOptionError(f"{what} is {text!r}: give text like '2.1.0'.")
        reader = _Reader(text, what)
        version = reader.version(is_whole=True)
        reader.end()
        self.text = text
        self._key: _Key = version._key

    @classmethod
    def of(cls, text: str, numbers: list[int], labels: str | None) -> Version:
        """Make one of what was read; numbers that are missing are zero."""
        made = object.__new__(cls)
        padded = (*numbers, *[0] * (3 - len(numbers)))
        made.text = text
        # Without labels it comes after all with them; numbers come before words.
        made._key = (
            padded,
            labels is None,
            tuple(
                (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
                for part in (labels or "").split(".")
            ),
        )
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Version({self.text!r})"


def is_version(text: object) -> bool:
    """Whether a text is one."""
    try:
        Version(text)
    except InvalidOptionError:
        return False
    return True


class VersionRange:
    """Which versions will do: all of its terms must hold; "*" takes every label.

    Args:
        text: terms with commas between: ">=1.2,<2", "==1.4.0", "!=1.3.1", "1.4.0".
        what: what errors call it.

    Raises:
        InvalidOptionError: it is none; the error names the position of the fault.
    """

    __slots__ = ("_terms", "text")

    def __init__(self, text: object, what: str = "a range of versions") -> None:
        if not isinstance(text, str):
            raise InvalidOptionError(f"{what} is {text!r}: give text like '>=1.2,<2'.")
        self.text = text
        self._terms: tuple[tuple[str, Version], ...] = ()
        if text.strip() != "*":
            self._terms = tuple(_Reader(text, what).terms())

    def __contains__(self, version: object) -> bool:
        """Whether a version is in it; what is no version only if everything is."""
        if not self._terms:
            return True
        try:
            found = Version(version)
        except InvalidOptionError:
            return False
        return all(_holds(found, operator, bound) for operator, bound in self._terms)

    def __repr__(self) -> str:
        return f"VersionRange({self.text!r})"


def _holds(version: Version, operator: str, bound: Version) -> bool:
    match operator:
        case ">=":
            return version >= bound
        case "<=":
            return version <= bound
        case ">":
            return version > bound
        case "<":
            return version < bound
        case "!=":
            return version != bound
        case _:
            return version == bound


class _Reader:
    """Reads a text from left to right."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._place = 0

    def terms(self) -> list[tuple[str, Version]]:
        terms: list[tuple[str, Version]] = []
        while True:
            self._skip()
            operator = self._take(_OPERATOR) or "=="
            self._skip()
            terms.append((operator, self.version(is_whole=False)))
            self._skip()
            if self._place == len(self._text):
                return terms
            if self._text[self._place] != ",":
                raise self._refuse("a comma or the end")
            self._place += 1

    def version(self, *, is_whole: bool) -> Version:
        begin = self._place
        numbers: list[int] = []
        for part in _PARTS:
            if numbers and not self._take_sign("."):
                if is_whole:
                    raise self._refuse(f"'.' and the {part} number")
                break
            number = self._take(_NUMBER)
            if number is None:
                raise self._refuse(f"the {part} number")
            numbers.append(int(number))
        labels = self._labels("-", "a label of a pre-release")
        self._labels("+", "a label of a build")
        return Version.of(self._text[begin : self._place], numbers, labels)

    def end(self) -> None:
        if self._place != len(self._text):
            raise self._refuse("the end")

    def _labels(self, sign: str, what: str) -> str | None:
        if not self._take_sign(sign):
            return None
        labels = self._take(_LABELS)
        if labels is None:
            raise self._refuse(what)
        return labels

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._place)
        if found is None:
            return None
        self._place = found.end()
        return found[0]

    def _take_sign(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._place):
            return False
        self._place += 1
        return True

    def _skip(self) -> None:
        self._take(_SPACE)

    def _refuse(self, expected: str) -> InvalidOptionError:
        found = self._text[self._place : self._place + 10]
        return InvalidOptionError(
            f"{self._what} is {self._text!r}: at position {self._place} it has"
            f" {repr(found) if found else 'its end'} where {expected} must be.",
            hint="Versions are like '2.1.0', ranges like '>=1.2,<2'.",
        )

"""Texts of SQLite statements that take many rows, in a few fixed sizes.

The driver gives the interpreter's lock away at each statement and must wait to get it
back, so `executemany` waits once per row. Here many rows go into one statement, in
sizes so few that the driver's cache keeps every text prepared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

# Larger texts take longer to prepare than they save.
_ROWS_PER_STATEMENT: Final = (64, 16, 4, 2, 1)
# Lists of keys are cheap to prepare; 32,766 is SQLite's limit on parameters.
_KEYS_PER_STATEMENT: Final = (1, 4, 16, 128, 1024)


class ManyRows:
    """One statement that writes a list of rows, in every size.

    Values that all rows share are bound once, before the rows: binding is what costs
    most. None and booleans cost most of all, as the driver looks for an adapter.
    """

    def __init__(
        self, before: str, width: int, after: str = "", *, single: str | None = None
    ) -> None:
        """Compose the texts.

        Args:
            before: what comes before the list of rows.
            width: how many values a row has.
            after: what comes after it.
            single: the statement of one row, if a simpler one does the same.
        """
        row = f"({', '.join('?' * width)})"
        self.texts = [
            (size * width, f"{before} {', '.join([row] * size)}{after}")
            for size in _ROWS_PER_STATEMENT
        ]
        if single is not None:
            self.texts[-1] = (width, single)
        self._text_of = dict(self.texts)

    def execute(
        self, cursor: sqlite3.Cursor, values: list[Any], *, before: Sequence[Any] = ()
    ) -> None:
        """Execute with the flat values of any number of rows."""
        text = self._text_of.get(len(values))
        if text is not None:  # a run by itself, as a rule
            cursor.execute(text, [*before, *values] if before else values)
            return
        for text, chunk in self._split(values):
            cursor.execute(text, [*before, *chunk])

    def _split(self, values: list[Any]) -> Iterator[tuple[str, list[Any]]]:
        place = 0
        left = len(values)
        for size, text in self.texts:
            while left >= size:
                yield text, values[place : place + size]
                place += size
                left -= size


class ManyKeys:
    """One statement with a list of keys, in every size; {} stands for the list.

    A list that fits no size is filled up with its last key.
    """

    def __init__(self, text: str, width: int = 1) -> None:
        """Compose the texts; keys of one value are bare, others are rows."""
        key = "?" if width == 1 else f"({', '.join('?' * width)})"
        self.texts = [
            (size, text.replace("{}", ", ".join([key] * size)))
            for size in _KEYS_PER_STATEMENT
        ]
        self._single = self.texts[0][1]
        self._is_wide = width > 1

    def fetch(
        self, cursor: sqlite3.Cursor, keys: Sequence[Any], *, before: Sequence[Any] = ()
    ) -> list[Any]:
        """Fetch the rows of all keys; those of the last one may come several times.

        A key of several values is a tuple.
        """
        if len(keys) == 1:  # a run by itself, as a rule
            values: Sequence[Any] = keys[0] if self._is_wide else keys
            return cursor.execute(self._single, [*before, *values]).fetchall()
        rows: list[Any] = []
        largest = _KEYS_PER_STATEMENT[-1]
        for start in range(0, len(keys), largest):
            chunk = list(keys[start : start + largest])
            size, text = next(t for t in self.texts if t[0] >= len(chunk))
            chunk += chunk[-1:] * (size - len(chunk))
            values = [v for key in chunk for v in key] if self._is_wide else chunk
            rows += cursor.execute(text, [*before, *values]).fetchall()
        return rows

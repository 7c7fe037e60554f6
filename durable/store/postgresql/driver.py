"""How PostgreSQL is spoken to: many statements in one trip, and none for ever."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]

# How often a wait is looked at.
_LOOK_SECONDS: Final = 0.1


class Statement(NamedTuple):
    """One statement of a trip; `%b` stands for each of its values."""

    text: str
    values: tuple[Any, ...] = ()


class SilentServerError(psycopg.OperationalError):
    """The server has not answered in time, though its connection is open."""


class PatientConnection(psycopg.Connection[Row]):
    """A connection that gives up on a server which does not answer.

    A firewall or a proxy may swallow an answer and leave the connection open, and no
    timeout of the server's helps then.
    """

    patience = 0.0
    """Seconds; 0 waits for ever."""
    is_pooled = False
    """Whether a pooler is in between, which may give each transaction another session:
    what a session keeps (prepared statements, settings, LISTEN) is not ours then."""

    def find_pooler(self) -> None:
        """Find out whether one is in between: it gives out process ids of its own."""
        (pid,) = self.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        self.is_pooled = pid != self.info.backend_pid
        if self.is_pooled:
            self.prepare_threshold = None

    def wait(  # type: ignore[override]  # its arguments differ between releases
        self, gen: Generator[Any, Any, T], interval: float = _LOOK_SECONDS, **how: Any
    ) -> T:
        """Carry a step of the protocol out, while the server answers."""
        if self.patience:
            gen = _until(gen, time.monotonic() + self.patience, self.patience)
        return super().wait(gen, interval, **how)


def _until(
    steps: Generator[Any, Any, T], deadline: float, patience: float
) -> Generator[Any, Any, T]:
    try:
        wanted = next(steps)
        while True:
            is_ready = yield wanted
            if not is_ready and time.monotonic() > deadline:
                raise SilentServerError(f"no answer for {patience:g} s")
            wanted = steps.send(is_ready)
    except StopIteration as end:
        result: T = end.value
        return result


# --- arrays ---------------------------------------------------------------------------


class Texts(bytes):
    """A text[] as it is sent."""


class Numbers(bytes):
    """An int8[] as it is sent."""


_NULL: Final = b"\xff\xff\xff\xff"
_TEXT_OID: Final = 25
_NUMBER_OID: Final = 20
_length: Final = struct.Struct(">i").pack
_number: Final = struct.Struct(">iq").pack


def _head(count: int, has_null: bool, element: int) -> bytes:
    if not count:
        return struct.pack(">iii", 0, 0, element)
    return struct.pack(">iiiii", 1, has_null, element, count, 1)


def texts(values: Sequence[str | None]) -> Texts:
    """Compose a text[]; the driver's own lists take several times as long.

    Raises:
        psycopg.DataError: a text holds a NUL, which PostgreSQL cannot store.
        UnicodeEncodeError: it holds half of a surrogate pair.
    """
    parts = [_head(len(values), None in values, _TEXT_OID)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            data = value.encode()
            if b"\0" in data:
                raise psycopg.DataError("a text holds a NUL")
            parts += (_length(len(data)), data)
    return Texts(b"".join(parts))


def numbers(values: Sequence[int | None]) -> Numbers:
    """Compose an int8[].

    Raises:
        struct.error: a number has more than 64 bits.
    """
    parts = [_head(len(values), None in values, _NUMBER_OID)]
    parts += [_NULL if value is None else _number(8, value) for value in values]
    return Numbers(b"".join(parts))


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = 1009

    def dump(self, obj: Any) -> Buffer | None:
        return bytes(obj)


class _NumbersDumper(_TextsDumper):
    oid = 1016


# --- trips ----------------------------------------------------------------------------


class Trips:
    """Sends statements together, and brings their answers.

    After an error the connection is of no use: the driver believes statements to be
    prepared that were skipped.
    """

    def __init__(self, connection: PatientConnection) -> None:
        """Use a connection in autocommit mode, of which nobody else makes pipelines."""
        self._connection = connection
        self._mode = contextlib.ExitStack()
        self._pipeline: psycopg.Pipeline | None = None
        # One kind for each place of a statement, or each is prepared several times.
        adapters = connection.adapters
        adapters.register_dumper(int, Int8BinaryDumper)
        adapters.register_dumper(Texts, _TextsDumper)
        adapters.register_dumper(Numbers, _NumbersDumper)

    def send(self, statements: Iterable[Statement]) -> list[list[Row]]:
        """Carry statements out in order, in one trip; none after one that fails.

        Raises:
            psycopg.Error: one failed; or the answer has not come.
        """
        connection = self._connection
        pipeline = self._pipeline
        prepares = not connection.is_pooled
        if pipeline is None:
            pipeline = self._mode.enter_context(connection.pipeline())
            self._pipeline = pipeline
        cursors: list[psycopg.Cursor[Row]] = []
        for text, values in statements:
            cursor = connection.cursor(binary=True)
            cursor.execute(text, values, prepare=prepares)  # pyright: ignore[reportArgumentType] - composed of constants
            cursors.append(cursor)
        # The server begins to count idle time with the answer to this, and would not
        # if the pipeline were left.
        pipeline.sync()
        return [
            [] if cursor.description is None else cursor.fetchall()
            for cursor in cursors
        ]

    def end(self) -> None:
        """Let others use the connection, one statement at a time."""
        self._pipeline = None
        self._mode.close()

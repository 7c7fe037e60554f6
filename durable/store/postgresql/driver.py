"""How PostgreSQL is spoken to: many statements in one trip, and none for ever."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import waiting
from psycopg.errors import lookup
from psycopg.pq import ExecStatus, PipelineStatus

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]

# How often a wait is looked at.
_LOOK_SECONDS: Final = 0.1


class Statement(NamedTuple):
    """One statement of a trip; `%b` stands for each of its values.

    They are texts, numbers, `Texts` and `Numbers`, each place always of one kind.
    """

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
# https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
_TEXT_OID: Final = 25
_NUMBER_OID: Final = 20
_OIDS: Final = {str: _TEXT_OID, int: _NUMBER_OID, Texts: 1009, Numbers: 1016}
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


# --- trips ----------------------------------------------------------------------------

_Result: TypeAlias = "psycopg.pq.abc.PGresult"
_DONE: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


def _to_number(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


# Of all others a text is asked for.
_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    16: lambda data: data != b"\0",
    **dict.fromkeys((20, 21, 23), _to_number),
}


class Trips:
    """Sends statements together, and brings their answers.

    By the driver's own pipelines each statement would be sent by itself: a process that
    is stopped in between would leave its transaction open, and no timeout of the server
    ends one that waits for the rest of a trip. Here all go out at once, and with them
    the mark behind which the server begins to count. After an error the connection is
    of no use.
    """

    def __init__(
        self, connection: PatientConnection, heard: Callable[[int, bytes], None]
    ) -> None:
        """Use a connection in autocommit mode.

        `heard` is called with the process id and the payload of each notification.
        """
        self._connection = connection
        self._pgconn = connection.pgconn
        self._heard = heard
        self._names: dict[str, bytes] = {}

    def send(self, statements: Iterable[Statement]) -> list[list[Row]]:
        """Carry statements out in order, in one trip; none after one that fails.

        Raises:
            psycopg.Error: one failed; or the answer has not come.
        """
        pgconn = self._pgconn
        if pgconn.pipeline_status == PipelineStatus.OFF:
            pgconn.nonblocking = 1
            pgconn.enter_pipeline_mode()
        prepares = not self._connection.is_pooled
        expected: list[bool] = []
        for text, values in statements:
            types = [_OIDS[type(value)] for value in values]
            packed = [_pack(value) for value in values]
            formats = [1] * len(values)
            name = self._names.get(text)
            if not prepares:
                place = _with_places(text)
                pgconn.send_query_params(place, packed, types, formats, 1)
            else:
                if name is None:
                    self._names[text] = name = b"durable_%d" % len(self._names)
                    pgconn.send_prepare(name, _with_places(text), types)
                    expected.append(False)
                pgconn.send_query_prepared(name, packed, formats, 1)
            expected.append(True)
        pgconn.pipeline_sync()
        results = self._connection.wait(self._receive())
        return [
            _rows_of(result)
            for result, is_wanted in zip(results, expected, strict=True)
            if is_wanted
        ]

    def _receive(self) -> Generator[Any, Any, list[_Result]]:
        pgconn = self._pgconn
        results: list[_Result] = []
        is_sent = False
        while True:
            ready = yield waiting.Wait.R if is_sent else waiting.Wait.RW
            if not is_sent and ready & waiting.Ready.W:
                is_sent = pgconn.flush() == 0
            if not ready & waiting.Ready.R:
                continue
            pgconn.consume_input()
            self.hear()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:  # the end of one statement's
                    continue
                if result.status == ExecStatus.PIPELINE_SYNC:
                    return results
                if result.status not in _DONE:
                    raise _error_of(result)
                results.append(result)

    def hear(self) -> None:
        """Pass on what has been notified."""
        while (notice := self._pgconn.notifies()) is not None:
            self._heard(notice.be_pid, notice.extra)

    def end(self) -> None:
        """Let others use the connection, one statement at a time."""
        if self._pgconn.pipeline_status != PipelineStatus.OFF:
            self._pgconn.exit_pipeline_mode()


def _with_places(text: str) -> bytes:
    """Put the numbers of values into a text."""
    first, *others = text.split("%b")
    places = (f"${n}{part}" for n, part in enumerate(others, start=1))
    return "".join((first, *places)).encode()


def _pack(value: Any) -> bytes:
    if isinstance(value, str):
        data = value.encode()
        if b"\0" in data:
            raise psycopg.DataError("a text holds a NUL")
        return data
    packed: bytes = struct.pack(">q", value) if isinstance(value, int) else value
    return packed


def _rows_of(result: _Result) -> list[Row]:
    columns = range(result.nfields)
    readers = [_READERS.get(result.ftype(column), bytes.decode) for column in columns]
    get = result.get_value
    return [
        tuple(
            None if (data := get(row, column)) is None else readers[column](data)
            for column in columns
        )
        for row in range(result.ntuples)
    ]


def _error_of(result: _Result) -> psycopg.Error:
    state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    message = result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b""
    if state is None:
        message = result.error_message
    text = message.decode("utf-8", "replace")
    with contextlib.suppress(KeyError):
        return lookup((state or b"").decode())(text)
    return psycopg.OperationalError(text)

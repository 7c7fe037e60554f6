"""How MariaDB is spoken to: many statements in one packet, and none for ever."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pymysql
from pymysql.constants import CLIENT, FIELD_TYPE
from pymysql.converters import conversions

from durable import limits
from durable.errors import PayloadTooLargeError
from durable.store.sql.tables import COLLATIONS

Row: TypeAlias = tuple[Any, ...]

MARIADB: Final = "MariaDB"
# What passes others' locks by, and the collation of ids.
OLDEST: Final = {MARIADB: (10, 6), "MySQL": (8, 0, 17)}
_CONNECT_SECONDS: Final = 5
_LEASE: Final = limits.LEASE_SECONDS
# Packets grow no further than that, if the server takes as much.
_PACKET_BYTES: Final = 8 * 1024 * 1024
# In every session, so that it does not matter how a server was set up.
_SETTINGS: Final[dict[str, str]] = {
    "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES'",
    "time_zone": "'+00:00'",
    "wait_timeout": str(24 * 86_400),
}
_MARIADB_SETTINGS: Final[dict[str, str]] = {
    # Long lists would become tables, which are walked in an order of their own.
    "in_predicate_conversion_threshold": "0",
    # A process that stops between two trips keeps others waiting for no longer.
    "idle_transaction_timeout": str(round(_LEASE / 3)),
}
_WRITER_SETTINGS: Final[dict[str, str]] = {"max_statement_time": f"{_LEASE * 0.7:.1f}"}


def literal(value: str | int | None) -> str:
    """Write a value as it stands in a statement, where no backslash escapes."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(int(value))


def listed(values: Iterable[str | int | None]) -> str:
    """Write values with commas between them."""
    return ", ".join(map(literal, values))


def _as_text(found: str | bytes) -> str | bytes:
    """Return a name that comes as bytes; what is no text is somebody's damage."""
    if isinstance(found, str):
        return found
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found


_CONVERSIONS: Final = {**conversions, FIELD_TYPE.VAR_STRING: _as_text}


# A host that is gone is noticed after some seconds, as on PostgreSQL.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}


def be_patient(raw: Any, seconds: float) -> None:
    """Have a connection wait so long for an answer from a host that is there.

    The driver takes a timeout only where it connects, and looks at it at each answer.
    """
    raw._read_timeout = seconds
    for name, value in _KEEPALIVE.items():
        # Not every system has them, nor has a socket of this machine.
        with contextlib.suppress(OSError, AttributeError):
            raw._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Trips:
    """Sends statements together, and brings their answers."""

    def __init__(self, raw: pymysql.Connection[Any]) -> None:
        """Use a connection in autocommit mode that takes many statements."""
        self._raw = raw
        ((given,),) = self.send(["SELECT @@max_allowed_packet"])[0]
        self.packet_bytes_max: int = given

    def send(self, statements: Sequence[str]) -> list[Sequence[Row]]:
        """Carry statements out in order, in one trip; none after one that fails.

        Raises:
            pymysql.Error: one failed; or the answer has not come.
        """
        answers: list[Sequence[Row]] = []
        with self._raw.cursor() as cursor:
            cursor.execute(";".join(statements))
            answers.append(cursor.fetchall())
            while cursor.nextset():
                answers.append(cursor.fetchall())
        return answers

    def pack(self, statements: Iterable[str]) -> list[list[str]]:
        """Divide statements among packets that the server takes.

        Raises:
            PayloadTooLargeError: it does not take one of them.
        """
        most = min(_PACKET_BYTES, self.packet_bytes_max // 2)
        packets: list[list[str]] = [[]]
        size = 0
        for statement in statements:
            length = len(statement.encode()) + 1
            if length >= self.packet_bytes_max:
                raise PayloadTooLargeError(
                    f"What is to be stored takes {length:,} bytes as a statement, and"
                    f" the server takes {self.packet_bytes_max:,}.",
                    hint="Raise max_allowed_packet of the server.",
                )
            if size + length > most and packets[-1]:
                packets.append([])
                size = 0
            packets[-1].append(statement)
            size += length
        return packets


class Server(NamedTuple):
    """A connection, and to what it is."""

    raw: pymysql.Connection[Any]
    product: str
    version: tuple[int, ...]


def connect(options: dict[str, Any], *, patience: float, is_writer: bool) -> Server:
    """Connect, and settle what may differ between servers.

    Args:
        options: the driver's own: where the server is, and who comes.
        patience: after so many seconds without an answer it is given up.
        is_writer: whether others may wait for what it does.

    Raises:
        pymysql.Error: the server cannot be reached, or refuses.
    """
    given: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        **options,
        "read_timeout": patience,
        "write_timeout": patience,
        "charset": "utf8mb4",
        "conv": _CONVERSIONS,
        "autocommit": True,
        "client_flag": CLIENT.MULTI_STATEMENTS,
        "program_name": "durable",
    }
    raw: pymysql.Connection[Any] = pymysql.connect(**given)
    with raw.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        ((text,),) = cursor.fetchall()
        product = MARIADB if MARIADB in text else "MySQL"
        version = tuple(map(int, re.findall(r"\d+", text.partition("-")[0])))
        server = Server(raw, product, version)
        settings = dict(_SETTINGS)
        if product == MARIADB:
            settings |= _MARIADB_SETTINGS | (_WRITER_SETTINGS if is_writer else {})
        settings["collation_connection"] = COLLATIONS[product.lower()]
        changes = (f"SESSION {name} = {value}" for name, value in settings.items())
        if server.version >= OLDEST[product]:
            cursor.execute(f"SET {', '.join(changes)}")
    return server

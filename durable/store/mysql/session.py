"""One connection to MariaDB: its transactions, and what it hears of others."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import pymysql

from durable.errors import DatabaseUnavailableError
from durable.store.mysql.driver import Trips, literal
from durable.store.mysql.tables import MysqlTables
from durable.store.servers.server import Phase, ServerSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from durable.store.mysql.driver import Row
    from durable.store.servers.server_clock import ServerClock

# Each transaction has numbers of its own for messages, by the instant of its beginning.
# If two have one and the same, a key refuses the second, which is repeated.
_SEQUENCE_BITS: Final = 11
_BEGIN: Final = {
    "level": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "begin": "START TRANSACTION",
}
_BEGIN_READING: Final = {
    "level": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "begin": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
}
_NOW: Final = "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
_HEADER: Final = f"SELECT {_NOW}"
_COUNT_COMMIT: Final = (
    "INSERT INTO durable_changes (session_id, version, changed_at)"  # noqa: S608 - a token and constants
    f" VALUES ({{0}}, {_NOW}, {_NOW})"
    " ON DUPLICATE KEY UPDATE version = version + 1, changed_at = VALUES(changed_at)"
)
_LATEST: Final = (
    "SELECT COUNT(*), CAST(SUM(version) AS SIGNED) FROM durable_changes"  # noqa: S608 - a token
    " WHERE session_id <> {0}"
)
_FIND_OLD: Final = (
    "SELECT session_id FROM durable_changes"  # noqa: S608 - constants
    f" WHERE changed_at < {_NOW} - 3600000000"
)
_DROP_OLD: Final = "DELETE FROM durable_changes WHERE session_id = {0}"
# One name for all databases of a server would make strangers wait.
_LOCK_NAME: Final = "CONCAT('durable_schema:', MD5(DATABASE()))"
_LOCK_SECONDS: Final = 60.0
# Shorter than what ends a statement.
_LOCK: Final = f"SELECT GET_LOCK({_LOCK_NAME}, 2)"
_UNLOCK: Final = f"SELECT RELEASE_LOCK({_LOCK_NAME})"


class MysqlSession(ServerSession):
    """Implements `Session` by packets of many statements."""

    def __init__(
        self, connection: sa.Connection, clock: ServerClock, name: str
    ) -> None:
        """Take over a connection that is in autocommit mode."""
        super().__init__(connection)
        raw = connection.connection.driver_connection
        assert isinstance(raw, pymysql.Connection)  # noqa: S101 - the pool made it
        self._raw: pymysql.Connection[Any] = raw
        self._clock = clock
        self._name = name
        self._trips = Trips(raw)
        self._tables = MysqlTables(self)
        self._pending: list[str] = []
        self._has_written = False
        self._is_migrating = False
        self._id = literal(secrets.token_hex(16))
        self._latest: Row | None = None
        self.sequence = 0
        """The number before those that the transaction may give to messages."""

    @property
    def tables(self) -> MysqlTables:
        """See `Session`."""
        return self._tables

    # --- transactions -----------------------------------------------------------------

    def send(self, asked: dict[str, str]) -> dict[str, Sequence[Row]]:
        """Carry statements out in one trip; their answers by the same names."""
        return dict(zip(asked, self._trips.send(list(asked.values())), strict=True))

    def begin_with(self, asked: dict[str, str]) -> dict[str, Sequence[Row]]:
        """Begin a transaction that writes, with its first statements.

        One that has only looked is over by that.
        """
        first = _BEGIN | {"header": _HEADER}
        if self.phase is Phase.BEGUN:
            first = {"commit": "COMMIT", **first}
        self.phase = Phase.BEGUN
        before = time.monotonic_ns()
        answers = self.send(first | asked)
        ((instant,),) = answers["header"]
        self._clock.hear(instant, before, time.monotonic_ns())
        self.sequence = instant << _SEQUENCE_BITS
        return answers

    def begin_writing_now(self) -> None:
        """See `ServerSession`."""
        self.begin_with({})
        self._has_written = True  # whoever takes the connection may

    def begin_reading_now(self) -> None:
        """See `ServerSession`."""
        self.phase = Phase.BEGUN
        self.send(_BEGIN_READING)

    def write_later(self, statements: list[str]) -> None:
        """Carry statements out together with the commit."""
        self._pending += statements

    def commit(self) -> None:
        """See `Session`."""
        pending, self._pending = self._pending, []
        if self.phase is Phase.BEGUN:
            if pending or self._has_written:
                pending.append(_COUNT_COMMIT.format(self._id))
            pending.append("COMMIT")
            for packet in self._trips.pack(pending):
                self._trips.send(packet)
        self._end()

    def rollback(self) -> None:
        """See `Session`.

        Raises:
            pymysql.Error: the connection is lost.
        """
        self._pending.clear()
        if not self._raw.open:
            raise pymysql.InterfaceError(0, "the connection is closed")
        if self.phase is Phase.BEGUN:
            self._trips.send(["ROLLBACK"])
        self._end()

    def _end(self) -> None:
        self.phase = Phase.NONE
        self._has_written = False
        if self._is_migrating:
            self._is_migrating = False
            self._trips.send([_UNLOCK])

    def begin_migrating(self) -> None:
        """See `Session`. Tables are made outside of transactions, whatever one does.

        Raises:
            DatabaseUnavailableError: somebody else does it, and does not end.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while self._trips.send([_LOCK]) != [((1,),)]:
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"Another process has been changing the schema of {self._name} for"
                    f" {_LOCK_SECONDS:g} s.",
                    hint="Look at it with SHOW PROCESSLIST, and wait for its end.",
                )
        self._is_migrating = True

    # --- what others do ---------------------------------------------------------------

    def forget_old_sessions(self) -> None:
        """Delete what sessions have left that ended long ago."""
        (found,) = self._trips.send([_FIND_OLD])
        for (session_id,) in found:
            self._trips.send([_DROP_OLD.format(literal(session_id))])

    @property
    def poll_seconds(self) -> tuple[float, float]:
        """See `Session`."""
        return (0.005, 0.05)

    def has_changed(self) -> bool:
        """See `Session`."""
        (latest,) = self._trips.send([_LATEST.format(self._id)])[0]
        before, self._latest = self._latest, latest
        return before is not None and before != latest

    def maintain(self, *, is_idle: bool) -> bool:
        """See `Session`. The server does that by itself."""
        del is_idle
        return True

    def close(self) -> None:
        """See `Session`."""
        with contextlib.suppress(Exception):
            self.rollback()
        with contextlib.suppress(Exception):
            self._connection.invalidate()
        self.disconnect()

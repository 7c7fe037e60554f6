"""One connection to MariaDB: its transactions, its rows, what it hears of others."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pymysql

from durable.errors import DatabaseUnavailableError
from durable.store.database import LOCK_SECONDS
from durable.store.mysql import look as mysql_look
from durable.store.mysql.driver import Trips, be_patient, literal
from durable.store.mysql.write import write, write_tasks
from durable.store.servers.server import MIGRATION_SECONDS, Phase, ServerSession
from durable.store.servers.server_tables import ServerTables
from durable.store.sql import statements
from durable.store.sql.schema import VERSION_TABLE
from durable.store.sql.sql_tables import SqlTables, chunks
from durable.store.sql.tables import CHANGES, METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows, TaskRows
    from durable.store.deciding.wanted import Wanted
    from durable.store.mysql.driver import Row
    from durable.store.records import ClaimRuns, WorkerRecord
    from durable.store.servers.locked_look import LockedLook
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
# Each commit counts itself, and fails if that was forbidden: its number would be out of
# the range of integers. Whoever forbids it waits for its end, if it has come so far.
_COUNT_COMMIT: Final = (
    "INSERT INTO durable_changes (session_id, version, changed_at)"  # noqa: S608 - a token and numbers
    f" VALUES ({{0}}, {{1}}, {_NOW})"
    " ON DUPLICATE KEY UPDATE changed_at = VALUES(changed_at),"
    " version = version + IF(version = {1} - 1, 1, 9223372036854775807)"
)
_FORBIDDEN: Final = 1 << 62
_FORBID: Final = (
    "INSERT INTO durable_changes (session_id, version, changed_at)"  # noqa: S608 - a token and numbers
    f" VALUES ({{0}}, {_FORBIDDEN}, {_NOW})"
    " ON DUPLICATE KEY UPDATE changed_at = VALUES(changed_at),"
    f" version = version | {_FORBIDDEN}"
)
_COUNTED: Final = "SELECT version FROM durable_changes WHERE session_id = {0}"
# What is no news to others is counted apart.
_QUIET: Final = "q"
# Strangers, who write to the outbox, count nothing.
_LATEST: Final = (
    "SELECT COUNT(*), CAST(SUM(version) AS CHAR),"  # noqa: S608 - a token and constants
    " (SELECT MAX(sequence) FROM durable_outbox) FROM durable_changes"
    f" WHERE session_id <> {{0}} AND session_id NOT LIKE '{_QUIET}%'"
)
_FIND_OLD: Final = (
    "SELECT session_id FROM durable_changes"  # noqa: S608 - constants
    f" WHERE changed_at < {_NOW} - 3600000000"
)
_DROP_OLD: Final = "DELETE FROM durable_changes WHERE session_id = {0}"
_WITHOUT_LIMITS: Final = (
    "SET SESSION max_statement_time = 0, SESSION idle_transaction_timeout = 0"
)
_ALONE: Final = "LOCK TABLES " + ", ".join(
    f"{name} WRITE" for name in (*METADATA.tables, CHANGES.name, VERSION_TABLE.name)
)
# One name for all databases of a server would make strangers wait.
_LOCK_NAME: Final = "CONCAT('durable_schema:', MD5(DATABASE()))"
_LOCK_SECONDS: Final = 60.0
# Shorter than what ends a statement.
_LOCK: Final = f"SELECT GET_LOCK({_LOCK_NAME}, 2)"
_UNLOCK: Final = f"SELECT RELEASE_LOCK({_LOCK_NAME})"


class MysqlSession(ServerSession):
    """Implements `Session` by packets of many statements."""

    idle_seconds = 0.020
    poll_seconds = (0.005, 0.075)
    scheme = "mysql"
    commit_text = "COMMIT"
    place_text = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, DATABASE())"

    def __init__(
        self, connection: sa.Connection, clock: ServerClock, name: str
    ) -> None:
        """Take over a connection that is in autocommit mode."""
        super().__init__(connection, clock)
        raw: Any = connection.connection.driver_connection
        self._raw: pymysql.Connection[Any] = raw
        self._name = name
        self._trips = Trips(raw)
        self.tables = MysqlTables(self)
        """See `Session`."""
        self._is_migrating = False
        self._is_alone = False
        self._lock_seconds: int | None = None
        """What the server was told of it."""
        token = secrets.token_hex(15)
        self._id = literal(token)
        self._quiet_id = literal(_QUIET + token)
        self._commits = {self._id: 0, self._quiet_id: 0}
        self.fate: tuple[str, int] | None = None
        """See `Session`: where the commit counts itself, and its number."""
        self._latest: Row | None = None

    # --- transactions -----------------------------------------------------------------

    def send(self, asked: dict[str, str]) -> dict[str, Sequence[Row]]:
        """See `ServerSession`."""
        return dict(zip(asked, self._trips.send(list(asked.values())), strict=True))

    def begin_with(self, asked: dict[str, str]) -> dict[str, Sequence[Row]]:
        """See `ServerSession`."""
        first = _BEGIN | {"header": _HEADER}
        seconds = round(self.lock_seconds)
        if seconds != self._lock_seconds:
            first["patience"] = f"SET SESSION innodb_lock_wait_timeout = {seconds}"
            self._lock_seconds = seconds
        answers = self.begin_by(first, asked)
        ((instant,),) = answers["header"]
        self.sequence = instant << _SEQUENCE_BITS
        return answers

    def begin_reading_now(self) -> None:
        """See `ServerSession`."""
        self.phase = Phase.BEGUN
        self.send(_BEGIN_READING)

    def commit(self, *, is_news: bool = True) -> None:
        """See `Session`."""
        pending, self._pending = self._pending, []
        if self.phase is Phase.BEGUN:
            counter = self._id if is_news else self._quiet_id
            number = self._commits[counter] + 1
            self.fate = counter, number
            has_written = bool(pending) or self._has_written
            if has_written:
                pending.append(_COUNT_COMMIT.format(counter, number))
            pending.append(self.commit_text)
            for packet in self._trips.pack(pending):
                self.send({str(n): text for n, text in enumerate(packet)})
            if has_written:
                self._commits[counter] = number
        self._end()

    def read_fate(self, fate: tuple[str, int]) -> bool:
        """Tell whether a commit has taken place; from now on it cannot any more.

        Raises:
            pymysql.Error: it is under way for longer than a lock is waited for.
        """
        counter, number = fate
        self._trips.send([_FORBID.format(counter)])
        (((version,),),) = self._trips.send([_COUNTED.format(counter)])
        return bool(version == number | _FORBIDDEN)

    def rollback(self) -> None:
        """See `Session`."""
        self._pending.clear()
        if not self.is_broken:
            if self.phase is Phase.BEGUN:
                self._trips.send(["ROLLBACK"])
            self._end()

    @property
    def is_broken(self) -> bool:
        """See `Session`. An error of a statement does no harm to its connection."""
        return not self._raw.open

    def _end(self) -> None:
        self.phase = Phase.NONE
        self._has_written = False
        if self._is_alone:
            self._is_alone = False
            self._trips.send(["UNLOCK TABLES", "SET autocommit = 1"])
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
        self._is_migrating = self.has_migrated = True
        self._lift_limits()
        be_patient(self._raw, MIGRATION_SECONDS)

    def _lift_limits(self) -> None:
        with contextlib.suppress(pymysql.OperationalError):  # MySQL has no such limits
            self._trips.send([_WITHOUT_LIMITS])
        # Who waits for a whole table keeps all who come after it waiting.
        self._trips.send([f"SET SESSION lock_wait_timeout = {round(LOCK_SECONDS)}"])

    # --- what others do ---------------------------------------------------------------

    def enter(self) -> None:
        """See `EnteringSession`. Sessions have left something that ended long ago."""
        (found,) = self._trips.send([_FIND_OLD])
        for (session_id,) in found:
            self._trips.send([_DROP_OLD.format(literal(session_id))])
        self.has_changed()

    def has_changed(self) -> bool:
        """See `Session`."""
        (latest,) = self._trips.send([_LATEST.format(self._id)])[0]
        before, self._latest = self._latest, latest
        return before is not None and before != latest

    def maintain(self, *, is_idle: bool) -> bool:
        """See `Session`. The server does that by itself."""
        del is_idle
        return True

    # --- copies of the whole ----------------------------------------------------------

    def begin_alone(self) -> None:
        """See `Session`."""
        self._lift_limits()
        self._trips.send(["SET autocommit = 0", _ALONE])
        self.phase = Phase.BEGUN
        self._has_written = self._is_alone = True

    def insert(self, table: sa.Table, rows: Sequence[Row]) -> None:
        """See `Session`."""
        names = [column.name for column in table.c]
        values = [dict(zip(names, row, strict=True)) for row in rows]
        self.connection.execute(table.insert(), values)

    def find_last_sequence(self) -> int:
        """See `Session`. Numbers go by the time."""
        return 0

    def raise_sequence(self, last: int) -> None:
        """See `Session`. They are greater than those of all other databases."""
        del last


class MysqlTables(ServerTables):
    """Implements `Tables`; what is fast goes in packets of many statements.

    Whatever a locking statement walks is locked, even if it does not answer it. So rows
    are found without locks, and then locked by their keys.
    """

    _session: MysqlSession

    def _look(self, wanted: Wanted) -> LockedLook:
        session = self._session
        return mysql_look.look(wanted, session.begin_with, session.send)

    def write(self, rows: Rows) -> None:
        """See `Tables`. They go together with the commit."""
        self._session.write_later(write(rows))

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`; likewise."""
        self._session.write_later(write_tasks(rows))

    # --- what workers do --------------------------------------------------------------

    def find_claimable(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`. What others are taking just now is theirs."""
        tried: dict[str, int] = {}
        taken: dict[str, int] = {}
        page = claim.limit
        while True:
            asked = msgspec.structs.replace(claim, limit=page)
            found = super().find_claimable(worker, asked, now)
            for run_ids in chunks(sorted(found.keys() - tried.keys())):
                taken.update(self._fetch(statements.TAKE_RUNS, run_ids=run_ids))
            mine = {r: epoch for r, epoch in found.items() if taken.get(r) == epoch}
            if len(mine) >= claim.limit or len(found) < page:
                return dict(itertools.islice(mine.items(), max(claim.limit, 0)))
            tried |= found
            page *= 2  # beyond what others have, there may be as much

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """See `Tables`. One that is committing just now is not dead."""
        found = SqlTables.find_dead_workers(self, myself, now, presumed_dead)
        return [
            worker_id
            for one in found
            for (worker_id,) in self._fetch(
                statements.LOCK_DEAD_WORKER,
                candidate=one,
                myself=myself,
                now=now,
                presumed_dead=presumed_dead,
            )
        ]

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """See `Tables`."""
        for worker_id in sorted(worker_ids):
            self._fetch(statements.LOCK_WORKERS, worker_ids=[worker_id])
        runs = {
            worker_id: [
                run_id
                for (run_id,) in self._fetch(
                    statements.FIND_RUNS_OF_OWNERS, owners=[worker_id]
                )
            ]
            for worker_id in worker_ids
        }
        self._lock_runs([run_id for run_ids in runs.values() for run_id in run_ids])
        for worker_id, run_ids in runs.items():
            self.disown_runs(run_ids, worker_id, due)
            self._execute(statements.DELETE_WORKERS, worker_ids=[worker_id])

    def disown_strays(self, due: int) -> None:
        """See `Tables`. There are none, as a rule."""
        for run_id, owner in self._fetch(statements.FIND_STRAYS):
            if not self.has_worker(owner):
                self.disown_runs([run_id], owner, due)

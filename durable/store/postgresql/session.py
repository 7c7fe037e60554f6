"""One connection to PostgreSQL: its transactions, its rows, what it hears of others."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable import limits
from durable.store.database import LOCK_SECONDS
from durable.store.deciding.rows import Rows, Seen
from durable.store.postgresql import look as postgresql_look
from durable.store.postgresql.driver import PatientConnection, Statement, Trips
from durable.store.postgresql.write import append, insert_all, write, write_tasks
from durable.store.servers.locked_look import RowsMovedError
from durable.store.servers.server import MIGRATION_SECONDS, Phase, ServerSession
from durable.store.servers.server_tables import ServerTables
from durable.store.sql.reads import has_row
from durable.store.sql.tables import METADATA
from durable.store.sql.tasks import at_rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from durable.store.deciding.rows import TaskRows
    from durable.store.deciding.wanted import Wanted
    from durable.store.postgresql.driver import Row
    from durable.store.records import HistoryRow
    from durable.store.servers.locked_look import LockedLook
    from durable.store.servers.server_clock import ServerClock


def _set(settings: dict[str, Any]) -> str:
    # For the transaction: behind a pooler the session is not ours.
    return ", ".join(f"set_config('{n}', '{v}', true)" for n, v in settings.items())


_CHANNEL: Final = "durable_changes"
# Each transaction takes numbers of its own for messages, in one step.
_SEQUENCE_BITS: Final = 20
_BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
_BEGIN_READING: Final = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT: Final = Statement("COMMIT")
_LEASE_MILLISECONDS: Final = round(limits.LEASE_SECONDS * 1_000)
_WALKING: Final = ("seqscan", "hashjoin", "mergejoin", "material")
_SETTINGS: Final = {
    # A process that stops in the middle keeps others waiting for no longer, whether
    # between two trips or within one.
    "idle_in_transaction_session_timeout": _LEASE_MILLISECONDS // 3,
    "statement_timeout": _LEASE_MILLISECONDS * 7 // 10,
    # Planning takes longer than running; and a plan that was made while tables were
    # empty must not walk them once they are full.
    "plan_cache_mode": "force_generic_plan",
    **{f"enable_{how}": "off" for how in _WALKING},
    "jit": "off",
}
# In order by an index rather than by a sort of all that it finds.
_READING: Final = {
    name: _SETTINGS[name] for name in ("idle_in_transaction_session_timeout", "jit")
} | {f"enable_{how}": "off" for how in (*_WALKING, "bitmapscan", "sort")}
_SET_READING: Final = Statement(f"SELECT {_set(_READING)}")
_HEADER: Final = (
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8,"  # noqa: S608 - constants
    " pg_current_xact_id()::text, {}, set_config('lock_timeout', %b, true), "
    f"{_set(_SETTINGS)}"
)
_WITHOUT_SEQUENCE: Final = _HEADER.format("NULL::int8")
_WITH_SEQUENCE: Final = _HEADER.format("nextval('durable_inbox_sequence_seq')")
_BIRTH: Final = "INSERT INTO durable_incarnation VALUES (1, %b) ON CONFLICT DO NOTHING"
# Who may only read has no transaction whose fate could be asked for.
_MAY: Final = Statement("SELECT has_table_privilege('durable_incarnation', 'INSERT')")
_READ_LIFE: Final = Statement("SELECT life FROM durable_incarnation WHERE id = 1")
_STATUS: Final = "SELECT pg_xact_status(%b::xid8)"
_BEGAN_AT: Final = Statement(
    "SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
# What it is in the middle of ends before it is not seen any more.
_END_SESSION: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid = %b AND backend_start::text = %b"
)
# All of it, as the newest number alone says nothing of an older transaction that others
# have overtaken. It changes when one ends, and only then.
_LATEST: Final = Statement("SELECT pg_current_snapshot()::text")
_PATIENT: Final = {"idle_in_transaction_session_timeout": 0, "statement_timeout": 0}
_ALONE: Final = (
    f"SELECT {_set(_PATIENT)}",
    f"LOCK TABLE {', '.join(METADATA.tables)} IN SHARE ROW EXCLUSIVE MODE",
)
# All wait for whoever changes the schema. But a change that waits for somebody's end
# keeps all who come after it waiting, too.
_MIGRATION_LOCK_SECONDS: Final = 60.0
_MIGRATING: Final = (
    _ALONE[0],
    "SELECT pg_advisory_xact_lock(hashtext('durable_schema'))",
    f"SELECT {_set({'lock_timeout': f'{LOCK_SECONDS:.3f}s'})}",
)
_LAST_SEQUENCE: Final = Statement(
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END"
    " FROM durable_inbox_sequence_seq"
)
_RAISE_SEQUENCE: Final = (
    "SELECT setval('durable_inbox_sequence_seq', greatest(%b, last_value))"
    " FROM durable_inbox_sequence_seq"
)
_RAISE_OUTBOX: Final = Statement(
    "SELECT setval('durable_outbox_sequence_seq', greatest(last_value,"
    " (SELECT max(sequence) FROM durable_outbox))) FROM durable_outbox_sequence_seq"
)
_UNSYNCED: Final = Statement("SET LOCAL synchronous_commit = off")
# Others may be told of many commits at once.
_TOLD_TOGETHER_SECONDS: Final = 0.005


def _tell(what: str) -> Statement:
    return Statement("SELECT pg_notify(%b, %b)", (_CHANNEL, what))


class Appended(NamedTuple):
    """A transaction that was sent as a whole, so that nobody has heard its number.

    Attributes:
        process_id: the server's process that was to carry it out.
        began_at: when that process began.
        row: one that it writes if it is committed, and that no other one writes.
    """

    process_id: int
    began_at: str
    row: HistoryRow


class PostgresSession(ServerSession):
    """Implements `Session` by trips of many statements."""

    # Where more is to be committed it comes sooner; who waits elsewhere hears now.
    idle_seconds = 0.001
    scheme = "postgresql"
    commit_text = _COMMIT
    place_text = Statement(
        "SELECT concat_ws(' ', pg_postmaster_start_time()::text, current_database(),"
        " current_schema())"
    )

    def __init__(self, connection: sa.Connection, clock: ServerClock) -> None:
        """Take over a connection that is in autocommit mode."""
        super().__init__(connection, clock)
        raw = connection.connection.driver_connection
        assert isinstance(raw, PatientConnection)  # noqa: S101 - the pool made it
        self.raw = self._raw = raw
        """The driver's connection."""
        self._life = ""
        self._trips = Trips(raw, self._hear)
        self.tables = PostgresTables(self)
        """See `Session`."""
        self._is_broken = False
        self._listens = False
        self._has_news = False
        self._told_at = 0.0
        self._latest: str | None = None
        self.fate: tuple[str, str] | Appended | None = None
        """See `Session`: the transaction's number, and the server's life."""
        self._began_at: str | None = None
        self._appending: dict[str, Statement] | None = None
        self.has_moved = False
        """What it appended last was refused: runs were not as was believed."""

    # --- transactions -----------------------------------------------------------------

    def send(self, asked: dict[str, Statement]) -> dict[str, list[Row]]:
        """See `ServerSession`."""
        try:
            return dict(zip(asked, self._trips.send(asked.values()), strict=True))
        except BaseException:
            self._is_broken = True
            raise

    def begin_with(
        self, asked: dict[str, Statement], *, takes_sequence: bool = False
    ) -> dict[str, list[Row]]:
        """See `ServerSession`; it may take numbers for messages."""
        header = _WITH_SEQUENCE if takes_sequence else _WITHOUT_SEQUENCE
        patience = f"{self.lock_seconds:.3f}s"
        first = {"begin": _BEGIN, "header": Statement(header, (patience,))}
        answers = self.begin_by(first, asked)
        _, transaction, number, *_ = answers["header"][0]
        self.fate = (transaction, self._life)
        self.sequence = None if number is None else number << _SEQUENCE_BITS
        return answers

    @property
    def connection(self) -> sa.Connection:
        """See `Session`."""
        connection = super().connection
        self._trips.end()
        return connection

    def begin_reading_now(self) -> None:
        """See `ServerSession`."""
        self.phase = Phase.BEGUN
        self.send({"begin": _BEGIN_READING, "settings": _SET_READING})

    def commit(self, *, is_news: bool = True) -> None:
        """See `Session`."""
        pending, self._pending = self._pending, []
        asked, self._appending = self._appending, None
        has_written = self._has_written or bool(pending) or asked is not None
        if asked is not None:
            answers = self.begin_with(asked | {"end": _COMMIT})
            self.phase = Phase.NONE
            self.has_moved = answers["appended"] != [(True,)]
            if self.has_moved:
                raise RowsMovedError
        elif self.phase is Phase.BEGUN:
            self.send({str(n): s for n, s in enumerate((*pending, _COMMIT))})
        self._has_news = self._has_news or (is_news and has_written)
        self.phase = Phase.NONE
        self._has_written = False

    @property
    def may_append(self) -> bool:
        """Whether a transaction may be sent as a whole: its fate can be found out."""
        return self._began_at is not None

    def append_later(self, asked: dict[str, Statement], last: HistoryRow) -> None:
        """Begin, append, of which `last` is the last row, and commit in one trip."""
        self._appending = asked
        self.fate = Appended(self._raw.info.backend_pid, self._began_at or "", last)

    def rollback(self) -> None:
        """See `Session`."""
        self._appending = None
        self._pending.clear()
        has_begun = self.phase is Phase.BEGUN
        self.phase = Phase.NONE
        if has_begun and not self.is_broken:
            # The driver forgets prepared statements when it rolls back.
            end = Statement("ROLLBACK") if self._has_written else _COMMIT
            self._has_written = False
            self.send({"end": end})

    @property
    def is_broken(self) -> bool:
        """See `Session`."""
        return self._is_broken or self._raw.broken

    def read_fate(self, fate: tuple[str, str] | Appended) -> bool | None:
        """See `EnteringSession`. The server keeps how its transactions ended."""
        if isinstance(fate, Appended):
            return self._find_appended(fate)
        transaction, life = fate
        # First: after a crash its number may be none that was given yet.
        if self.send({"life": _READ_LIFE})["life"] != [(life,)]:
            return None
        ((status,),) = self.send({"": Statement(_STATUS, (transaction,))})[""]
        if status == "in progress":
            raise TimeoutError(status)
        return None if status is None else status == "committed"

    def _find_appended(self, appended: Appended) -> bool:
        process_id, began_at, row = appended
        ended = Statement(_END_SESSION, (process_id, began_at))
        if self.send({"ended": ended})["ended"]:
            raise TimeoutError("its session has not ended")
        return has_row(self, row)

    def begin_migrating(self) -> None:
        """See `Session`."""
        self.has_migrated = True
        self._raw.patience = MIGRATION_SECONDS
        self.begin(_MIGRATION_LOCK_SECONDS)
        for text in _MIGRATING:
            self.connection.exec_driver_sql(text)

    # --- what others do ---------------------------------------------------------------

    def enter(self) -> None:
        """See `EnteringSession`. A table that a crash empties knows the life."""
        asked = {"may": _MAY, "began": _BEGAN_AT}
        if not self._raw.is_pooled:
            asked["listen"] = Statement(f"LISTEN {_CHANNEL}")
        answers = self.send(asked)
        if answers["may"] == [(True,)]:
            noted = Statement(_BIRTH, (secrets.token_hex(8),))
            ((self._life,),) = self.send({"noted": noted, "life": _READ_LIFE})["life"]
        if not self._raw.is_pooled:
            ((self._began_at,),) = answers["began"] or [(None,)]
            self.send({"told": _tell("listening")})
            self.send({"heard": _LATEST})

    def _hear(self, process_id: int, payload: bytes) -> None:
        if process_id != self._raw.pgconn.backend_pid:
            self.has_heard = True
        elif payload == b"listening":
            self._listens = True

    @property
    def news_descriptor(self) -> int | None:
        """See `Session`."""
        return self._raw.fileno() if self._listens else None

    @property
    def poll_seconds(self) -> tuple[float, float]:
        """See `Session`."""
        return (1.0, 1.0) if self._listens else (0.005, 0.05)

    def hear(self) -> None:
        """See `Session`."""
        self._raw.pgconn.consume_input()
        self._trips.hear()

    def has_changed(self) -> bool:
        """See `Session`."""
        has_heard, self.has_heard = self.has_heard, False
        ((latest,),) = self.send({"latest": _LATEST})["latest"]
        before, self._latest = self._latest, latest
        return has_heard or (before is not None and before != latest)

    def maintain(self, *, is_idle: bool) -> bool:
        """Tell others that something was committed."""
        now = time.monotonic()
        if self._has_news and (
            is_idle or now >= self._told_at + _TOLD_TOGETHER_SECONDS
        ):
            self._has_news = False
            self._told_at = now
            asked = {"begin": _BEGIN, "set": _UNSYNCED, "told": _tell("")}
            self.send(asked | {"end": _COMMIT})
        return not self._has_news

    # --- copies of the whole ----------------------------------------------------------

    def begin_alone(self) -> None:
        """See `Session`."""
        self.begin()
        # Nobody waits for long who may not write; and reading all rows takes longer.
        for text in _ALONE:
            self.connection.exec_driver_sql(text)

    def insert(self, table: sa.Table, rows: Sequence[Row]) -> None:
        """See `Session`. The driver takes several times as long for many rows."""
        if self.phase is Phase.TO_WRITE:
            self.begin_writing_now()
        self.write_later([insert_all(table, rows)])

    def find_last_sequence(self) -> int:
        """See `Session`."""
        ((last,),) = self.send({"last": _LAST_SEQUENCE})["last"]
        return ((last + 1) << _SEQUENCE_BITS) - 1 if last else 0

    def raise_sequence(self, last: int) -> None:
        """See `Session`."""
        values = (max(1, last >> _SEQUENCE_BITS),)
        raised = Statement(_RAISE_SEQUENCE, values)
        self.send({"raised": raised, "outbox": _RAISE_OUTBOX})


class PostgresTables(ServerTables):
    """Implements `Tables`.

    A group that only continues what its worker has is written without a look: its
    transaction is one trip, and does nothing if anything is not as was believed.
    """

    _session: PostgresSession
    _find_claimable = at_rest.TAKE_CLAIMABLE
    _find_stuck = at_rest.TAKE_STUCK

    _believed: Wanted | None = None

    def look(self, wanted: Wanted) -> Seen:
        """See `Tables`. What only continues is looked at where it is written."""
        session, self._believed = self._session, None
        has_moved, session.has_moved = session.has_moved, False
        if has_moved or not (wanted.only_continues and session.may_append):
            return super().look(wanted)
        self._believed = wanted
        runs = wanted.believed_runs()
        return Seen(has_worker=True, first_sequence=0, most_waiting=0, runs=runs)

    def _look(self, wanted: Wanted) -> LockedLook:
        session = self._session
        takes_sequence = bool(wanted.letters or wanted.sequence)
        asked = postgresql_look.lock(wanted)
        first = session.begin_with(asked, takes_sequence=takes_sequence)
        return postgresql_look.look(wanted, first, session.send)

    def write(self, rows: Rows) -> None:
        """See `Tables`. They go together with the commit.

        Raises:
            RowsMovedError: runs are not as was believed.
        """
        believed, self._believed = self._believed, None
        if believed is not None:
            if rows.history and rows == Rows(history=rows.history):
                asked = append(believed, rows.history)
                self._session.append_later(asked, rows.history[-1])
                return
            self._check(believed)
        self._session.write_later(write(rows))

    def _check(self, believed: Wanted) -> None:
        seen = super().look(believed)
        is_so = seen.has_worker and all(
            run is not None
            and (run.owner, run.last_event_id, run.epoch)
            == (believed.worker_id, *believed.places[run_id])
            for run_id, run in seen.runs.items()
        )
        if not is_so:
            self._session.has_moved = True
            raise RowsMovedError

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`; likewise."""
        self._session.write_later(write_tasks(rows))

"""One connection to PostgreSQL: its transactions, its rows, what it hears of others."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from durable import limits
from durable.store.database import LOCK_SECONDS
from durable.store.postgresql import look as postgresql_look
from durable.store.postgresql.driver import PatientConnection, Statement, Trips
from durable.store.postgresql.write import insert_all, write, write_tasks
from durable.store.servers.server import MIGRATION_SECONDS, Phase, ServerSession
from durable.store.servers.server_tables import ServerTables
from durable.store.sql import statements
from durable.store.sql.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows, TaskRows
    from durable.store.deciding.wanted import Wanted
    from durable.store.postgresql.driver import Row
    from durable.store.servers.locked_look import LockedLook
    from durable.store.servers.server_clock import ServerClock

_CHANNEL: Final = "durable_changes"
# Each transaction takes numbers of its own for messages, in one step.
_SEQUENCE_BITS: Final = 20
_BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
_BEGIN_READING: Final = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT: Final = Statement("COMMIT")
_ROLLBACK: Final = Statement("ROLLBACK")
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
# They last for the transaction: behind a pooler the session is not ours.
_SET: Final = ", ".join(
    f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items()
)
# Likewise, and in order by an index rather than by a sort of all that it finds.
_READING: Final = {
    name: _SETTINGS[name] for name in ("idle_in_transaction_session_timeout", "jit")
} | {f"enable_{how}": "off" for how in (*_WALKING, "bitmapscan", "sort")}
_SET_READING: Final = Statement(
    "SELECT "
    + ", ".join(
        f"set_config('{name}', '{value}', true)" for name, value in _READING.items()
    )
)
_HEADER: Final = (
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8,"  # noqa: S608 - constants
    f" pg_current_xact_id()::text, {{}}, set_config('lock_timeout', %b, true), {_SET}"
)
_WITHOUT_SEQUENCE: Final = _HEADER.format("NULL::int8")
_WITH_SEQUENCE: Final = _HEADER.format("nextval('durable_inbox_sequence_seq')")
_NOTE_LIFE: Final = (
    "INSERT INTO durable_incarnation (id, life) VALUES (1, %b) ON CONFLICT DO NOTHING"
)
_READ_LIFE: Final = Statement("SELECT life FROM durable_incarnation WHERE id = 1")
_STATUS: Final = "SELECT pg_xact_status(%b::xid8)"
_LATEST: Final = Statement("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
# The server may be known by many names.
_PLACE: Final = Statement(
    "SELECT concat_ws(' ', pg_postmaster_start_time()::text, current_database(),"
    " current_schema())"
)
_ALONE: Final = (
    "SELECT set_config('idle_in_transaction_session_timeout', '0', true),"
    " set_config('statement_timeout', '0', true)",
    f"LOCK TABLE {', '.join(METADATA.tables)} IN SHARE ROW EXCLUSIVE MODE",
)
# All wait for whoever changes the schema. But a change that waits for somebody's end
# keeps all who come after it waiting, too.
_MIGRATION_LOCK_SECONDS: Final = 60.0
_MIGRATING: Final = (
    _ALONE[0],
    "SELECT pg_advisory_xact_lock(hashtext('durable_schema'))",
    f"SELECT set_config('lock_timeout', '{LOCK_SECONDS:.3f}s', true)",
)
_LAST_SEQUENCE: Final = Statement(
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END"
    " FROM durable_inbox_sequence_seq"
)
_RAISE_SEQUENCE: Final = (
    "SELECT setval('durable_inbox_sequence_seq', greatest(%b, last_value))"
    " FROM durable_inbox_sequence_seq"
)
_UNSYNCED: Final = Statement("SET LOCAL synchronous_commit = off")
# Others may be told of many commits at once.
_TOLD_TOGETHER_SECONDS: Final = 0.005


class PostgresSession(ServerSession):
    """Implements `Session` by trips of many statements."""

    # Where more is to be committed it comes sooner; who waits elsewhere hears now.
    idle_seconds = 0.001

    def __init__(self, connection: sa.Connection, clock: ServerClock) -> None:
        """Take over a connection that is in autocommit mode."""
        super().__init__(connection)
        raw = connection.connection.driver_connection
        assert isinstance(raw, PatientConnection)  # noqa: S101 - the pool made it
        self.raw = self._raw = raw
        """The driver's connection."""
        self._clock = clock
        self._life = ""
        self._trips = Trips(raw, self._hear)
        self.tables = PostgresTables(self)
        """See `Session`."""
        self._pending: list[Statement] = []
        self._is_broken = False
        self._has_written = False
        self._listens = False
        self._has_heard = False
        self._has_news = False
        self._told_at = 0.0
        self._latest: str | None = None
        self.sequence: int | None = None
        """The number before those that the transaction may give to messages."""
        self._fate: tuple[str, str] | None = None

    # --- transactions -----------------------------------------------------------------

    def send(self, asked: dict[str, Statement]) -> dict[str, list[Row]]:
        """Carry statements out in one trip; their answers by the same names."""
        try:
            return dict(zip(asked, self._trips.send(asked.values()), strict=True))
        except BaseException:
            self._is_broken = True
            raise

    def begin_with(
        self, asked: dict[str, Statement], *, takes_sequence: bool
    ) -> dict[str, list[Row]]:
        """Begin a transaction that writes, with its first statements.

        One that has only looked is over by that.
        """
        header = _WITH_SEQUENCE if takes_sequence else _WITHOUT_SEQUENCE
        patience = f"{self.lock_seconds:.3f}s"
        first = {"begin": _BEGIN, "header": Statement(header, (patience,))}
        if self.phase is Phase.BEGUN:
            first = {"commit": _COMMIT, **first}
        self.phase = Phase.BEGUN
        before = time.monotonic_ns()
        answers = self.send(first | asked)
        instant, transaction, number, *_ = answers["header"][0]
        self._clock.hear(instant, before, time.monotonic_ns())
        self._fate = (transaction, self._life)
        self.sequence = None if number is None else number << _SEQUENCE_BITS
        return answers

    @property
    def connection(self) -> sa.Connection:
        """See `Session`."""
        connection = super().connection
        self._trips.end()
        return connection

    def begin_writing_now(self) -> None:
        """See `ServerSession`."""
        self.begin_with({}, takes_sequence=False)
        self._has_written = True  # whoever takes the connection may

    def begin_reading_now(self) -> None:
        """See `ServerSession`."""
        self.phase = Phase.BEGUN
        self.send({"begin": _BEGIN_READING, "settings": _SET_READING})

    def write_later(self, written: list[Statement]) -> None:
        """Carry statements out together with the commit."""
        self._pending += written

    def commit(self, *, is_news: bool = True) -> None:
        """See `Session`."""
        pending, self._pending = self._pending, []
        if self.phase is Phase.BEGUN:
            has_written = self._has_written or bool(pending)
            self.send({str(n): s for n, s in enumerate((*pending, _COMMIT))})
            self._has_news = self._has_news or (is_news and has_written)
        self.phase = Phase.NONE
        self._has_written = False

    def rollback(self) -> None:
        """See `Session`."""
        self._pending.clear()
        has_begun = self.phase is Phase.BEGUN
        self.phase = Phase.NONE
        if has_begun and not self.is_broken:
            # The driver forgets prepared statements when it rolls back.
            end = _ROLLBACK if self._has_written else _COMMIT
            self._has_written = False
            self.send({"end": end})

    @property
    def is_broken(self) -> bool:
        """See `Session`."""
        return self._is_broken or self._raw.broken

    @property
    def fate(self) -> object:
        """See `Session`: the transaction's number, and the server's life."""
        return self._fate

    def note_life(self) -> None:
        """Know the server's life, which a crash ends, by a table that it empties."""
        noted = Statement(_NOTE_LIFE, (secrets.token_hex(8),))
        answers = self.send({"noted": noted, "life": _READ_LIFE})
        self._life = answers["life"][0][0]

    def read_fate(self, transaction: str, life: str) -> str | None:
        """Return what has become of a transaction; None if that life is over."""
        # First: after a crash its number may be none that was given yet.
        if self.send({"life": _READ_LIFE})["life"] != [(life,)]:
            return None
        status: str | None
        ((status,),) = self.send({"": Statement(_STATUS, (transaction,))})[""]
        return status

    def begin_migrating(self) -> None:
        """See `Session`."""
        self.has_migrated = True
        self._raw.patience = MIGRATION_SECONDS
        self.begin(_MIGRATION_LOCK_SECONDS)
        for text in _MIGRATING:
            self.connection.exec_driver_sql(text)

    # --- what others do ---------------------------------------------------------------

    def enter(self) -> None:
        """See `EnteringSession`."""
        self.note_life()
        self.listen()

    def listen(self) -> None:
        """Hear of others' commits, if nothing in between keeps it from that."""
        if self._raw.is_pooled:
            return
        asked = Statement("SELECT pg_notify(%b, %b)", (_CHANNEL, "listening"))
        self.send({"listen": Statement(f"LISTEN {_CHANNEL}")})
        self.send({"told": asked})
        self.send({"heard": _LATEST})

    def _hear(self, process_id: int, payload: bytes) -> None:
        is_own = process_id == self._raw.pgconn.backend_pid
        if not is_own:
            self._has_heard = True
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

    @property
    def has_heard(self) -> bool:
        """See `Session`."""
        return self._has_heard

    def hear(self) -> None:
        """See `Session`."""
        self._raw.pgconn.consume_input()
        self._trips.hear()

    def has_changed(self) -> bool:
        """See `Session`."""
        has_heard, self._has_heard = self._has_heard, False
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
            told = Statement("SELECT pg_notify(%b, %b)", (_CHANNEL, ""))
            self.send({"begin": _BEGIN, "set": _UNSYNCED, "told": told, "end": _COMMIT})
        return not self._has_news

    # --- copies of the whole ----------------------------------------------------------

    def identify(self) -> str:
        """See `Session`."""
        ((place,),) = self.send({"place": _PLACE})["place"]
        return f"postgresql {place}"

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
        self.send({"raised": Statement(_RAISE_SEQUENCE, values)})


class PostgresTables(ServerTables):
    """Implements `Tables`; what is fast goes in trips of many statements."""

    _session: PostgresSession
    _find_claimable = statements.TAKE_CLAIMABLE
    _find_stuck = statements.TAKE_STUCK

    def _look(self, wanted: Wanted) -> LockedLook:
        session = self._session
        has_letters = bool(wanted.letters or wanted.sequence)
        first = session.begin_with(
            postgresql_look.lock(wanted), takes_sequence=has_letters
        )
        found = postgresql_look.look(wanted, first, session.send)
        if has_letters:
            found.seen.last_sequence = session.sequence
        return found

    def write(self, rows: Rows) -> None:
        """See `Tables`. They go together with the commit."""
        self._session.write_later(write(rows))

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`; likewise."""
        self._session.write_later(write_tasks(rows))

"""One of the two databases of a copy: its rows by pages, and its errors explained."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from durable.errors import DatabaseUnavailableError, DurableError
from durable.store.copying.rows import TABLES, Digest
from durable.store.database import Blame
from durable.store.sql import salvage, statements
from durable.store.sql.fetching import fetch
from durable.store.sql.schema import VERSION_TABLE, read_revision
from durable.store.sql.tables import INBOX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from durable.store.copying.rows import Row, Sum
    from durable.store.database import Database, Prepare
    from durable.store.records import WorkerRecord
    from durable.store.threads.sql_store import SqlStore

# Rows are small as a rule, but one may hold megabytes.
_PAGE_ROWS_MAX: Final = 4_000
_PAGE_CHARS_MAX: Final = 8 * 1024 * 1024


class _Reading:
    """The statements that read a table in the order of its key."""

    def __init__(self, table: sa.Table) -> None:
        self._keys = list(table.primary_key.columns)
        self._places = [list(table.c).index(key) for key in self._keys]
        limit: sa.BindParameter[int] = sa.bindparam("page", type_=sa.Integer)
        after = [
            sa.bindparam(f"after_{key.name}", type_=key.type) for key in self._keys
        ]
        first = sa.select(table).order_by(*self._keys).limit(limit)
        later = first.where(sa.tuple_(*self._keys) > sa.tuple_(*after))
        if len(after) > 1:  # MariaDB finds no place in an index by a tuple
            later = later.where(self._keys[0] >= after[0])
        self.first = first, self._measure(first)
        self.later = later, self._measure(later)

    def _measure(self, page: sa.Select[Any]) -> sa.Select[Any]:
        sizes = [
            sa.func.coalesce(sa.func.length(column), 0)
            for column in page.subquery().c
            if isinstance(column.type, sa.Text)
        ]
        # A table may have nothing of any size.
        return sa.select(sa.literal(0), *(sa.func.sum(size) for size in sizes))

    def place_of(self, row: Row) -> dict[str, Any]:
        """Return what the statements of later pages take to begin behind a row."""
        return {
            f"after_{key.name}": row[place]
            for key, place in zip(self._keys, self._places, strict=True)
        }


_READINGS: Final = {table.name: _Reading(table) for table in TABLES}


class Side:
    """A database that is copied from or to.

    Args:
        store: how it is reached; it is not opened.
        prepare: what is done about its schema; see `Database.open_writer`.

    Raises:
        StoreError: it cannot be used.
    """

    def __init__(self, store: SqlStore, prepare: Prepare | None = None) -> None:
        """Connect."""
        self.database: Database = store.database
        self.name = self.database.name
        self.now = store.now
        """Microseconds since 1970, by this database's clock."""
        with self.explaining():
            self.session = self.database.open_writer(prepare)

    def close(self) -> None:
        """Disconnect; what is not committed is undone."""
        self.session.close()

    @contextlib.contextmanager
    def explaining(self) -> Generator[None]:
        """Turn what the driver raises into errors of this library."""
        try:
            yield
        except DurableError:
            raise
        except Exception as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> DurableError:
        database = self.database
        known = database.explain(error)
        if known is not None:
            return known
        if database.is_conflict(error) or database.judge(error) is Blame.AGAIN:
            return self.in_use("something else is writing to it")
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        return DatabaseUnavailableError(
            f"{self.name} cannot be copied: {type(error).__name__}: {reason}"
        )

    def in_use(self, why: str) -> DatabaseUnavailableError:
        """Build the error of a database that is not left alone."""
        return DatabaseUnavailableError(
            f"{self.name} cannot be copied while it is used: {why}.",
            hint="Stop every program that uses it, and run the command again.",
        )

    # --- transactions -----------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Carry out a transaction during which nobody else writes."""
        with self.explaining():
            self.session.begin_alone()
        with self._committing():
            yield

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Carry out a transaction."""
        with self.explaining():
            self.session.begin()
        with self._committing():
            yield

    @contextlib.contextmanager
    def _committing(self) -> Generator[None]:
        session = self.session
        try:
            with self.explaining():
                yield
                session.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                session.rollback()
            raise
        with self.explaining():
            session.maintain(is_idle=True)

    # --- rows -------------------------------------------------------------------------

    def read(self, table: sa.Table) -> Iterator[list[Row]]:
        """Yield all rows in the order of the key, some megabytes at a time."""
        reading = _READINGS[table.name]
        (page, size), after = reading.first, dict[str, Any]()
        limit = _PAGE_ROWS_MAX
        while True:
            with self.explaining():
                limit = self._fit(size, after, min(2 * limit, _PAGE_ROWS_MAX))
                rows = fetch(self.session, page, **after, page=limit)
            if not rows:
                return
            yield rows
            (page, size), after = reading.later, reading.place_of(rows[-1])

    def _fit(self, size: sa.Select[Any], after: dict[str, Any], limit: int) -> int:
        while limit > 1:
            (chars,) = fetch(self.session, size, **after, page=limit)
            if sum(n or 0 for n in chars) <= _PAGE_CHARS_MAX:
                break
            limit //= 2
        return limit

    def sum_up(self, table: sa.Table, told: Callable[[int], None]) -> Sum:
        """Return what a table holds; `told` hears how many rows were read."""
        digest = Digest()
        for rows in self.read(table):
            digest.add(rows)
            told(digest.rows)
        return digest.sum

    def has_rows(self) -> bool:
        """Whether anything is there that could be copied."""
        return any(
            fetch(self.session, sa.select(sa.literal(1)).select_from(table).limit(1))
            for table in TABLES
        )

    def clear(self) -> None:
        """Delete all that could be copied."""
        for table in TABLES:
            self.session.connection.execute(sa.delete(table))

    # --- workers, numbers, revision ---------------------------------------------------

    def list_workers(self) -> list[WorkerRecord]:
        """Return all workers that have a row."""
        rows = fetch(self.session, statements.LIST_WORKERS)
        return [salvage.salvage_worker(row) for row in rows]

    def find_last_sequence(self) -> int:
        """Return the greatest number that a message has, or has had."""
        ((last,),) = fetch(self.session, sa.select(sa.func.max(INBOX.c.sequence)))
        return max(last or 0, self.session.find_last_sequence())

    def read_revision(self) -> str:
        """Return the revision that the database says it has."""
        return read_revision(self.session) or ""

    def write_revision(self, revision: str) -> None:
        """Say that the database has another revision."""
        self.session.connection.execute(
            sa.update(VERSION_TABLE).values(version_num=revision)
        )

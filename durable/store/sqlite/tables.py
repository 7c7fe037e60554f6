"""The rows of a SQLite database, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable.store.sql.sql_tables import SqlTables
from durable.store.sqlite import look as sqlite_look
from durable.store.sqlite import write as sqlite_write

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from durable.store.activity_tasks import TaskKey
    from durable.store.database import Session
    from durable.store.deciding.rows import Rows, Seen, TaskRows
    from durable.store.deciding.wanted import Wanted


class SqliteTables(SqlTables):
    """Implements `Tables`; what is fast goes by the driver's own connection."""

    def __init__(self, session: Session, connection: sqlite3.Connection) -> None:
        """Prepare nothing; the driver caches each text when it is first used."""
        super().__init__(session)
        self._cursor = connection.cursor()
        self.has_freed = False
        """Runs were deleted, and the file may have room that nothing uses."""

    def look(self, wanted: Wanted) -> Seen:
        """See `Tables`. Text that is none comes as bytes, and is somebody's damage."""
        try:
            return self._look(wanted)
        except Exception as error:
            tolerance = self._session.tolerate(error)
            if tolerance is None:
                raise
            with tolerance:
                return self._look(wanted)

    def _look(self, wanted: Wanted) -> Seen:
        seen = sqlite_look.look(self._cursor, wanted)
        if wanted.rare:
            self.look_rarely(wanted.rare, seen)
            chains = {
                key: self.find_newest_of_chain(key)
                for key in wanted.rare.get("chains", ())
            }
            newest = [run_id for run_id in chains.values() if run_id is not None]
            sqlite_look.look_for_runs(self._cursor, newest, seen)
            seen.chains = {
                key: None if run_id is None else seen.runs[run_id]
                for key, run_id in chains.items()
            }
        return seen

    def write(self, rows: Rows) -> None:
        """See `Tables`."""
        sqlite_write.write(self._cursor, rows)

    def _lock_tasks(self, keys: Iterable[TaskKey]) -> list[Any]:
        # Of a list of pairs SQLite makes a walk through the whole table.
        return sqlite_look.look_for_tasks(self._cursor, keys)

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`."""
        sqlite_write.write_tasks(self._cursor, rows)

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """See `Tables`."""
        super().delete_runs(run_ids)
        self.has_freed = True

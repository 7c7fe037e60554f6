"""The rows of a PostgreSQL database, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable.store.postgresql import look as postgresql_look
from durable.store.postgresql.write import write
from durable.store.servers.server_tables import ServerTables
from durable.store.sql import statements

if TYPE_CHECKING:
    from durable.store.deciding.rows import Rows
    from durable.store.deciding.wanted import Wanted
    from durable.store.postgresql.session import PostgresSession
    from durable.store.servers.locked_look import LockedLook


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

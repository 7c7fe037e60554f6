"""Where a database is, in words that its own connection and a caller's have alike."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable.errors import DurableError, WrongDatabaseError
from durable.store.sql.tables import OUTBOX

if TYPE_CHECKING:
    from durable.store.database import Database

_START_TIME: Final = (
    "CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint)"
)
# By the catalogue: whoever names a table that is not there, or a schema that is not
# for him, loses his transaction.
_POSTGRESQL: Final = (
    f"SELECT concat_ws(' ', {_START_TIME}, current_database(), (SELECT concat_ws(' ',"  # noqa: S608 - constants
    " c.oid, has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid,"
    " 'INSERT')) FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
    f" ON n.oid = c.relnamespace WHERE c.relname = '{OUTBOX.name}'"
    " AND n.nspname = CAST(:schema AS name)))"
)
MARKERS: Final = {
    "sqlite": "SELECT file FROM pragma_database_list WHERE name = 'main'",
    "postgresql": _POSTGRESQL,
    "mysql": "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, DATABASE())",
}
"""What tells a database from all others, by SQLAlchemy's name of its kind."""
_FIND_SCHEMA: Final = (
    "SELECT n.nspname, quote_ident(n.nspname) FROM pg_catalog.pg_class AS c"  # noqa: S608 - a constant
    " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    f" WHERE c.oid = to_regclass('{OUTBOX.name}')"
)
_PRIVILEGE: Final = {"postgresql": (" t", " f")}


class Place(NamedTuple):
    """Where this engine's database is.

    Attributes:
        name: as messages name it.
        marker: what its own connection has answered.
        values: those of the marker's statement.
        table: the outbox, as statements name it.
    """

    name: str
    dialect: str
    marker: str
    values: dict[str, Any]
    table: str

    def is_at(self, found: str) -> bool:
        """Whether a connection that has answered this leads here."""
        if self.dialect == "sqlite":
            return _is_same_file(self.marker, found)
        return self._bare(found) == self._bare(self.marker)

    def _bare(self, found: str) -> str:
        """What was answered, but for what the user may do."""
        return found[:-2] if found.endswith(_PRIVILEGE.get(self.dialect, ())) else found

    def is_forbidden(self, found: str) -> bool:
        """Whether its user may not write there."""
        return self.dialect == "postgresql" and found.endswith(" f")

    def tell_from(self, found: str) -> str:
        """Say of a connection to somewhere else where it leads."""
        if self.dialect == "sqlite":
            return f"leads to the file {found}" if found else "leads into memory"
        if self.dialect == "mysql":
            place, _, database = found.rpartition(" ")
            is_here = self.marker.startswith(f"{place} ")
            server = "the same server" if is_here else "another server"
            return f"leads to database {database!r} of {server}"
        start, database, *table = found.split(" ")
        if start != self.marker.partition(" ")[0]:
            return f"leads to database {database!r} of another server"
        lacks = "" if table else f", which has no table {self.table}"
        return f"leads to database {database!r} of the same server{lacks}"


def _is_same_file(one: str, other: str) -> bool:
    try:
        return bool(other) and os.path.samestat(Path(one).stat(), Path(other).stat())
    except OSError:
        return False


def find_place(store: object) -> Place:
    """Ask a store's own database where it is, by a connection of its own.

    Raises:
        WrongDatabaseError: nobody else can be connected to it.
        StoreError: it cannot be reached.
    """
    database: Database | None = getattr(store, "database", None)
    session = None if database is None else database.open_reader()
    if database is None or session is None:
        raise WrongDatabaseError(
            "The runs of this engine are in memory, where no transaction of a caller"
            " can reach.",
            hint="Open the engine on the database that the connection leads to.",
        )
    with contextlib.closing(session):
        try:
            connection = session.connection
            dialect = connection.dialect.name
            dialect = "mysql" if dialect == "mariadb" else dialect
            table, values = OUTBOX.name, dict[str, Any]()
            if dialect == "postgresql":
                schema, quoted = connection.exec_driver_sql(_FIND_SCHEMA).one()
                values, table = {"schema": schema}, f"{quoted}.{OUTBOX.name}"
            marker = connection.exec_driver_sql(
                MARKERS[dialect].replace(":schema", "%(schema)s"), values
            ).scalar()
        except DurableError:
            raise
        except Exception as error:
            raise database.explain(error) or error from error
    return Place(database.name, dialect, str(marker), values, table)

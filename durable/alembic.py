"""For applications that share a database with this library and use alembic.

In the application's `env.py`:

    from durable.alembic import without_durable_tables

    context.configure(..., include_name=without_durable_tables)
"""

from __future__ import annotations

from typing import Final

from durable.store.sql.schema import VERSION_TABLE
from durable.store.sql.tables import METADATA, SERVER_TABLES

__all__ = ["without_durable_tables"]

_OURS: Final = frozenset(
    {
        *METADATA.tables,
        *(table.name for tables in SERVER_TABLES.values() for table in tables),
        VERSION_TABLE.name,
    }
)


def without_durable_tables(name: str | None, type_: str, parent_names: object) -> bool:
    """Whether alembic should look at something: True of all but this library's tables.

    For `include_name` of `context.configure`. Without it `alembic revision
    --autogenerate` finds tables that the application's metadata lacks, and writes a
    migration that drops them. A function of your own is combined with it by `and`.

    Args:
        name: what alembic has found in the database.
        type_: what that is, such as "table".
        parent_names: where it was found; not looked at.
    """
    return type_ != "table" or name not in _OURS

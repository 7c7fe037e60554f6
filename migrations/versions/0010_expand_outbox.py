"""Starts and messages wait in a table until the transaction that wrote them is over.

Programs of the release before go on, and leave it alone.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SERVERS = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}
_TABLE = "durable_outbox"
_INDEXES = {
    "due": ["namespace", "due_at", "sequence"],
    "outbox_id": ["outbox_id"],
}


def _id(length: int = 255) -> sa.String:
    found = sa.String(length)
    for dialect, collation in ({"postgresql": "C"} | _SERVERS).items():
        found = found.with_variant(sa.String(length, collation=collation), dialect)
    return found


def _place() -> sa.String:
    return (
        sa.String(255)
        .with_variant(sa.VARBINARY(255), *_SERVERS)
        .with_variant(sa.String(255, collation="C"), "postgresql")
    )


def _json() -> sa.Text:
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


def _columns() -> list[sa.schema.SchemaItem]:
    return [
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
        ),
        sa.Column("outbox_id", _id(), nullable=False),
        sa.Column("namespace", _place(), nullable=False),
        sa.Column("target", _id(), nullable=False),
        sa.Column("kind", _id(32), nullable=False),
        sa.Column("data", _json(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("failure", _json()),
    ]


def _read_present() -> set[str]:
    """Names of the table and of its indexes, as far as they are there."""
    if op.get_context().as_sql:
        return set()
    found = sa.inspect(op.get_bind())
    if not found.has_table(_TABLE):
        return set()
    return {_TABLE, *(str(index["name"]) for index in found.get_indexes(_TABLE))}


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # What a killed upgrade has made stays on MariaDB: go on from there.
    present = _read_present() if dialect in _SERVERS else set()
    options: dict[str, Any] = {"sqlite_autoincrement": True}
    if dialect in _SERVERS:
        options = {
            f"{dialect}_engine": "InnoDB",
            f"{dialect}_row_format": "DYNAMIC",
            f"{dialect}_charset": "utf8mb4",
            f"{dialect}_collate": _SERVERS[dialect],
        }
    if _TABLE not in present:
        op.create_table(_TABLE, *_columns(), **options)
    for name, columns in _INDEXES.items():
        full_name = f"{_TABLE}_{name}"
        if full_name not in present:
            op.create_index(full_name, _TABLE, columns)

"""Histories and workers have no fencing numbers any more, and nothing counts them.

What a worker writes that has lost its lease is refused because its row is gone.
Programs of earlier releases need the columns: they must have ended. On SQLite the
history is copied, as it would be if the column were dropped there, which old versions
cannot: some seconds for each million of events, and space for as much again.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _id() -> sa.String:
    binary = sa.String(255, collation="utf8mb4_bin")
    return sa.String(255).with_variant(binary, "mysql", "mariadb")


_HISTORY = (
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("event_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task_number", sa.Integer, nullable=False),
    sa.Column("type", _id(), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("flags", sa.BigInteger, nullable=False),
)
_WORKERS = (
    sa.Column("worker_id", _id(), primary_key=True),
    sa.Column("namespace", _id(), nullable=False),
    sa.Column("host", _id(), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started_at", _id(), nullable=False),
    sa.Column("task_queue", _id(), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
)


def upgrade() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    for table, columns in (
        ("durable_history", _HISTORY),
        ("durable_workers", _WORKERS),
    ):
        if is_sqlite:
            _copy(table, columns)
        else:
            op.drop_column(table, "fence")
    op.drop_table("durable_counters")


def _copy(table: str, columns: tuple[sa.Column[Any], ...]) -> None:
    names = ", ".join(column.name for column in columns)
    op.rename_table(table, f"{table}_before")
    op.create_table(table, *columns, sqlite_with_rowid=False)
    op.execute(f"INSERT INTO {table} SELECT {names} FROM {table}_before")  # noqa: S608 - names are written here
    op.drop_table(f"{table}_before")

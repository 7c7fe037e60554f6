"""Whole runs of a task queue may have limits, and those that wait take turns.

Programs of the release before go on, and begin runs whatever the limits.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_SERVERS = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}
_TURNS = "durable_run_turns"
_OF_STATE = ["namespace", "task_queue", "state"]
_INDEXES = {
    "turns": [*_OF_STATE, "priority", "fairness_key", "due_at", "run_id"],
    "expiry": [*_OF_STATE, "expires_at"],
    "run": ["run_id"],
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


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("first_run_id", _id(), primary_key=True),
        sa.Column("run_id", _id(), nullable=False),
        sa.Column("namespace", _place(), nullable=False),
        sa.Column("task_queue", _place(), nullable=False),
        sa.Column("workflow_id", _id(), nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("state", _id(32), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("fairness_key", _id(64), nullable=False),
        sa.Column("fairness_weight", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    ]


def _read_present() -> set[str]:
    """The table and its indexes, as far as they are there."""
    if op.get_context().as_sql:
        return set()
    found = sa.inspect(op.get_bind())
    if not found.has_table(_TURNS):
        return set()
    return {_TURNS} | {str(index["name"]) for index in found.get_indexes(_TURNS)}


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # What a killed upgrade has made stays on MariaDB: go on from there.
    present = _read_present() if dialect in _SERVERS else set()
    options: dict[str, Any] = {"sqlite_with_rowid": False}
    if dialect in _SERVERS:
        options = {
            f"{dialect}_engine": "InnoDB",
            f"{dialect}_row_format": "DYNAMIC",
            f"{dialect}_charset": "utf8mb4",
            f"{dialect}_collate": _SERVERS[dialect],
        }
    if _TURNS not in present:
        op.create_table(_TURNS, *_columns(), **options)
    for name, columns in _INDEXES.items():
        if f"{_TURNS}_{name}" not in present:
            op.create_index(f"{_TURNS}_{name}", _TURNS, columns)

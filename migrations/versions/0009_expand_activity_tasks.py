"""Activities that any worker may take have rows; attempts keep their last heartbeat.

Programs of the release before go on: they make no such rows, and look at none.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_SERVERS = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}
_TASKS = "durable_activity_tasks"


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


def _columns() -> list[sa.Column[Any]]:
    event_id = sa.Column(
        "scheduled_event_id", sa.Integer, primary_key=True, autoincrement=False
    )
    return [
        sa.Column("run_id", _id(), primary_key=True),
        event_id,
        sa.Column("namespace", _place(), nullable=False),
        sa.Column("task_queue", _place(), nullable=False),
        sa.Column("activity_type", _id(), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("data", _json(), nullable=False),
        sa.Column("state", _id(32), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("worker_id", _id()),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("heartbeat_at", sa.BigInteger),
        sa.Column("judge_id", _id()),
        sa.Column("cancel", _id()),
        sa.Column("progress", _json()),
    ]


_KEY = ["run_id", "scheduled_event_id"]


def _indexes(dialect: str) -> dict[str, tuple[list[str], str]]:
    # Without a condition what does not wait is in the index, too.
    state = ["state"] if dialect in _SERVERS else []
    of_queue = ["namespace", "task_queue", *state, "activity_type", "priority"]
    return {
        "due": ([*of_queue, "due_at", *_KEY], "state = 'waiting'"),
        "expiry": (["namespace", "expires_at", *_KEY], "expires_at IS NOT NULL"),
        "worker": (["worker_id", "cancel"], "worker_id IS NOT NULL"),
    }


def _read_present() -> set[str]:
    """Columns of attempts, the table of tasks and its indexes."""
    if op.get_context().as_sql:
        return set()
    found = sa.inspect(op.get_bind())
    present = {column["name"] for column in found.get_columns("durable_attempts")}
    if found.has_table(_TASKS):
        present.add(_TASKS)
        present |= {str(index["name"]) for index in found.get_indexes(_TASKS)}
    return present


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # What a killed upgrade has made stays on MariaDB: go on from there.
    present = _read_present() if dialect in _SERVERS else set()
    added = sa.Column("details", _json()), sa.Column("heartbeat_at", sa.BigInteger)
    for column in added:
        if column.name not in present:
            op.add_column("durable_attempts", column)
    options: dict[str, Any] = {}
    if dialect in _SERVERS:
        options = {
            f"{dialect}_engine": "InnoDB",
            f"{dialect}_row_format": "DYNAMIC",
            f"{dialect}_charset": "utf8mb4",
            f"{dialect}_collate": _SERVERS[dialect],
        }
    if _TASKS not in present:
        op.create_table(_TASKS, *_columns(), **options)
    for name, (columns, condition) in _indexes(dialect).items():
        where = sa.text(condition)
        if f"{_TASKS}_{name}" not in present:
            op.create_index(
                f"{_TASKS}_{name}",
                _TASKS,
                columns,
                sqlite_where=where,
                postgresql_where=where,
            )

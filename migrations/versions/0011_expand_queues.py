"""Task queues may have limits, and the activities that wait in them take turns.

Programs of the release before go on, and leave both alone.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SERVERS = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}
_QUEUES = "durable_queues"
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
    return [
        sa.Column("namespace", _place(), primary_key=True),
        sa.Column("name", _id(), primary_key=True),
        sa.Column("concurrency", sa.Integer),
        sa.Column("worker_concurrency", sa.Integer),
        sa.Column("key_concurrency", sa.Integer),
        sa.Column("rate_count", sa.Integer),
        sa.Column("rate_per", sa.BigInteger),
        sa.Column("rate_burst", sa.Integer),
        sa.Column("paused_at", sa.BigInteger),
        sa.Column("note", _json()),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("rate_log", _json()),
        sa.Column("rate_at", sa.BigInteger, nullable=False),
        sa.Column("last_key", _id(64), nullable=False),
        sa.Column("key_credit", sa.Integer, nullable=False),
    ]


def _added() -> list[sa.Column[Any]]:
    return [
        sa.Column("fairness_key", _id(64), nullable=False, server_default=""),
        sa.Column("fairness_weight", sa.Integer, nullable=False, server_default="1"),
    ]


def _indexes(dialect: str) -> dict[str, tuple[list[str], str]]:
    state = ["state"] if dialect in _SERVERS else []
    of_queue = ["namespace", "task_queue", *state]
    key = ["run_id", "scheduled_event_id"]
    kind = ["activity_type", "priority", "fairness_key", "due_at"]
    return {
        "turns": ([*of_queue, *kind, *key], "state = 'waiting'"),
        "held": ([*of_queue, "fairness_key", "worker_id"], "state = 'claimed'"),
    }


def _read_present() -> set[str]:
    """The table of queues, and columns and indexes of tasks."""
    if op.get_context().as_sql:
        return set()
    found = sa.inspect(op.get_bind())
    present = {column["name"] for column in found.get_columns(_TASKS)}
    present |= {str(index["name"]) for index in found.get_indexes(_TASKS)}
    return present | ({_QUEUES} if found.has_table(_QUEUES) else set())


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
    if _QUEUES not in present:
        op.create_table(_QUEUES, *_columns(), **options)
    for column in _added():
        if column.name not in present:
            op.add_column(_TASKS, column)
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

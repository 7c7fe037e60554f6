"""Every table and index begins with `durable_`, so that applications keep their names.

Programs of earlier releases look for the old names: they must have ended.
This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = ("runs", "history", "inbox", "replies", "attempts", "workers", "counters")
_UNIQUE = (
    ("runs", "runs_open_key", ["open_key", "namespace"]),
    ("runs", "runs_request_id", ["request_id", "namespace"]),
    ("inbox", "inbox_request_id", ["run_id", "request_id"]),
)
_INDEXES = (
    ("runs", "runs_workflow_id", ["workflow_id", "namespace", "started_at"], None),
    ("runs", "runs_started_at", ["namespace", "started_at"], None),
    (
        "runs",
        "runs_due",
        ["owner", "is_active", "wake_at", "run_id"],
        "open_key IS NOT NULL",
    ),
    (
        "runs",
        "runs_parent",
        ["parent_run_id", "open_key"],
        "parent_run_id IS NOT NULL",
    ),
    ("replies", "replies_created_at", ["created_at"], None),
)


def upgrade() -> None:
    for name in _TABLES:
        op.rename_table(name, f"durable_{name}")
    # No index can be renamed on SQLite. Names of constraints are known to nobody
    # there, and a new one would cost a copy of the table.
    if op.get_context().dialect.name != "sqlite":
        for table, name, columns in _UNIQUE:
            op.drop_constraint(name, f"durable_{table}", type_="unique")
            op.create_unique_constraint(f"durable_{name}", f"durable_{table}", columns)
    for table, name, columns, where in _INDEXES:
        condition = None if where is None else sa.text(where)
        op.drop_index(name, table_name=f"durable_{table}")
        op.create_index(
            f"durable_{name}",
            f"durable_{table}",
            columns,
            sqlite_where=condition,
            postgresql_where=condition,
        )

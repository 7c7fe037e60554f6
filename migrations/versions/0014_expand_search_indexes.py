"""Runs are found by task queue, version, parent, root and duration.

Programs of the release before go on. MariaDB has no indexes of some rows only, and none
of these. This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ORDERED = ["namespace", "started_at"]
_INDEXES = {
    "queue": (["(task_queue || '')", *_ORDERED], "task_queue != 'default'"),
    "version": (["(version || '')", *_ORDERED], "version IS NOT NULL"),
    "parent_id": (
        ["parent_workflow_id", *_ORDERED],
        "parent_workflow_id IS NOT NULL",
    ),
    "root": (["root_run_id"], "root_run_id IS NOT NULL"),
    "first": (["first_run_id"], "first_run_id != run_id"),
    "duration": (
        ["(namespace || '')", "started_at"],
        "closed_at - started_at >= 60000000",
    ),
}


def _column(text: str, dialect: str) -> "str | sa.TextClause":
    """On SQLite without what keeps PostgreSQL's planner from an index."""
    if not text.startswith("("):
        return text
    return sa.text(text) if dialect == "postgresql" else text[1:].partition(" ")[0]


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    if dialect not in ("sqlite", "postgresql"):
        return
    for name, (columns, where) in _INDEXES.items():
        op.create_index(
            f"durable_runs_{name}",
            "durable_runs",
            [_column(text, dialect) for text in columns],
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )

"""Create all tables of the first release.

This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _id(length: int = 255) -> sa.String:
    binary = sa.String(length, collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _json() -> sa.Text:
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


def upgrade() -> None:
    _create_runs()
    _create_history()
    _create_inbox()
    _create_attempts()
    _create_workers()
    _create_counters()


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", _id(), primary_key=True),
        sa.Column("namespace", _id(), nullable=False),
        sa.Column("workflow_id", _id(), nullable=False),
        sa.Column("workflow_type", _id(), nullable=False),
        sa.Column("task_queue", _id(), nullable=False),
        sa.Column("status", _id(32), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("first_run_id", _id(), nullable=False),
        sa.Column("request_id", _id(), nullable=False),
        sa.Column("closed_at", sa.BigInteger),
        sa.Column("owner", _id()),
        sa.Column("is_active", sa.SmallInteger, nullable=False),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("stuck", _json()),
        sa.Column("version", _id()),
        sa.Column("continued_from_run_id", _id()),
        sa.Column("parent_workflow_id", _id()),
        sa.Column("parent_run_id", _id()),
        sa.Column("root_run_id", _id()),
        sa.Column("open_key", _id()),
        sa.UniqueConstraint("open_key", "namespace", name="runs_open_key"),
        sa.UniqueConstraint("request_id", "namespace", name="runs_request_id"),
    )
    op.create_index(
        "runs_workflow_id", "runs", ["workflow_id", "namespace", "started_at"]
    )
    op.create_index("runs_started_at", "runs", ["namespace", "started_at"])
    op.create_index(
        "runs_due",
        "runs",
        ["owner", "is_active", "wake_at", "run_id"],
        sqlite_where=sa.text("open_key IS NOT NULL"),
        postgresql_where=sa.text("open_key IS NOT NULL"),
    )


def _create_history() -> None:
    op.create_table(
        "history",
        sa.Column("run_id", _id(), primary_key=True),
        sa.Column("event_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_number", sa.Integer, nullable=False),
        sa.Column("type", _id(), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("data", _json(), nullable=False),
        sa.Column("flags", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
        ),
        sa.Column("run_id", _id(), nullable=False),
        sa.Column("kind", _id(), nullable=False),
        sa.Column("request_id", _id(), nullable=False),
        sa.Column("data", _json(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("run_id", "request_id", name="inbox_request_id"),
        sqlite_autoincrement=True,
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("run_id", _id(), primary_key=True),
        sa.Column(
            "scheduled_event_id", sa.Integer, primary_key=True, autoincrement=False
        ),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("activity_type", _id(), nullable=False),
        sa.Column("state", _id(32), nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("closed_at", sa.BigInteger),
        sa.Column("failure", _json()),
        sa.Column("worker_id", _id()),
        sqlite_with_rowid=False,
    )


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("worker_id", _id(), primary_key=True),
        sa.Column("namespace", _id(), nullable=False),
        sa.Column("host", _id(), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("process_started_at", _id(), nullable=False),
        sa.Column("task_queue", _id(), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_counters() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", _id(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(counters, [{"name": "fence", "value": 0}])

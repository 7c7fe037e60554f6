"""A run belongs to a worker only while that has something of it under way.

At rest it is nobody's, and `wake_at` says when any worker goes on with it. Programs of
earlier releases keep runs that only wait: they must have ended. On SQLite the runs are
copied: some seconds for each million, and space for as much again.
This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _id(length: int = 255) -> sa.String:
    binary = sa.String(length, collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _json() -> sa.Text:
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


_COLUMNS = (
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
    sa.Column("wake_at", sa.BigInteger),
    sa.Column("stuck", _json()),
    sa.Column("version", _id()),
    sa.Column("continued_from_run_id", _id()),
    sa.Column("parent_workflow_id", _id()),
    sa.Column("parent_run_id", _id()),
    sa.Column("root_run_id", _id()),
    sa.Column("open_key", _id()),
    sa.Column("parent_initiated_event_id", sa.Integer),
    sa.Column("parent_close_policy", _id(32)),
    sa.Column("state", _json()),
    sa.Column("checkpoint_event_id", sa.Integer, nullable=False, server_default="0"),
)
_EPOCH = sa.Column("epoch", sa.Integer, nullable=False, server_default="0")
# Whatever was under way, or has mail, is due at once; what is set aside is tried by
# every worker that starts.
_REST = """
UPDATE durable_runs SET owner = NULL, wake_at = CASE
  WHEN stuck IS NOT NULL THEN NULL
  WHEN is_active <> 0 OR EXISTS (
    SELECT 1 FROM durable_inbox WHERE durable_inbox.run_id = durable_runs.run_id
  ) THEN 0 ELSE wake_at END
WHERE open_key IS NOT NULL
"""
_INDEXES = (
    (
        "due",
        ["namespace", "task_queue", "wake_at", "run_id", "workflow_type"],
        "owner IS NULL AND wake_at IS NOT NULL",
    ),
    ("owner", ["owner", "wake_at", "run_id"], "owner IS NOT NULL"),
    (
        "stuck",
        ["namespace", "task_queue", "run_id"],
        "stuck IS NOT NULL AND open_key IS NOT NULL",
    ),
)
_KEPT_INDEXES = (
    ("workflow_id", ["workflow_id", "namespace", "started_at"], None),
    ("started_at", ["namespace", "started_at"], None),
    ("parent", ["parent_run_id", "open_key"], "parent_run_id IS NOT NULL"),
)


def upgrade() -> None:
    op.execute(_REST)
    op.drop_index("durable_runs_due", table_name="durable_runs")
    indexes: tuple[tuple[str, list[str], str | None], ...] = _INDEXES
    if op.get_context().dialect.name == "sqlite":
        names = ", ".join(column.name for column in _COLUMNS)
        op.rename_table("durable_runs", "durable_runs_before")
        op.create_table(
            "durable_runs",
            *_COLUMNS,
            _EPOCH,
            sa.UniqueConstraint("open_key", "namespace", name="durable_runs_open_key"),
            sa.UniqueConstraint(
                "request_id", "namespace", name="durable_runs_request_id"
            ),
        )
        kept = f"SELECT {names} FROM durable_runs_before"  # noqa: S608 - names are written here
        op.execute(f"INSERT INTO durable_runs ({names}) {kept}")
        op.drop_table("durable_runs_before")
        indexes = (*_KEPT_INDEXES, *_INDEXES)
    else:
        op.drop_column("durable_runs", "is_active")
        op.add_column("durable_runs", _EPOCH)
    for name, columns, where in indexes:
        condition = None if where is None else sa.text(where)
        op.create_index(
            f"durable_runs_{name}",
            "durable_runs",
            columns,
            sqlite_where=condition,
            postgresql_where=condition,
        )

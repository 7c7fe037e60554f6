"""Children and their parents, published state, checkpoints, and replies.

This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _id(length: int = 255) -> sa.String:
    binary = sa.String(length, collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _json() -> sa.Text:
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


def upgrade() -> None:
    _extend_runs()
    _create_replies()


def _extend_runs() -> None:
    op.add_column("runs", sa.Column("parent_initiated_event_id", sa.Integer))
    op.add_column("runs", sa.Column("parent_close_policy", _id(32)))
    op.add_column("runs", sa.Column("state", _json()))
    op.add_column(
        "runs",
        sa.Column(
            "checkpoint_event_id", sa.Integer, nullable=False, server_default="0"
        ),
    )
    op.create_index(
        "runs_parent",
        "runs",
        ["parent_run_id", "open_key"],
        sqlite_where=sa.text("parent_run_id IS NOT NULL"),
        postgresql_where=sa.text("parent_run_id IS NOT NULL"),
    )


def _create_replies() -> None:
    op.create_table(
        "replies",
        sa.Column("run_id", _id(), primary_key=True),
        sa.Column("request_id", _id(), primary_key=True),
        sa.Column("data", _json(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("replies_created_at", "replies", ["created_at"])

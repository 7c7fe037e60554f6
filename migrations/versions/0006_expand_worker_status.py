"""Workers say whether they run or drain.

Programs of the release before go on: what they insert is said to run.
This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _id(length: int) -> sa.String:
    binary = sa.String(length, collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def upgrade() -> None:
    op.add_column(
        "durable_workers",
        sa.Column("status", _id(32), nullable=False, server_default="running"),
    )

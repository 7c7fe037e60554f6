"""On PostgreSQL the index of listings is one that nothing else can use.

Until it has looked at a table, PostgreSQL takes each index for as good as any other
whose first column is compared. For an id of a namespace it then walked all runs of the
namespace.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_index("durable_runs_started_at", table_name="durable_runs")
        op.create_index(
            "durable_runs_started_at",
            "durable_runs",
            [sa.text("(namespace || '')"), "started_at"],
        )

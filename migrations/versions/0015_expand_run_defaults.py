"""Namespaces have defaults for the runs that begin in them.

Programs of the release before go on: they neither heed nor change them.
This file is history: later changes come as later revisions, never here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _is_done() -> bool:
    """Whether a killed upgrade has left it: on MariaDB that stays."""
    context = op.get_context()
    if context.as_sql or context.dialect.name not in ("mariadb", "mysql"):
        return False
    columns = sa.inspect(op.get_bind()).get_columns("durable_namespaces")
    return "defaults" in {column["name"] for column in columns}


def upgrade() -> None:
    if _is_done():
        return
    text = sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")
    op.add_column("durable_namespaces", sa.Column("defaults", text))

"""Runs the migrations on the connection that durable.store.sql.schema hands over."""

from alembic import context

from durable.store.sql.schema import VERSION_TABLE
from durable.store.sql.tables import METADATA

# The caller holds the lock and the transaction, and commits.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE.name,
    render_as_batch=True,
)
context.run_migrations()

"""An application and its alembic share a file with this library."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from durable import Engine, activity, workflow
from durable.store.sql.schema import VERSION_TABLE
from durable.store.sql.tables import METADATA

# As `alembic init` writes it, without logging, and with the line of the documentation.
ENV = """
import sqlalchemy as sa
from alembic import context

{first}

metadata = sa.MetaData()
sa.Table("history", metadata, sa.Column("page", sa.Text, primary_key=True))
sa.Table("durable_goods", metadata, sa.Column("name", sa.Text, primary_key=True))

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, {option})
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
WITH_OURS = ENV.format(
    first="from durable.alembic import without_durable_tables",
    option="include_name=without_durable_tables",
)
WITHOUT = ENV.format(first="", option="")
SCRIPT = """
from alembic import op
import sqlalchemy as sa
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""


@activity(name="sharing.read")
async def read(page: str) -> str:
    return page


@workflow(name="sharing.visit")
async def visit(page: str) -> str:
    return await read(page)


@pytest.fixture
def autogenerate(tmp_path: Path) -> Callable[[str], str]:
    """Let alembic write a revision by an `env.py`, apply it, and return its text."""
    scripts = tmp_path / "scripts"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "script.py.mako").write_text(SCRIPT)
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{tmp_path / 'shared.db'}")

    def write(env: str) -> str:
        (scripts / "env.py").write_text(env)
        revision = command.revision(config, autogenerate=True)
        assert revision is not None
        assert not isinstance(revision, list)
        command.upgrade(config, "head")
        return Path(revision.path).read_text()

    return write


async def visit_once(path: Path, name: str) -> None:
    async with Engine(path, definitions=[read, visit]) as engine:
        assert await engine.execute(visit(name), id=name) == name


async def test_an_applications_alembic_leaves_our_tables_alone(
    tmp_path: Path, autogenerate: Callable[[str], str]
) -> None:
    await visit_once(tmp_path / "shared.db", "a")

    created = autogenerate(WITH_OURS)
    assert "create_table('history'" in created
    assert "create_table('durable_goods'" in created
    assert "drop_" not in created.partition("def downgrade")[0]
    assert "op." not in autogenerate(WITH_OURS)

    await visit_once(tmp_path / "shared.db", "b")
    with closing(sqlite3.connect(tmp_path / "shared.db")) as connection:
        rows = connection.execute("SELECT workflow_id FROM durable_runs").fetchall()
    assert rows == [("a",), ("b",)]


async def test_without_it_alembic_would_drop_all_of_them(
    tmp_path: Path, autogenerate: Callable[[str], str]
) -> None:
    await visit_once(tmp_path / "shared.db", "a")

    text = autogenerate(WITHOUT)

    for name in [*METADATA.tables, VERSION_TABLE.name]:
        assert f"drop_table('{name}')" in text

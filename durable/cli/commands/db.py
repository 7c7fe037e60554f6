"""`durable db`: the tables, and copies of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from durable.cli.connection import read_revision, require_database
from durable.cli.output import tell
from durable.cli.parameters import standard_options
from durable.cli.reporting import mask
from durable.cli.session import Session, pass_session
from durable.errors import SchemaRevisionError
from durable.store.connect import connect
from durable.store.sql.schema import HEAD
from durable.store.sqlite.backup import back_up
from durable.store.sqlite.sqlite import SqliteDatabase


@click.group("db")
def db() -> None:
    """Make, upgrade or look at the database's tables; copy the database."""


@db.command("upgrade")
@standard_options
@pass_session
def upgrade(session: Session) -> None:
    """Bring the tables to the revision of this release; make them if there are none.

    Programs of earlier releases must have ended: they look for tables under the names
    that these had before revision 0003.
    """
    session.refuse_memory()

    async def open_and_close() -> None:
        store = connect(session.database_url, migrate=True)
        await store.open()
        await store.close()

    asyncio.run(open_and_close())
    _write(session, HEAD)


@db.command("current")
@standard_options
@pass_session
def current(session: Session) -> None:
    """Print the revision of the tables; exit code 7 if it is not this release's."""
    require_database(session)
    revision = read_revision(session)
    _write(session, revision)
    if revision != HEAD:
        raise SchemaRevisionError(
            f"The database is at revision {revision or 'none'}; this release needs"
            f" {HEAD}.",
            hint="Run 'durable db upgrade', or use the release that made it.",
        )


@db.command("backup")
@click.argument(
    "destination", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path)
)
@standard_options
@pass_session
def backup(session: Session, /, *, destination: Path) -> None:
    """Copy the database into FILE, while programs use it, and check the copy.

    The copy holds what was committed at one instant, in one file. Copying the file
    itself would leave out what is in its log.
    """
    made = back_up(_require_file(session), destination)
    tell(
        session,
        {
            "database": _url(session),
            "file": str(destination),
            "runs": made.runs,
            "bytes": made.bytes,
            "revision": made.revision,
        },
        f"{destination}: {made.runs} runs, {made.bytes} bytes, checked",
    )


@db.command("accept-loss")
@standard_options
@pass_session
def accept_loss(session: Session) -> None:
    """Use a file whose log is missing as it is, without what was in the log."""
    SqliteDatabase(_require_file(session)).accept_loss()
    url = _url(session)
    tell(session, {"database": url, "accepted": True}, f"{url} is taken as it is")


def _require_file(session: Session) -> Path:
    require_database(session)
    path = session.find_file()
    if path is None:
        connect(session.database_url)  # says what is wrong with the URL
        raise click.UsageError("This command is for files of SQLite.")
    return path


def _write(session: Session, revision: str | None) -> None:
    tell(
        session,
        {
            "database": _url(session),
            "revision": revision,
            "head": HEAD,
            "is_current": revision == HEAD,
        },
        f"{revision or 'none'}  {_url(session)}",
    )


def _url(session: Session) -> str:
    return mask(session.database_url, session.secrets())

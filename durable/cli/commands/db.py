"""`durable db`: the tables, and copies of them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from durable.cli.connection import open_client, read_revision, require_database
from durable.cli.output import tell, width_of, write_json, write_line
from durable.cli.parameters import json_option, standard_options
from durable.cli.reporting import mask
from durable.cli.session import Session, pass_session, to_url
from durable.errors import SchemaRevisionError
from durable.store.connect import connect
from durable.store.copying.copying import Copied, Progress, copy
from durable.store.queries import ListWorkers
from durable.store.records import WorkerRecord
from durable.store.sql.schema import HEAD
from durable.store.sqlite.backup import back_up
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.threads.sql_store import SqlStore
from durable.worker.process import host_identity, is_dead


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


@db.command("vacuum")
@standard_options
@pass_session
def vacuum(session: Session) -> None:
    """Write the file anew without what nothing uses, while no worker is there.

    New files never need it: they shrink by themselves when runs are deleted. One that
    an earlier release has made does so after this. It takes as much room again.
    """
    path = _require_file(session)
    asyncio.run(_refuse_workers(session))
    before, after = SqliteDatabase(path, migrate=False).vacuum()
    tell(
        session,
        {"database": _url(session), "bytes_before": before, "bytes": after},
        f"{_url(session)}: {before:,} bytes before, {after:,} now",
    )


async def _refuse_workers(session: Session) -> None:
    async with open_client(session) as (_, store):
        now = store.now()
        workers = [
            worker
            for worker in await store.read(ListWorkers())
            if worker.lease_expires_at > now and not _has_ended(worker)
        ]
    if workers:
        names = ", ".join(str(worker.pid) for worker in workers)
        raise click.UsageError(
            f"Workers use the database (process {names}): stop them first, as all of"
            " their writes would wait."
        )


@db.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--restart", is_flag=True, help="Delete first what an interrupted copy has brought."
)
@json_option
@pass_session
def copy_to(session: Session, /, *, source: str, target: str, restart: bool) -> None:
    """Copy everything from one database into another, while nothing runs on either.

    FROM and TO are URLs or files. TO must be empty, and is made if need be. Both are
    compared at the end; until then no program can open TO. What was interrupted goes on
    when the command is given again.
    """
    origin, goal = (Session(database_url=to_url(name)) for name in (source, target))
    session.others += (origin, goal)
    require_database(origin)
    goal.refuse_memory()
    stores = _open_later(origin, migrate=False), _open_later(goal, migrate=True)
    counter = _Counter()
    try:
        copied = copy(*stores, is_dead=_has_ended, restarts=restart, told=counter.show)
    finally:
        counter.clear()
    _tell_copied(session, _url(origin), _url(goal), copied)


def _open_later(session: Session, *, migrate: bool) -> SqlStore:
    store = connect(session.database_url, migrate=migrate)
    assert isinstance(store, SqlStore)  # noqa: S101 - memory was refused
    return store


def _has_ended(worker: WorkerRecord) -> bool:
    is_here = worker.host == host_identity()
    return is_here and is_dead(worker.pid, worker.process_started_at)


class _Counter:
    """Shows on a terminal how far a copy is."""

    def __init__(self) -> None:
        self._width = width_of(sys.stderr)

    def show(self, progress: Progress) -> None:
        of = "" if progress.of is None else f" of {progress.of:,}"
        self._write(f"{progress.step} {progress.table}: {progress.rows:,}{of}")

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self._width is not None:
            room = self._width - 1
            click.echo(f"\r{text[:room]:<{room}}\r", err=True, nl=False)


def _tell_copied(session: Session, source: str, target: str, copied: Copied) -> None:
    tables = copied.tables
    if session.is_json:
        write_json(
            {
                "source": source,
                "target": target,
                "tables": {name: found._asdict() for name, found in tables.items()},
                "disowned": copied.disowned,
                "resumed": copied.resumed,
            }
        )
        return
    for name, (rows, digest) in tables.items():
        write_line(f"{name:<16}  {rows:>12,} rows  {digest}")
    write_line(f"{source} is copied to {target}, and both are compared")
    if copied.disowned:
        write_line(f"{copied.disowned} runs of dead workers are due at once")


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

"""`durable export` and `durable import`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from durable.cli.connection import open_client
from durable.cli.output import tell
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.client.keeping.archive import Exported, Imported
from durable.options import check_id

_file = click.argument(
    "path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path)
)


@click.command("export")
@_file
@click.option("--where", metavar="QUERY", help="Only runs that a query holds for.")
@click.option("--id", "workflow_id", metavar="ID", help="Only runs of a workflow id.")
@click.option(
    "--delete", is_flag=True, help="Delete them once the file is safely there."
)
@standard_options
@pass_session
def export(
    session: Session,
    /,
    *,
    path: Path,
    where: str | None,
    workflow_id: str | None,
    delete: bool,
) -> None:
    """Write closed runs to FILE, whole, one a line of JSON; FILE.gz is compressed.

    The file holds recorded values, which may be confidential: only its owner may read
    it. `durable import` brings the runs back, into this database or another.
    """
    if workflow_id is not None:
        check_id(workflow_id, "--id")

    async def write() -> Exported:
        async with open_client(session) as (engine, _):
            return await engine.export_runs(
                path, where=where, workflow_id=workflow_id, delete=delete
            )

    done = asyncio.run(write())
    text = f"{path}: {_runs(done.runs)} exported"
    if delete:
        text += f", {done.deleted:,} deleted"
    for need, count in done.kept.items():
        text += f", {count:,} kept ({need})"
    data = {"file": str(path), "runs": done.runs}
    tell(session, {**data, "deleted": done.deleted, "kept": done.kept}, text)


@click.command("import")
@_file
@click.option("--skip-existing", is_flag=True, help="Leave out runs that are there.")
@click.option("--dry-run", is_flag=True, help="Only see whether it can be imported.")
@standard_options
@pass_session
def import_(
    session: Session, /, *, path: Path, skip_existing: bool, dry_run: bool
) -> None:
    """Bring back the closed runs that `durable export` wrote to FILE, to be read.

    The file is read to its end first; if a run of it is there already, or anything is
    wrong with it, nothing is imported.
    """

    async def read() -> Imported:
        async with open_client(session) as (engine, _):
            return await engine.import_runs(
                path, skip_existing=skip_existing, dry_run=dry_run
            )

    done = asyncio.run(read())
    verb = "would be imported" if dry_run else "imported"
    text = f"{path}: {_runs(done.runs)} {verb}"
    if done.skipped:
        text += f", {done.skipped:,} were there"
    data = {"file": str(path), "runs": done.runs, "skipped": done.skipped}
    tell(session, data, text)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"

"""`durable delete`."""

from __future__ import annotations

import asyncio

import click

from durable.cli.connection import open_client
from durable.cli.output import ids_of, tell
from durable.cli.parameters import WorkflowId, run_id_option, standard_options
from durable.cli.session import Session, pass_session


@click.command("delete")
@click.argument("workflow_ids", nargs=-1, type=WorkflowId())
@run_id_option
@click.option("--terminate", is_flag=True, help="End those first that are open.")
@click.option(
    "--expired",
    is_flag=True,
    help="Delete all whose time is over by the retention days of their namespace.",
)
@click.option("--dry-run", is_flag=True, help="With --expired: count, delete nothing.")
@standard_options
@pass_session
def delete(
    session: Session,
    /,
    *,
    workflow_ids: tuple[str, ...],
    run_id: str | None,
    terminate: bool,
    expired: bool,
    dry_run: bool,
) -> None:
    """Delete closed runs for good, with all that was recorded of them.

    Of each workflow id the newest run goes, and the runs that it went on from. What an
    open run may need is refused: the error says why. Ids before the one that is refused
    are gone.
    """
    if expired == bool(workflow_ids):
        raise click.UsageError("Give workflow ids, or --expired.")
    if expired and (terminate or run_id is not None):
        raise click.UsageError("--expired goes with --dry-run alone.")
    if dry_run and not expired:
        raise click.UsageError("--dry-run goes with --expired.")
    if run_id is not None and len(workflow_ids) > 1:
        raise click.UsageError("--run-id goes with one workflow id.")
    if expired:
        asyncio.run(_delete_expired(session, dry_run=dry_run))
        return
    asyncio.run(_delete(session, workflow_ids, run_id, terminate=terminate))


async def _delete(
    session: Session,
    workflow_ids: tuple[str, ...],
    run_id: str | None,
    *,
    terminate: bool,
) -> None:
    async with open_client(session) as (engine, _):
        for workflow_id in workflow_ids:
            handle = await engine.get(workflow_id, run_id=run_id)
            count = await handle.delete(terminate=terminate)
            runs = "1 run" if count == 1 else f"{count:,} runs"
            done = {**ids_of(handle), "done": "deleted", "runs": count}
            tell(session, done, f"{workflow_id}: {runs} deleted")


async def _delete_expired(session: Session, *, dry_run: bool) -> None:
    async with open_client(session) as (engine, _):
        swept = await engine.delete_expired(dry_run=dry_run)
    runs = "1 run" if swept.deleted == 1 else f"{swept.deleted:,} runs"
    text = f"{runs} would be deleted" if dry_run else f"{runs} deleted"
    for need, count in swept.kept.items():
        text += f"; {count:,} kept ({need})"
    data = {
        "done": "counted" if dry_run else "deleted",
        "runs": swept.deleted,
        "kept": swept.kept,
    }
    tell(session, data, text)

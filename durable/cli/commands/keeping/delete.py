"""`durable delete`."""

from __future__ import annotations

import asyncio

import click

from durable.cli.connection import open_client
from durable.cli.output import ids_of, tell
from durable.cli.parameters import WorkflowId, run_id_option, standard_options
from durable.cli.session import Session, pass_session


@click.command("delete")
@click.argument("workflow_ids", nargs=-1, required=True, type=WorkflowId())
@run_id_option
@click.option("--terminate", is_flag=True, help="End those first that are open.")
@standard_options
@pass_session
def delete(
    session: Session,
    /,
    *,
    workflow_ids: tuple[str, ...],
    run_id: str | None,
    terminate: bool,
) -> None:
    """Delete closed runs for good, with all that was recorded of them.

    Of each workflow id the newest run goes, and the runs that it went on from. What an
    open run may need is refused: the error says why. Ids before the one that is refused
    are gone.
    """
    if run_id is not None and len(workflow_ids) > 1:
        raise click.UsageError("--run-id goes with one workflow id.")
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

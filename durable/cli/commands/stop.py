"""`durable cancel` and `durable terminate`."""

from __future__ import annotations

import asyncio

import click

from durable.cli.connection import ask_run
from durable.cli.output import ids_of, tell, title_of
from durable.cli.parameters import run_id_option, standard_options, workflow_id_argument
from durable.cli.session import Session, pass_session


@click.command("cancel")
@workflow_id_argument
@run_id_option
@click.option("--reason", default="", metavar="TEXT", help="Why; the run is told.")
@standard_options
@pass_session
def cancel(
    session: Session, /, *, workflow_id: str, run_id: str | None, reason: str
) -> None:
    """Ask a run to stop: its code hears of it once, and may clean up.

    Returns when the request is durable, not when the run has ended: `durable result`
    waits for that.
    """
    handle, _ = asyncio.run(
        ask_run(session, workflow_id, run_id, lambda run: run.cancel(reason))
    )
    done = {**ids_of(handle), "done": "cancel_requested"}
    tell(session, done, f"{title_of(handle)} was asked to stop")


@click.command("terminate")
@workflow_id_argument
@run_id_option
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who look.")
@standard_options
@pass_session
def terminate(
    session: Session, /, *, workflow_id: str, run_id: str | None, reason: str
) -> None:
    """End a run at once; none of its code runs any more, not even to clean up."""
    handle, _ = asyncio.run(
        ask_run(session, workflow_id, run_id, lambda run: run.terminate(reason))
    )
    done = {**ids_of(handle), "done": "terminated"}
    tell(session, done, f"{title_of(handle)} was terminated")

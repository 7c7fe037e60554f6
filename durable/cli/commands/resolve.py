"""`durable resolve`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from durable.cli.connection import ask_run
from durable.cli.output import ids_of, tell, title_of
from durable.cli.parameters import run_id_option, standard_options, workflow_id_argument
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import read_value
from durable.client.handle import Handle


@click.command("resolve")
@workflow_id_argument
@click.argument("activity_id", metavar="ACTIVITY_ID")
@click.option("--result", metavar="JSON", help="Take this as the activity's result.")
@click.option("--again", is_flag=True, help="Run the activity again.")
@run_id_option
@standard_options
@pass_session
def resolve(
    session: Session,
    /,
    *,
    workflow_id: str,
    activity_id: str,
    result: str | None,
    again: bool,
    run_id: str | None,
) -> None:
    """Say what becomes of an activity whose result could not be recorded.

    Its function has returned, and had its effect, so it is not run again by itself.
    `durable show` names such activities and their ids. Returns when the decision is
    durable: a result that does not fit the activity's annotation is refused by the
    worker that has its code, and `durable show` says so.
    """
    if again == (result is not None):
        raise click.UsageError("Give either --again or --result.")
    value = None if result is None else read_value(result, "--result")

    async def decide(run: Handle[Any]) -> None:
        if again:
            await run.retry_activity(activity_id)
        else:
            await run.complete_activity(activity_id, value)

    handle, _ = asyncio.run(ask_run(session, workflow_id, run_id, decide))
    done = "run_again" if again else "result_taken"
    words = "will be run again" if again else "gets that result, if it fits"
    tell(
        session,
        {**ids_of(handle), "activity_id": activity_id, "done": done},
        f"activity {activity_id} of {title_of(handle)} {words}",
    )

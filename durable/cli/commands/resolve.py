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
@click.option(
    "--not-done", "--again", "again", is_flag=True, help="Run the activity again."
)
@click.option("--fail", metavar="MESSAGE", help="Let one in doubt fail with this.")
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
    fail: str | None,
    run_id: str | None,
) -> None:
    """Say what becomes of an activity in doubt, or whose result cannot be recorded.

    Nobody knows whether the one has had its effect. The function of the other has
    returned, and had it. So neither is run again by itself.
    `durable show` names such activities and their ids. Returns when the decision is
    durable: a result that does not fit the activity's annotation is refused by the
    worker that has its code, and `durable show` says so.
    """
    if again + (result is not None) + (fail is not None) != 1:
        raise click.UsageError("Give one of --result, --not-done (--again) and --fail.")
    value = None if result is None else read_value(result, "--result")

    async def decide(run: Handle[Any]) -> None:
        if again:
            await run.retry_activity(activity_id)
        elif fail is not None:
            await run.fail_activity(activity_id, fail)
        else:
            await run.complete_activity(activity_id, value)

    handle, _ = asyncio.run(ask_run(session, workflow_id, run_id, decide))
    done, words = "result_taken", "gets that result, if it fits"
    if again:
        done, words = "run_again", "will be run again"
    elif fail is not None:
        done, words = "failed", "has failed with that"
    tell(
        session,
        {**ids_of(handle), "activity_id": activity_id, "done": done},
        f"activity {activity_id} of {title_of(handle)} {words}",
    )

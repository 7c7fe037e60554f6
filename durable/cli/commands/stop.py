"""`durable cancel` and `durable terminate`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from durable.cli.connection import open_client
from durable.cli.output import write_json, write_line
from durable.cli.parameters import (
    run_id_option,
    standard_options,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.client.handle import Handle
from durable.telling.escaping import escape


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
    handle = _stop(session, workflow_id, run_id, lambda found: found.cancel(reason))
    _say(session, handle, "cancel_requested", "was asked to stop")


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
    handle = _stop(session, workflow_id, run_id, lambda found: found.terminate(reason))
    _say(session, handle, "terminated", "was terminated")


def _stop(
    session: Session,
    workflow_id: str,
    run_id: str | None,
    request: Callable[[Handle[Any]], Awaitable[None]],
) -> Handle[Any]:
    async def ask() -> Handle[Any]:
        async with open_client(session) as (engine, _):
            handle: Handle[Any] = await engine.get(workflow_id, run_id=run_id)
            await request(handle)
            return handle

    return asyncio.run(ask())


def _say(session: Session, handle: Handle[Any], done: str, words: str) -> None:
    if session.is_json:
        write_json(
            {"workflow_id": handle.workflow_id, "run_id": handle.run_id, "done": done}
        )
    else:
        write_line(f"{escape(handle.workflow_id)} (run {handle.run_id}) {words}")

"""`durable pause` and `durable resume`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from durable.cli.connection import ask_run
from durable.cli.output import ids_of, tell, title_of
from durable.cli.parameters import run_id_option, standard_options, workflow_id_argument
from durable.cli.session import Session, pass_session
from durable.client.descriptions.description import RunDescription
from durable.client.handle import Handle

_note = click.option("--note", default="", metavar="TEXT", help="Why.")
_dry_run = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and do nothing."
)


@click.command("pause")
@workflow_id_argument
@run_id_option
@_note
@_dry_run
@standard_options
@pass_session
def pause(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    note: str,
    dry_run: bool,
) -> None:
    """Let nothing of a run begin until it is resumed.

    Activities that run end, and what comes in is kept. Timers that come due fire when
    it is resumed. Returns when the request is durable.
    """
    _ask(session, (workflow_id, run_id), "paused", note, dry_run=dry_run)


@click.command("resume")
@workflow_id_argument
@run_id_option
@_note
@_dry_run
@standard_options
@pass_session
def resume(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    note: str,
    dry_run: bool,
) -> None:
    """Let a paused run go on. Returns when the request is durable."""
    _ask(session, (workflow_id, run_id), "resumed", note, dry_run=dry_run)


def _ask(
    session: Session,
    which: tuple[str, str | None],
    done: str,
    note: str,
    *,
    dry_run: bool,
) -> None:
    async def ask(run: Handle[Any]) -> RunDescription | None:
        if dry_run:
            return await run.describe()
        await (run.pause(note=note) if done == "paused" else run.resume(note=note))
        return None

    handle, found = asyncio.run(ask_run(session, *which, ask))
    if found is None:
        tell(
            session,
            {**ids_of(handle), "done": done},
            f"{title_of(handle)} is to be {done}",
        )
        return
    status = "paused" if found.paused is not None else found.status.value
    tell(
        session,
        {**ids_of(handle), "done": "nothing", "status": status},
        f"{title_of(handle)} is {status}, and would be {done}; nothing was done",
    )

"""`durable activity start` and `jobs`: activities without a workflow."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from durable.cli.commands.run import ID_OPTIONS, note_if_found
from durable.cli.connection import open_client
from durable.cli.output import ids_of, note, tell, write_json, write_line
from durable.cli.parameters import (
    Word,
    command_with_arguments,
    standard_options,
    values_argument,
)
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import (
    bind_arguments,
    find_activity,
    plain_values,
    read_arguments,
)
from durable.engine import Engine
from durable.search.run_fields import STATUSES
from durable.standalone.standalone import (
    ActivityHandle,
    StandaloneActivityDescription,
)
from durable.telling.escaping import escape

_HEADINGS = ("STATUS", "ID", "STARTED (UTC)", "ACTIVITY")


def _with_id(command: Any) -> Any:
    for option in reversed(ID_OPTIONS):
        command = option(command)
    return command


@command_with_arguments("start")
@click.argument("target", metavar="MODULE:ACTIVITY|NAME")
@values_argument
@_with_id
@standard_options
@pass_session
def start(
    session: Session,
    /,
    *,
    target: str,
    values: tuple[str, ...],
    given: str | None,
    queue: str | None,
    **how: Any,
) -> None:
    """Start an activity for workers to run, with no workflow, and print its id.

    Arguments are JSON, as for `durable run`. With a bare NAME its code is not needed,
    nor its options: it has the usual ones then. `durable result ID` waits for it,
    `durable show ID`, `cancel` and the like are for it as for any run.
    """
    session.refuse_memory()
    arguments = read_arguments(values, given)
    call: Any = target
    plain: list[Any] = []
    if ":" in target:
        definition = find_activity(target)
        signature = definition.call_signature
        bound = signature.decode(bind_arguments(signature, arguments))
        positional, keyword = signature.unbind(bound)
        call = definition(*positional, **keyword)
    else:
        plain = plain_values(arguments, "Give MODULE:ACTIVITY, or an array.")

    async def begin() -> ActivityHandle[Any]:
        async with Engine(
            session.database_url, namespace=session.namespace, worker=False
        ) as engine:
            return await engine.start_activity(call, *plain, task_queue=queue, **how)

    handle = asyncio.run(begin())
    note_if_found(session, handle.run)
    tell(session, ids_of(handle.run), handle.id)


@click.command("jobs")
@click.option("--type", "activity_type", metavar="NAME", help="Of that activity.")
@click.option("--status", type=Word(STATUSES), help="Of that status.")
@click.option("--where", metavar="QUERY", help="As for `durable list`.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most."
)
@standard_options
@pass_session
def jobs(session: Session, /, **where: Any) -> None:
    """List activities that were started with no workflow, newest first."""

    async def ask() -> list[StandaloneActivityDescription]:
        async with open_client(session) as (engine, _):
            return await engine.list_activities(**where)

    found = asyncio.run(ask())
    if session.is_json:
        for one in found:
            write_json(one.to_dict())
    elif found:
        rows = [_HEADINGS, *map(_cells, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (c.ljust(width) for c, width in zip(row, widths, strict=True))
            write_line("  ".join(cells).rstrip())
    else:
        note("no activity was started so: 'durable activity start NAME' starts one")


def _cells(one: StandaloneActivityDescription) -> tuple[str, ...]:
    return (
        one.status.value if one.stuck is None else "stuck",
        escape(one.id),
        f"{one.started_at:%Y-%m-%d %H:%M}",
        escape(one.activity_type),
    )

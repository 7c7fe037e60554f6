"""`durable outbox`: list, retry and drop what transactions have asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from durable.cli.connection import open_client
from durable.cli.output import note, write_json, write_line
from durable.cli.parameters import database_options, json_option
from durable.cli.session import Session, pass_session
from durable.client.outbox.outbox import Outbox, OutboxDescription
from durable.telling.escaping import escape

T = TypeVar("T")
_HEADINGS = ("NUMBER", "WRITTEN (UTC)", "WORKFLOW ID", "WHAT", "STATE", "WHY")

_numbers = click.argument("numbers", type=click.IntRange(min=1), nargs=-1)


@click.group("outbox")
def outbox() -> None:
    """Look at what committed transactions have asked for and have not got yet.

    Workers deliver it, so there is little, as a rule. What was refused is set aside: by
    a workflow id that another call holds, say, or a run that has closed.
    """


@outbox.command("list")
@click.option("--set-aside", is_flag=True, help="Only what was refused for good.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N"
)
@json_option
@database_options
@pass_session
def list_(session: Session, /, *, set_aside: bool, limit: int) -> None:
    """List what is there, in the order of writing."""
    chosen = True if set_aside else None
    found = _ask(session, lambda o: o.list(set_aside=chosen, limit=limit))
    if session.is_json:
        for one in found:
            write_json(one.to_dict())
    elif found:
        _write(found)
    else:
        note("the outbox is empty")


@outbox.command("retry")
@_numbers
@click.option("--all", "all_", is_flag=True, help="All that are set aside.")
@json_option
@database_options
@pass_session
def retry(session: Session, /, *, numbers: tuple[int, ...], all_: bool) -> None:
    """Have workers try again what is set aside, by its numbers."""
    if bool(numbers) is all_:
        raise click.UsageError("Give the numbers of the rows, or --all.")
    _tell(session, "retried", numbers, _ask(session, lambda o: o.retry(*numbers)))


@outbox.command("drop")
@_numbers
@json_option
@database_options
@pass_session
def drop(session: Session, /, *, numbers: tuple[int, ...]) -> None:
    """Delete rows for good; what they ask for is never done."""
    if not numbers:
        raise click.UsageError("Give the numbers of the rows.")
    _tell(session, "dropped", numbers, _ask(session, lambda o: o.drop(*numbers)))


def _ask(session: Session, ask: Callable[[Outbox], Awaitable[T]]) -> T:
    async def answer() -> T:
        async with open_client(session) as (engine, _):
            return await ask(engine.outbox)

    return asyncio.run(answer())


def _write(found: list[OutboxDescription]) -> None:
    rows = [_HEADINGS, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.ljust(width) for c, width in zip(row, widths, strict=True))
        write_line("  ".join(cells).rstrip())


def _cells(one: OutboxDescription) -> tuple[str, ...]:
    state = "waits"
    if one.is_set_aside:
        state = "set aside"
    elif one.due_at is not None:
        state = f"refused {one.tries} times"
    return (
        str(one.sequence),
        f"{one.written_at:%Y-%m-%dT%H:%M:%S}",
        escape(one.workflow_id),
        escape(one.kind if one.name is None else f"{one.kind} {one.name}"),
        state,
        escape(one.reason or ""),
    )


def _tell(
    session: Session, what: str, numbers: tuple[int, ...], found: list[int]
) -> None:
    missing = [number for number in numbers if number not in found]
    answer: dict[str, Any] = {what: found, "missing": missing}
    if session.is_json:
        write_json(answer)
        return
    for number in found:
        write_line(f"{number}  {what}")
    for number in missing:
        note(f"{number} is not there: it was delivered, or dropped")

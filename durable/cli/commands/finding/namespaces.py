"""`durable namespaces`: list, describe, create and update them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import click

from durable.cli.connection import open_client
from durable.cli.output import write_json, write_line
from durable.cli.parameters import Span, database_options, json_option
from durable.cli.session import Session, pass_session
from durable.client.namespaces import NamespaceDescription, Namespaces
from durable.telling.escaping import escape
from durable.telling.pieces import span

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_HEADINGS = (
    *("NAMESPACE", "CREATED (UTC)", "KEEPS CLOSED RUNS", "DEFAULTS OF RUNS"),
    "DESCRIPTION",
)
_NONE: Final = "none"
_TIMEOUTS: Final = {
    "run_timeout": "The longest that a run may take",
    "execution_timeout": "The longest that a chain of runs may take",
}


class _SpanOrNone(Span):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        return _NONE if value == _NONE else super().convert(value, param, ctx)


class _PriorityOrNone(click.IntRange):
    name = "priority"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return _NONE if value == _NONE else super().convert(value, param, ctx)


_name = click.argument("name")
_description = click.option("--description", metavar="TEXT", help="What it is for.")


def _retention(function: F) -> F:
    days = click.option(
        "--retention-days",
        type=click.IntRange(min=1),
        metavar="DAYS",
        help="How many days its closed runs are kept.",
    )
    for_ever = click.option(
        "--keep-for-ever", is_flag=True, help="Keep its closed runs for ever."
    )
    return days(for_ever(function))


def _defaults(function: F) -> F:
    """Add the options of what goes for runs that say nothing else."""
    function = click.option(
        "--priority",
        type=_PriorityOrNone(1, 5),
        metavar="1-5",
        help="Which begin first, of runs that say nothing else; or none.",
    )(function)
    for name, what in reversed(_TIMEOUTS.items()):
        function = click.option(
            f"--{name.replace('_', '-')}",
            type=_SpanOrNone(),
            metavar="TIME",
            help=f"{what} that says nothing else, such as 30d; or none.",
        )(function)
    return function


@click.group("namespaces", invoke_without_command=True)
@json_option
@database_options
@click.pass_context
def namespaces(context: click.Context, /) -> None:
    """List namespaces: those that were created, and those that have runs.

    Each keeps its runs apart from all others: no command sees those of another than
    --namespace names.
    """
    if context.invoked_subcommand is not None:
        return
    session = context.ensure_object(Session)
    found = _ask(session, lambda of: of.list())
    if session.is_json:
        for one in found:
            write_json(one.to_dict())
    else:
        _write(found)


@namespaces.command("describe")
@_name
@json_option
@database_options
@pass_session
def describe(session: Session, /, *, name: str) -> None:
    """Describe one namespace."""
    _show(session, _ask(session, lambda of: of.describe(name)))


@namespaces.command("create")
@_name
@_retention
@_defaults
@_description
@json_option
@database_options
@pass_session
def create(session: Session, /, *, name: str, **given: Any) -> None:
    """Create a namespace; closed runs are kept for ever by default."""
    said = _settings(given)
    _show(session, _ask(session, lambda of: of.create(name, **said)))


@namespaces.command("update")
@_name
@_retention
@_defaults
@_description
@json_option
@database_options
@pass_session
def update(session: Session, /, *, name: str, **given: Any) -> None:
    """Change settings of a namespace; what is left out stays.

    Runs that have begun go on as they began.
    """
    said = _settings(given)
    _show(session, _ask(session, lambda of: of.update(name, **said)))


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    if given["retention_days"] is not None and given["keep_for_ever"]:
        raise click.UsageError(
            "--retention-days and --keep-for-ever exclude each other."
        )
    said = {
        name: given[name]
        for name in ("retention_days", "description")
        if given[name] is not None
    }
    for name in (*_TIMEOUTS, "priority"):
        if given[name] is not None:
            said[name] = None if given[name] == _NONE else given[name]
    if given["keep_for_ever"]:
        said["retention_days"] = None
    return said


def _ask(session: Session, ask: Callable[[Namespaces], Awaitable[T]]) -> T:
    async def answer() -> T:
        async with open_client(session) as (engine, _):
            return await ask(engine.namespaces)

    return asyncio.run(answer())


def _show(session: Session, found: NamespaceDescription) -> None:
    if session.is_json:
        write_json(found.to_dict())
    else:
        _write([found])


def _write(found: list[NamespaceDescription]) -> None:
    rows = [_HEADINGS, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.ljust(width) for c, width in zip(row, widths, strict=True))
        write_line("  ".join(cells).rstrip())


def _told(one: NamespaceDescription) -> str:
    said = {"run": one.run_timeout, "execution": one.execution_timeout}
    words = [
        f"{name} timeout {span(timeout // timedelta(microseconds=1))}"
        for name, timeout in said.items()
        if timeout is not None
    ]
    if one.priority is not None:
        words.append(f"priority {one.priority}")
    return ", ".join(words)


def _cells(one: NamespaceDescription) -> tuple[str, ...]:
    created, days = one.created_at, one.retention_days
    return (
        escape(one.name),
        "" if created is None else f"{created:%Y-%m-%dT%H:%M}",
        "for ever" if days is None else f"{days} days",
        _told(one),
        escape(one.description or ""),
    )

"""Options that several commands share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from durable.cli.connection import open_client
from durable.cli.session import DEFAULT_URL, Session, to_url
from durable.errors import DurableError, InvalidDurationError
from durable.options import to_microseconds
from durable.store.queries import ListRuns
from durable.store.records import RunFilter
from durable.suggestions import ending_with_closest

F = TypeVar("F", bound=Callable[..., Any])

# How many runs a shell offers the ids of.
_COMPLETED: Final = 200


def _turn_json_on(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).is_json = True


def _choose_database(
    context: click.Context, _: click.Parameter, value: str | None
) -> None:
    if value is not None:
        context.ensure_object(Session).database_url = to_url(value)


def _choose_namespace(
    context: click.Context, _: click.Parameter, value: str | None
) -> None:
    if value is not None:
        session = context.ensure_object(Session)
        session.namespace, session.is_namespace_chosen = value, True


json_option: Final = click.option(
    "--json",
    is_flag=True,
    # Before all others, so that what is wrong with them is reported as JSON, too.
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_turn_json_on,
    help="Print JSON: one object, or one a line for lists. Errors are JSON on stderr.",
)
_database: Final = click.option(
    "--database",
    metavar="URL|FILE",
    expose_value=False,
    allow_from_autoenv=False,
    callback=_choose_database,
    help="The database; also accepted before the command.",
)
_namespace: Final = click.option(
    "--namespace",
    metavar="NAME",
    expose_value=False,
    allow_from_autoenv=False,
    callback=_choose_namespace,
    help="Whose runs are meant; also accepted before the command.",
)


def database_options(command: F) -> F:
    """Add --database and --namespace, for those who write them last."""
    return _database(_namespace(command))


def standard_options(command: F) -> F:
    """Add what every command has that speaks of runs: the above, and --json."""
    return database_options(json_option(command))


run_id_option: Final = click.option(
    "--run-id",
    metavar="ID",
    help="Which run of that workflow id; the newest by default.",
)
payloads_option: Final = click.option(
    "--payloads",
    is_flag=True,
    help="Show recorded values, which may be confidential; their sizes by default.",
)


resources_option: Final = click.option(
    "--resources",
    metavar="MODULE:NAME",
    envvar="DURABLE_RESOURCES",
    show_envvar=True,
    help="What activities take as resources: a function that opens them, or a mapping.",
)
interceptors_option: Final = click.option(
    "--interceptors",
    metavar="MODULE:NAME",
    envvar="DURABLE_INTERCEPTORS",
    show_envvar=True,
    help="What surrounds workflows and activities: an Interceptor, or a list of them.",
)


class Span(click.types.StringParamType):
    """A duration, such as "30s", or a number of seconds.

    One that is none is refused before anything starts.
    """

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Check the text and return it.

        Raises:
            InvalidDurationError: it is no duration.
        """
        text = str(super().convert(value, param, ctx)).strip()
        if _SECONDS.fullmatch(text):
            text += "s"
        name = param.opts[0] if param else "the duration"
        try:
            to_microseconds(text, name)
        except InvalidDurationError as error:
            raise InvalidDurationError(
                error.message.partition(" Give a timedelta")[0],
                hint='Give seconds, or text such as "30s", "1h30m" or "PT5M".',
            ) from None
        return text


_SECONDS: Final = re.compile(r"\d+(\.\d+)?")
SPAN: Final = Span()


class Word(click.Choice[str]):
    """One of several words; an error names the one that may have been meant."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Check the word and return it.

        Raises:
            click.BadParameter: it is none of them.
        """
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            ending = ending_with_closest(value, self.choices)
            self.fail(f"{error.message.rstrip('.')}{ending}", param, ctx)


class WorkflowId(click.types.StringParamType):
    """A workflow id; shells complete it from the newest runs."""

    name = "id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Name the newest runs whose id begins so; nothing if they cannot be read."""
        given = ctx.find_root().params
        session = Session(
            database_url=to_url(given.get("database_url") or DEFAULT_URL),
            namespace=given.get("namespace") or "default",
        )
        try:
            ids = asyncio.run(_read_newest_ids(session))
        except (DurableError, click.ClickException):
            return []
        return [
            CompletionItem(workflow_id)
            for workflow_id in ids
            if workflow_id.startswith(incomplete)
        ]


async def _read_newest_ids(session: Session) -> list[str]:
    async with open_client(session) as (_, store):
        records = await store.read(
            ListRuns(session.namespace, RunFilter(limit=_COMPLETED))
        )
    return list(dict.fromkeys(record.workflow_id for record in records))


workflow_id_argument: Final = click.argument("workflow_id", type=WorkflowId())


# Negative numbers are arguments, and no options; a wrong option is then no JSON.
_NUMBERS: Final = {"ignore_unknown_options": True}
values_argument: Final = click.argument("values", metavar="[JSON]...", nargs=-1)
_input: Final = click.option(
    "--input",
    "given",
    metavar="JSON",
    help="All arguments at once, instead: an array of positional or an object of"
    " keyword arguments; @FILE reads them from a file, - from stdin.",
)


def command_with_arguments(name: str) -> Callable[[F], click.Command]:
    """Make a command that passes arguments on: one by one, or by --input."""

    def make(function: F) -> click.Command:
        command = click.command(name, context_settings=dict(_NUMBERS))
        return command(_input(function))

    return make

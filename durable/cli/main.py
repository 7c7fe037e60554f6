"""`durable`: the group of all commands, and the way in.

A command's module is imported when the command is used: `durable --help` need not wait
for a database layer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

import durable
from durable.cli.reporting import is_json_asked_for, report
from durable.cli.session import DEFAULT_URL, Session, to_url
from durable.cli.settings import read_settings, read_url_file
from durable.suggestions import ending_with_closest

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "run": ("run", "run", "Start a workflow here and wait for its result."),
    "start": ("run", "start", "Start a workflow for workers to run."),
    "worker": ("worker", "worker", "Run workflows and activities until stopped."),
    "workers": ("workers", "workers", "List the workers that are there."),
    "list": ("finding.list_runs", "list_runs", "List runs, newest first."),
    "count": ("finding.list_runs", "count", "Count runs, by the value of something."),
    "namespaces": (
        "finding.namespaces",
        "namespaces",
        "List, create or change namespaces.",
    ),
    "show": ("show", "show", "Show what a run did, and what it waits for."),
    "history": ("show", "history", "Print a run's recorded events."),
    "result": ("result", "result", "Wait for a run to end and print its result."),
    "signal": ("messages", "signal", "Send a signal to a run."),
    "query": ("messages", "query", "Ask a run's code, and print its answer."),
    "update": ("messages", "update", "Send an update, and print its answer."),
    "stack": ("messages", "stack", "Show where each task of a run waits."),
    "cancel": ("stop", "cancel", "Ask a run to stop; it may clean up."),
    "terminate": ("stop", "terminate", "End a run at once; none of its code runs."),
    "reset": ("mending.resets", "reset", "Let a run go on from an earlier place."),
    "retry": ("mending.resets", "retry", "Let a failed run go on."),
    "fork": ("mending.resets", "fork", "Begin another run from what one has done."),
    "diff": ("mending.diff", "diff", "Compare two runs, call by call."),
    "pause": ("mending.pauses", "pause", "Let nothing of a run begin any more."),
    "resume": ("mending.pauses", "resume", "Let a paused run go on."),
    "delete": ("keeping.delete", "delete", "Delete closed runs for good."),
    "batch": ("keeping.batch", "batch", "Do something with many runs at once."),
    "export": ("keeping.archives", "export", "Write closed runs to a file."),
    "import": ("keeping.archives", "import_", "Bring exported runs back, to be read."),
    "outbox": (
        "mending.outbox",
        "outbox",
        "List, retry or drop what transactions have asked for.",
    ),
    "queue": (
        "activities.queues",
        "queue",
        "List queues, and say how much of each may run and how fast.",
    ),
    "activity": (
        "activities.activities",
        "activity",
        "Look at activities that run elsewhere, and complete them.",
    ),
    "resolve": ("resolve", "resolve", "Say what an unrecorded activity's result is."),
    "schedules": (
        "schedules.schedules",
        "schedules",
        "List, make and change schedules of workflows.",
    ),
    "replay": ("replay", "replay", "Try recorded runs against today's code."),
    "check": (
        "releases.check",
        "check",
        "Try all open runs against new code: a deploy gate.",
    ),
    "versions": ("releases.versions", "versions", "Which versions have open runs."),
    "patches": (
        "releases.versions",
        "patches",
        "Which patches open runs have, or lack.",
    ),
    "upgrade": ("releases.upgrade", "upgrade", "Move open runs to another version."),
    "doctor": ("doctor", "doctor", "Check the database for faults."),
    "db": ("db", "db", "Make, upgrade or look at the database's tables."),
}
"""Each command with its module, its name in there, and its short help."""


class CommandLine(click.Group):
    """Finds commands when they are asked for, and ends them in one way."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"durable.cli.commands.{module}"), name
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with, or one that is like it."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"There is no command {args[0]!r}"
                f"{ending_with_closest(args[0], COMMANDS)}",
                ctx,
            )
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, text) for name, (_, _, text) in COMMANDS.items()]
            )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command, and end the process with its exit code."""
        session = Session(
            is_json=is_json_asked_for(None if args is None else list(args))
        )
        try:
            code = super().main(
                args,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=session,
                **extra,
            )
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, no traceback
            code = report(error, is_json=session.is_json, secrets=session.secrets())
        sys.exit(code or 0)


def _configure(context: click.Context, _: click.Parameter, value: str | None) -> None:
    context.ensure_object(Session).config = value
    context.default_map = {**(context.default_map or {}), **read_settings(value)}


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    import platform
    import sqlite3

    click.echo(
        f"durable {durable.__version__} (Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version})"
    )
    context.exit()


@click.group(
    cls=CommandLine,
    context_settings={
        "auto_envvar_prefix": "DURABLE",
        "help_option_names": ["-h", "--help"],
    },
)
@click.option(
    "--database",
    "database_url",
    metavar="URL|FILE",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Where runs are kept, such as orders.db or sqlite:///orders.db.",
)
@click.option(
    "--namespace",
    metavar="NAME",
    default="default",
    show_default=True,
    show_envvar=True,
    help="Keeps the runs of different programs in one database apart.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default=None,
    show_envvar=True,
    help="What the log on stderr holds: warnings, and what a worker does.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    show_envvar=True,
    help="How it is written.",
)
@click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    show_envvar=True,
    callback=_configure,
    help="Defaults; durable.toml or pyproject.toml of this folder if not given.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def cli(
    context: click.Context,
    database_url: str,
    namespace: str,
    log_level: str | None,
    log_format: str,
) -> None:
    """Durable workflows: start them, run them, look at them, check them.

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 conflict, 5 the workflow,
    query or update failed, 6 timed out waiting, 7 the database cannot be used, 8 a
    history does not replay, 130 and 143 ended by a signal.
    """
    session = context.ensure_object(Session)
    source = context.get_parameter_source("database_url")
    if source in (
        click.core.ParameterSource.DEFAULT,
        click.core.ParameterSource.DEFAULT_MAP,
    ):
        database_url = read_url_file() or database_url
    session.database_url = to_url(database_url)
    session.namespace = namespace
    session.is_namespace_chosen = (
        context.get_parameter_source("namespace")
        is not click.core.ParameterSource.DEFAULT
    )
    session.log_level = log_level
    session.log_format = log_format


def main() -> None:
    """Run the command line; what the script `durable` calls."""
    cli.main(prog_name="durable")

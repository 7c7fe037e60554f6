"""`durable activity`: list, show, complete, fail, cancel, pause and the like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec

from durable.cli.commands.activities.standalone import jobs, start
from durable.cli.connection import open_client
from durable.cli.output import note, tell, write_json, write_line
from durable.cli.parameters import Span, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import read_value
from durable.client.activities.activities import Activities, QueuedActivity
from durable.store.activity_tasks import TaskState
from durable.telling.escaping import escape
from durable.telling.pending import how_to_resolve

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_NONE = "none"
_HEADINGS = ("STATE", "ACTIVITY", "QUEUE", "ATTEMPT", "DUE (UTC)", "RUN", "ID")


def _which(command: F) -> F:
    """Name one activity, by its token or by ids."""
    for decorate in (
        click.argument("token", required=False),
        click.option("--workflow-id", metavar="ID", help="Without a token: its run's."),
        click.option("--activity-id", metavar="ID", help="And its own id in the run."),
        click.option("--run-id", metavar="ID", help="Not the newest run, but this."),
    ):
        command = decorate(command)
    return command


class _SpanOrNone(Span):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        return _NONE if value == _NONE else super().convert(value, param, ctx)


def _timeout(name: str, told: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}-timeout",
        type=_SpanOrNone(),
        metavar="SPAN",
        help=f'{told} "none" takes the limit away.',
    )


@click.group("activity")
def activity() -> None:
    """Look at activities that run elsewhere, and end those that wait for somebody.

    One is named by its token, as `complete_later()` gave it; or by --workflow-id and
    --activity-id, as `durable show` tells them: then whatever attempt there is is
    meant, one that waits for a worker too.
    """


@activity.command("list")
@click.option("--queue", "task_queue", metavar="NAME", help="Of that task queue.")
@click.option("--type", "activity_type", metavar="NAME", help="Of that activity.")
@click.option(
    "--state", type=click.Choice([s.value for s in TaskState]), help="In that state."
)
@click.option("--workflow-id", metavar="ID", help="Of that workflow's newest run.")
@click.option("--in-doubt", is_flag=True, help="Only what waits for `durable resolve`.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most."
)
@standard_options
@pass_session
def list_activities(session: Session, /, **where: Any) -> None:
    """List activities that wait for a worker, run on another one, or wait for you."""
    found = _ask(session, lambda of: of.list(**where))
    if session.is_json:
        for one in found:
            write_json(_view(one))
    elif found:
        rows = [_HEADINGS, *map(_cells, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (c.ljust(width) for c, width in zip(row, widths, strict=True))
            write_line("  ".join(cells).rstrip())
        if doubtful := next((one for one in found if one.in_doubt), None):
            note(how_to_resolve(doubtful.workflow_id, doubtful.activity_id))
    elif where["in_doubt"]:
        note("no activity is in doubt")
    else:
        note("no activity waits, or runs elsewhere than its run")


@activity.command("show")
@_which
@standard_options
@pass_session
def show(session: Session, /, **which: str | None) -> None:
    """Show one, with its last failure and what its heartbeats said."""
    found = _view(_ask(session, lambda of: of.describe(**which)))
    if session.is_json:
        write_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        if value not in (None, []):
            write_line(f"{name.ljust(width)}  {escape(str(value))}")


@activity.command("complete")
@_which
@click.option("--result", metavar="JSON", help="What it returns; null by default.")
@standard_options
@pass_session
def complete(session: Session, /, *, result: str | None, **which: str | None) -> None:
    """Say what its result is; one that does not fit its annotation parks its run."""
    value = None if result is None else read_value(result, "--result")
    _do(session, which, "completed", lambda of: of.complete(result=value, **which))


@activity.command("fail")
@_which
@click.option("--message", metavar="TEXT", default="", help="What went wrong.")
@standard_options
@pass_session
def fail(session: Session, /, *, message: str, **which: str | None) -> None:
    """Say that its attempt has failed; another follows if its policy allows that."""
    _do(session, which, "failed", lambda of: of.fail(error=message, **which))


@activity.command("heartbeat")
@_which
@click.option("--details", metavar="JSON", help="How far it has come.")
@standard_options
@pass_session
def heartbeat(session: Session, /, *, details: str | None, **which: Any) -> None:
    """Say that somebody outside is still at it."""
    said = () if details is None else (read_value(details, "--details"),)
    token = which.pop("token")
    _do(
        session,
        {"token": token, **which},
        "heard",
        lambda of: of.heartbeat(token, *said, **which),
    )


@activity.command("cancel")
@_which
@standard_options
@pass_session
def cancel(session: Session, /, **which: str | None) -> None:
    """Say that it has stopped, without a result."""
    _do(session, which, "cancelled", lambda of: of.cancel(**which))


@activity.command("pause")
@_which
@standard_options
@pass_session
def pause(session: Session, /, **which: str | None) -> None:
    """Let one that waits not begin until it is unpaused."""
    _do(session, which, "paused", lambda of: of.pause(**which))


@activity.command("unpause")
@_which
@standard_options
@pass_session
def unpause(session: Session, /, **which: str | None) -> None:
    """Let one that waits begin now."""
    _do(session, which, "unpaused", lambda of: of.unpause(**which))


@activity.command("reset")
@_which
@standard_options
@pass_session
def reset(session: Session, /, **which: str | None) -> None:
    """Let one that waits begin now, with its first attempt."""
    _do(session, which, "reset", lambda of: of.reset(**which))


@activity.command("update-options")
@_which
@click.option("--queue", "task_queue", metavar="NAME", help="The task queue it is for.")
@click.option(
    "--attempts",
    "max_attempts",
    type=click.IntRange(1),
    metavar="N",
    help="How often it is tried at most, those before now included.",
)
@_timeout("start-to-close", "The longest that one attempt may take.")
@_timeout("schedule-to-close", "The longest that it may take with all retries.")
@_timeout("schedule-to-start", "The longest that an attempt may wait for a worker.")
@_timeout("heartbeat", "The longest that an attempt may be silent.")
@standard_options
@pass_session
def update_options(session: Session, /, **given: Any) -> None:
    """Change how one that waits, or that somebody outside completes, is to run."""
    names = ("token", "workflow_id", "activity_id", "run_id")
    which = {name: given.pop(name) for name in names}
    options = {name: value for name, value in given.items() if value is not None}
    for name in [name for name, value in options.items() if value == _NONE]:
        options[name] = None
    _do(session, which, "changed", lambda of: of.update_options(**which, **options))


activity.add_command(start)
activity.add_command(jobs)


def _ask(session: Session, ask: Callable[[Activities], Awaitable[T]]) -> T:
    async def answer() -> T:
        async with open_client(session) as (engine, _):
            return await ask(engine.activities)

    return asyncio.run(answer())


def _do(
    session: Session,
    which: dict[str, str | None],
    done: str,
    ask: Callable[[Activities], Awaitable[None]],
) -> None:
    _ask(session, ask)
    named = {name: value for name, value in which.items() if value is not None}
    title = which.get("token") or (
        f"{which['activity_id']} of workflow {which['workflow_id']}"
    )
    tell(session, {**named, "done": done}, f"activity {escape(title)} is {done}")


def _view(one: QueuedActivity) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


def _cells(one: QueuedActivity) -> tuple[str, ...]:
    return (
        "in doubt" if one.in_doubt else one.state,
        escape(one.activity_type),
        escape(one.task_queue),
        str(one.attempt),
        _time(one.due_at),
        escape(one.workflow_id),
        escape(one.token or one.activity_id),
    )


def _time(moment: datetime | None) -> str:
    return "paused" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}"

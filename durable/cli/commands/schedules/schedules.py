"""`durable schedules` and its commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from durable.cli.commands.schedules.views import (
    lines_of,
    view_of,
    when_of,
    write_table,
)
from durable.cli.connection import open_client
from durable.cli.output import note, tell, write_json, write_lines
from durable.cli.parameters import (
    SPAN,
    Word,
    command_with_arguments,
    standard_options,
    values_argument,
)
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import find_workflow, make_call, read_arguments
from durable.engine import Engine
from durable.schedules.definition import ScheduleOverlap
from durable.schedules.schedules import ScheduleDescription, ScheduleHandle

T = TypeVar("T")

_OVERLAPS: Final = [policy.value for policy in ScheduleOverlap]
_id_argument: Final = click.argument("schedule_id", metavar="ID")
_overlap_option: Final = click.option(
    "--overlap",
    type=Word(_OVERLAPS),
    help="What to do while the run before is open; the schedule's policy by default.",
)
_note_option: Final = click.option(
    "--note", "text", metavar="TEXT", default="", help="Why, for those who look."
)


class Instant(click.types.StringParamType):
    """An instant, such as "2026-03-01T09:00Z"; without a zone it is UTC."""

    name = "instant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Read it."""
        text = str(super().convert(value, param, ctx))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no instant: write one such as 2026-03-01T09:00Z.",
                param,
                ctx,
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group("schedules")
def schedules() -> None:
    """List, show, create and change what starts workflows at given times."""


def _ask(
    session: Session, schedule_id: str, ask: Callable[[ScheduleHandle], Awaitable[T]]
) -> T:
    async def run() -> T:
        async with open_client(session) as (engine, _):
            return await ask(engine.schedules.get(schedule_id))

    return asyncio.run(run())


def _done(session: Session, schedule_id: str, done: str, text: str) -> None:
    tell(session, {"schedule_id": schedule_id, "done": done}, text)


@schedules.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="How many schedules at most.",
)
@click.option("--after", metavar="ID", help="The last one of the page before.")
@standard_options
@pass_session
def list_schedules(session: Session, /, *, limit: int, after: str | None) -> None:
    """List schedules, newest first, with the next time of each."""

    async def read() -> list[ScheduleDescription]:
        async with open_client(session) as (engine, _):
            return await engine.schedules.list(limit=limit, after=after)

    found = asyncio.run(read())
    if session.is_json:
        for one in found:
            write_json(view_of(one))
    elif found:
        write_table(found)
        if len(found) == limit:
            note(f"there may be more: add --after {found[-1].schedule_id}")
    else:
        note("no schedule is there: 'durable schedules create' makes one")


@schedules.command("show")
@_id_argument
@standard_options
@pass_session
def show(session: Session, /, *, schedule_id: str) -> None:
    """Show a schedule: when it acts, its next ten times, its newest ten runs."""
    found = _ask(session, schedule_id, lambda handle: handle.describe())
    if session.is_json:
        write_json(view_of(found))
    else:
        write_lines(lines_of(found))


@command_with_arguments("create")
@_id_argument
@click.argument("target", metavar="MODULE:WORKFLOW")
@values_argument
@click.option(
    "--cron",
    "crons",
    metavar="TEXT",
    multiple=True,
    help='When, such as "0 9 * * MON-FRI", "@daily" or "@every 3h"; may be repeated.',
)
@click.option("--timezone", metavar="NAME", help="Such as Europe/Berlin; UTC if none.")
@_overlap_option
@click.option("--jitter", type=SPAN, metavar="SPAN", help="Put off by up to so much.")
@click.option(
    "--catchup-window",
    type=SPAN,
    metavar="SPAN",
    help="Times longer ago are missed after an outage, not made up for; 365 days.",
)
@click.option(
    "--pause-on-failure", is_flag=True, help="Pause when a run fails or times out."
)
@click.option(
    "--remaining",
    type=click.IntRange(0),
    metavar="N",
    help="How often it starts something by itself; no end to it.",
)
@click.option("--paused", is_flag=True, help="Create it paused.")
@_note_option
@click.option("--queue", metavar="NAME", help="The task queue of schedule and runs.")
@standard_options
@pass_session
def create(
    session: Session,
    /,
    *,
    schedule_id: str,
    target: str,
    values: tuple[str, ...],
    given: str | None,
    crons: tuple[str, ...],
    queue: str | None,
    text: str,
    remaining: int | None,
    **how: Any,
) -> None:
    """Create a schedule that starts a workflow; the same again changes nothing.

    Its arguments are JSON, as for `durable run`.
    """
    session.refuse_memory()
    if not crons:
        raise click.UsageError('Say when: --cron "0 9 * * MON-FRI".')
    call = make_call(find_workflow(target), read_arguments(values, given))
    options = {name: value for name, value in how.items() if value is not None}

    async def put() -> ScheduleDescription:
        async with Engine(
            session.database_url,
            namespace=session.namespace,
            task_queue=queue or call.definition.task_queue or "default",
            worker=False,
        ) as engine:
            handle = await engine.schedules.create(
                schedule_id,
                call,
                *crons,
                note=text,
                remaining_actions=remaining,
                **options,
            )
            return await handle.describe()

    found = asyncio.run(put())
    if session.is_json:
        write_json(view_of(found))
        return
    following = f"{found.next[0]:%Y-%m-%d %H:%M:%S} UTC" if found.next else "never"
    when = "; ".join(when_of(found.definition.spec))
    tell(session, {}, f"schedule {schedule_id}: {when}, next {following}")


schedules.add_command(create)


@schedules.command("pause")
@_id_argument
@_note_option
@standard_options
@pass_session
def pause(session: Session, /, *, schedule_id: str, text: str) -> None:
    """Let it start nothing by itself until it is unpaused; what runs goes on."""
    _ask(session, schedule_id, lambda handle: handle.pause(text))
    _done(session, schedule_id, "paused", f"schedule {schedule_id} is paused")


@schedules.command("unpause")
@_id_argument
@_note_option
@standard_options
@pass_session
def unpause(session: Session, /, *, schedule_id: str, text: str) -> None:
    """Let it go on from now; times that passed meanwhile are not acted for."""
    _ask(session, schedule_id, lambda handle: handle.unpause(text))
    _done(session, schedule_id, "unpaused", f"schedule {schedule_id} goes on")


@schedules.command("trigger")
@_id_argument
@_overlap_option
@standard_options
@pass_session
def trigger(session: Session, /, *, schedule_id: str, overlap: str | None) -> None:
    """Start a run now, even while it is paused; print its workflow id."""
    found = _ask(session, schedule_id, lambda handle: handle.trigger(overlap=overlap))
    data = {"schedule_id": schedule_id, "done": "triggered", "workflow_id": found}
    tell(session, data, found)


@schedules.command("backfill")
@_id_argument
@click.option(
    "--from",
    "start",
    type=Instant(),
    metavar="INSTANT",
    required=True,
    help="The first time, such as 2026-03-01T09:00Z.",
)
@click.option(
    "--to",
    "end",
    type=Instant(),
    metavar="INSTANT",
    required=True,
    help="The last time; both are included.",
)
@_overlap_option
@standard_options
@pass_session
def backfill(
    session: Session,
    /,
    *,
    schedule_id: str,
    start: datetime,
    end: datetime,
    overlap: str | None,
) -> None:
    """Act for past times, in order.

    With --overlap buffer_all each has a run, one after the other; with allow_all they
    run side by side; with skip only the first has one.
    """
    count = _ask(
        session,
        schedule_id,
        lambda handle: handle.backfill(start, end, overlap=overlap),
    )
    data = {"schedule_id": schedule_id, "done": "backfilled", "times": count}
    tell(session, data, f"schedule {schedule_id} acts for {count} times")


@schedules.command("delete")
@_id_argument
@standard_options
@pass_session
def delete(session: Session, /, *, schedule_id: str) -> None:
    """Delete it; runs that it started go on."""

    async def end(handle: ScheduleHandle) -> None:
        await handle.describe()  # to say so if there is none
        await handle.delete()

    _ask(session, schedule_id, end)
    _done(session, schedule_id, "deleted", f"schedule {schedule_id} is deleted")

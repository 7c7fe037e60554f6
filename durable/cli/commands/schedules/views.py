"""How schedules look: as JSON, as a line of a table, as a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from durable.cli.output import is_colored, write_line
from durable.cli.timeline import COLORED, PLAIN
from durable.client.descriptions.description import failure_as_dict
from durable.schedules.schedules import ScheduleDescription
from durable.schedules.spec import Calendar, ScheduleSpec
from durable.schedules.state import ScheduledRun
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, Role

_HEADINGS: Final = ("STATUS", "SCHEDULE", "WORKFLOW", "NEXT (UTC)", "RUNS", "WHEN")
_ROLES: Final[dict[str, Role]] = {"active": "good", "paused": "warn", "stuck": "bad"}


def status_of(found: ScheduleDescription) -> str:
    """In a word, how a schedule stands."""
    if found.stuck is not None:
        return "stuck"
    if found.paused:
        return "paused"
    return "active" if found.next else "done"


def when_of(spec: ScheduleSpec) -> list[str]:
    """The times of a spec, a text for each part."""
    texts = [calendar.comment or _fields(calendar) for calendar in spec.calendars]
    for interval in spec.intervals:
        shift = f"/{interval.offset}" if interval.offset else ""
        texts.append(f"@every {interval.every}{shift}")
    return texts


def _fields(calendar: Calendar) -> str:
    names = (
        "second",
        "minute",
        "hour",
        "day_of_month",
        "month",
        "day_of_week",
        "year",
    )
    return " ".join(str(getattr(calendar, name)) for name in names)


def view_of(found: ScheduleDescription) -> dict[str, Any]:
    """A schedule as JSON; arguments of its workflow are not shown."""
    definition = found.definition
    spec, action = definition.spec, definition.action
    return {
        "schedule_id": found.schedule_id,
        "status": status_of(found),
        "note": found.note,
        "workflow_type": action.workflow_type,
        "workflow_id": action.workflow_id,
        "when": when_of(spec),
        "skip": [calendar.comment or _fields(calendar) for calendar in spec.skip],
        "timezone": spec.timezone,
        "start_at": spec.start_at,
        "end_at": spec.end_at,
        "jitter_seconds": spec.jitter.total_seconds(),
        "overlap": definition.overlap.value,
        "catchup_window_seconds": definition.catchup_window.total_seconds(),
        "pause_on_failure": definition.pause_on_failure,
        "remaining_actions": definition.remaining_actions,
        "created_at": found.created_at,
        "updated_at": found.updated_at,
        "next": list(found.next),
        "recent": [_run_view(run) for run in found.recent],
        "running": [_run_view(run) for run in found.running],
        "waiting": found.waiting,
        "actions": found.counts.actions,
        "missed": found.counts.missed,
        "skipped": found.counts.skipped,
        "dropped": found.counts.dropped,
        "stuck": None if found.stuck is None else failure_as_dict(found.stuck),
    }


def _run_view(run: ScheduledRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in ScheduledRun.__struct_fields__}


def write_table(schedules: list[ScheduleDescription]) -> None:
    """Write a line for each schedule."""
    rows: list[tuple[str, ...]] = [_HEADINGS, *map(_cells, schedules)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    style = COLORED if is_colored(sys.stdout) else PLAIN
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        padded[0] = style.paint(Piece(padded[0], _ROLES.get(row[0], "plain")))
        write_line("  ".join(padded).rstrip())


def _cells(found: ScheduleDescription) -> tuple[str, ...]:
    spec = found.definition.spec
    when = "; ".join(when_of(spec))
    return (
        status_of(found),
        escape(found.schedule_id),
        escape(found.definition.action.workflow_type),
        _time(found.next[0]) if found.next and not found.paused else "-",
        str(found.counts.actions),
        escape(f"{when} ({spec.timezone})"),
    )


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def lines_of(found: ScheduleDescription) -> Iterator[str]:
    """A page about one schedule."""
    definition, counts = found.definition, found.counts
    spec = definition.spec
    yield escape(f"schedule {found.schedule_id}: {status_of(found)}")
    if found.note:
        yield escape(f"  note       {found.note}")
    if found.stuck is not None:
        yield escape(f"  stuck      {found.stuck.type}: {found.stuck.message}")
    yield escape(f"  workflow   {definition.action.workflow_type}")
    for text in when_of(spec):
        yield escape(f"  when       {text} ({spec.timezone})")
    for calendar in spec.skip:
        yield escape(f"  skip       {calendar.comment or _fields(calendar)}")
    if spec.jitter:
        yield f"  jitter     {spec.jitter}"
    yield f"  overlap    {definition.overlap.value}"
    if definition.remaining_actions is not None:
        yield f"  remaining  {definition.remaining_actions}"
    yield (
        f"  counts     {counts.actions} started, {counts.missed} missed,"
        f" {counts.skipped} skipped, {counts.dropped} dropped, {found.waiting} waiting"
    )
    for moment in found.next:
        yield f"  next       {_time(moment)} UTC"
    for run in found.recent:
        yield escape(
            f"  recent     {_time(run.scheduled_at)} UTC  {run.status}"
            f"  {run.workflow_id}"
        )

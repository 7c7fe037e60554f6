"""`durable workers`."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import click

from durable.cli.connection import open_client
from durable.cli.output import is_colored, note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN
from durable.client.descriptions.workers import (
    LEASE_OVER,
    WorkerDescription,
    describe_workers,
)
from durable.store.records import WorkerStatus
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, Role

_ROLES: Final[dict[str, Role]] = {
    WorkerStatus.RUNNING.value: "good",
    WorkerStatus.DRAINING.value: "warn",
    LEASE_OVER: "bad",
}
_HEADINGS: Final = (
    "STATUS",
    "WORKER",
    "QUEUE",
    "ACTIVITY QUEUES",
    "KNOWS",
    "RUNS",
    "IN MEMORY",
    "ACTIVITIES",
    "LEASE",
    "SINCE (UTC)",
    "PID",
    "HOST",
)


@click.command("workers")
@click.option("--types", is_flag=True, help="Name the types that each knows.")
@standard_options
@pass_session
def workers(session: Session, /, *, types: bool) -> None:
    """List the workers that are there: what they serve, and how full they are.

    Those of all namespaces, unless one is named. A worker renews its lease while it
    lives; one whose lease is over has died, and the next worker takes its runs.

    KNOWS counts the types of workflows and activities. RUNS are those that it has under
    way; IN MEMORY are those with the ones at rest, of how many at rest it keeps;
    ACTIVITIES are those that run, of how many may. The last three are told with each
    renewal of the lease, every 3 s.
    """
    rows = asyncio.run(_read(session))
    if session.is_json:
        for row in rows:
            write_json(row.to_dict())
    elif rows:
        _write_table(rows, names_types=types)
    else:
        note("no worker is there: 'durable worker MODULE' begins one")


async def _read(session: Session) -> list[WorkerDescription]:
    async with open_client(session) as (_, store):
        return await describe_workers(store, session.chosen_namespace)


def _write_table(rows: list[WorkerDescription], *, names_types: bool) -> None:
    shows_namespace = len({row.namespace for row in rows} | {"default"}) > 1
    cells: list[tuple[str, ...]] = [_HEADINGS, *map(_cells, rows)]
    if shows_namespace:
        names = ["NAMESPACE", *(escape(row.namespace) for row in rows)]
        cells = [(*row, name) for row, name in zip(cells, names, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    style = COLORED if is_colored(sys.stdout) else PLAIN
    for of, row in zip([None, *rows], cells, strict=True):
        padded = [c.ljust(width) for c, width in zip(row, widths, strict=True)]
        padded[0] = style.paint(Piece(padded[0], _ROLES.get(row[0], "plain")))
        write_line("  ".join(padded).rstrip())
        if names_types and of is not None:
            for what, known in (
                ("workflows", of.workflows),
                ("activities", of.activities),
            ):
                told = "?" if known is None else ", ".join(map(escape, known)) or "none"
                write_line(f"  {what}: {told}")


def _cells(row: WorkerDescription) -> tuple[str, ...]:
    places = row.activity_queues or {}
    since = row.started_at
    return (
        row.status,
        escape(row.worker_id),
        escape(row.task_queue),
        " ".join(f"{escape(queue)}={n}" for queue, n in places.items()) or "?",
        _count(row),
        str(row.live_runs),
        _of(row.cached_runs, row.cached_runs_max),
        _of(row.running_activities, row.capacity),
        f"{row.lease_seconds_left:.1f} s",
        "?" if since is None else f"{since:%Y-%m-%d %H:%M}",
        str(row.pid),
        escape(row.host),
    )


def _count(row: WorkerDescription) -> str:
    if row.workflows is None or row.activities is None:
        return "?"
    return f"{len(row.workflows)} workflows, {len(row.activities)} activities"


def _of(used: int | None, most: int | None) -> str:
    return "?" if used is None or most is None else f"{used}/{most}"

"""`durable workers`."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from durable.cli.connection import open_client
from durable.cli.output import is_colored, note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN
from durable.store.queries import CountOwnedRuns, ListWorkers
from durable.store.records import WorkerRecord, WorkerStatus
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, Role, find_datetime

_LEASE_OVER: Final = "lease over"
_ROLES: Final[dict[str, Role]] = {
    WorkerStatus.RUNNING.value: "good",
    WorkerStatus.DRAINING.value: "warn",
    _LEASE_OVER: "bad",
}
_HEADINGS: Final = (
    "STATUS",
    "WORKER",
    "QUEUE",
    "ACTIVITIES",
    "PID",
    "HOST",
    "SINCE (UTC)",
    "LEASE",
    "RUNS",
)


@click.command("workers")
@standard_options
@pass_session
def workers(session: Session, /) -> None:
    """List the workers that are there, with the runs that each has live.

    Those of all namespaces, unless one is named. A worker renews its lease while it
    lives; one whose lease is over has died, and the next worker takes its runs.
    """
    rows = asyncio.run(_read(session))
    if session.is_json:
        for row in rows:
            write_json(row)
    elif rows:
        _write_table(rows)
    else:
        note("no worker is there: 'durable worker MODULE' begins one")


async def _read(session: Session) -> list[dict[str, Any]]:
    async with open_client(session) as (_, store):
        records, owned = await asyncio.gather(
            store.read(ListWorkers()), store.read(CountOwnedRuns())
        )
        now, namespace = store.now(), session.chosen_namespace
    return [
        _view(record, now, owned.get(record.worker_id, 0))
        for record in records
        if namespace in (None, record.namespace)
    ]


def _view(record: WorkerRecord, now: int, live_runs: int) -> dict[str, Any]:
    left = max(0, record.lease_expires_at - now) / 1_000_000
    host, *_ = record.host.split("/")
    return {
        "worker_id": record.worker_id,
        "namespace": record.namespace,
        "host": host,
        "pid": record.pid,
        "task_queue": record.task_queue,
        "activity_queues": _places_of(record),
        "status": record.status.value if left else _LEASE_OVER,
        "started_at": find_datetime(record.started_at),
        "lease_expires_at": find_datetime(record.lease_expires_at),
        "lease_seconds_left": left,
        "live_runs": live_runs,
        "damage": record.damage,
    }


def _places_of(record: WorkerRecord) -> dict[str, int] | None:
    """Which queues it serves for activities, and how many of each at once."""
    if record.places is None:
        return None
    try:
        return msgspec.json.decode(record.places, type=dict[str, int])
    except msgspec.MsgspecError:
        return None


def _write_table(rows: list[dict[str, Any]]) -> None:
    shows_namespace = len({row["namespace"] for row in rows} | {"default"}) > 1
    cells: list[tuple[str, ...]] = [_HEADINGS, *map(_cells, rows)]
    if shows_namespace:
        names = ["NAMESPACE", *(escape(row["namespace"]) for row in rows)]
        cells = [(*row, name) for row, name in zip(cells, names, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    style = COLORED if is_colored(sys.stdout) else PLAIN
    for row in cells:
        padded = [c.ljust(width) for c, width in zip(row, widths, strict=True)]
        padded[0] = style.paint(Piece(padded[0], _ROLES.get(row[0], "plain")))
        write_line("  ".join(padded).rstrip())


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    since: datetime | None = row["started_at"]
    places: dict[str, int] = row["activity_queues"] or {}
    return (
        row["status"],
        escape(row["worker_id"]),
        escape(row["task_queue"]),
        " ".join(f"{escape(queue)}={n}" for queue, n in places.items()) or "?",
        str(row["pid"]),
        escape(row["host"]),
        "?" if since is None else f"{since:%Y-%m-%d %H:%M}",
        f"{row['lease_seconds_left']:.1f} s",
        str(row["live_runs"]),
    )

"""`durable list`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import UTC, datetime

import click

from durable import limits
from durable.cli.connection import open_client
from durable.cli.output import escape, is_colored, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.pieces import Piece, instant
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN, STATUS_ROLES
from durable.cli.views import run_view
from durable.client.doctor import read_pages
from durable.clock import from_datetime
from durable.options import check_id
from durable.store.records import RunFilter, RunRecord, RunStatus

_NARROW = frozenset({"STATUS", "STARTED (UTC)"})
_HEADINGS = ("STATUS", "WORKFLOW ID", "WORKFLOW", "STARTED (UTC)", "RUN ID")


@click.command("list")
@click.option(
    "--status",
    type=click.Choice([status.value for status in RunStatus]),
    help="Only runs of this status.",
)
@click.option(
    "--type", "workflow_type", metavar="NAME", help="Only runs of a workflow."
)
@click.option("--id", "workflow_id", metavar="ID", help="Only runs of a workflow id.")
@click.option("--stuck/--not-stuck", default=None, help="Only parked runs, or none.")
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]),
    metavar="INSTANT",
    help="Only runs that started before, as in 2026-11-21T19:00:00Z.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many runs at most.",
)
@standard_options
@pass_session
def list_runs(
    session: Session,
    /,
    *,
    status: str | None,
    workflow_type: str | None,
    workflow_id: str | None,
    stuck: bool | None,
    before: datetime | None,
    limit: int,
) -> None:
    """List runs, newest first."""
    where = RunFilter(
        status=None if status is None else RunStatus(status),
        workflow_type=(
            None if workflow_type is None else check_id(workflow_type, "--type")
        ),
        workflow_id=None if workflow_id is None else check_id(workflow_id, "--id"),
        stuck=stuck,
        started_before=(
            None if before is None else from_datetime(before.replace(tzinfo=UTC))
        ),
    )
    records = asyncio.run(_read(session, where, limit))
    if session.is_json:
        for record in records:
            write_json(run_view(record))
    elif sys.stdout.isatty() and _write_table(records):
        return
    else:
        _write_plain(records)


async def _read(session: Session, where: RunFilter, limit: int) -> list[RunRecord]:
    records: list[RunRecord] = []
    size = min(limit, limits.LIST_PAGE_MAX)
    async with open_client(session) as (_, store):
        pages = read_pages(store, session.namespace, where, size=size)
        async with contextlib.aclosing(pages):
            async for page in pages:
                records += page
                if len(records) >= limit:
                    break
    return records[:limit]


def _cells(record: RunRecord) -> tuple[str, ...]:
    status = record.status.value if record.stuck is None else "stuck"
    return (
        status,
        escape(record.workflow_id),
        escape(record.workflow_type),
        instant(record.started_at).partition(".")[0],
        escape(record.run_id),
    )


def _write_plain(records: list[RunRecord]) -> None:
    rows = [_HEADINGS, *(_cells(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    style = COLORED if is_colored(sys.stdout) else PLAIN
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        role = STATUS_ROLES.get(row[0], "plain")
        padded[0] = style.paint(Piece(padded[0], role))
        write_line("  ".join(padded).rstrip())


def _write_table(records: list[RunRecord]) -> bool:
    """Write a table that fits the terminal; False if `rich` is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    colors = {"good": "green", "bad": "red", "warn": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold", no_wrap=heading in _NARROW)
    for record in records:
        status, *others = _cells(record)
        color = colors.get(STATUS_ROLES.get(status, "plain"), "")
        # Text, because a cell given as a str could hold markup of its own.
        table.add_row(Text(status, style=color), *(Text(cell) for cell in others))
    Console().print(table)
    return True

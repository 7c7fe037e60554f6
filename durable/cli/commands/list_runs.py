"""`durable list`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import UTC, datetime
from typing import Final

import click

from durable import limits
from durable.cli.connection import open_client, read_revision, require_database
from durable.cli.output import is_colored, note, width_of, write_json, write_line
from durable.cli.parameters import Word, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN, STATUS_ROLES
from durable.cli.views import run_view
from durable.client.descriptions.description import cursor_of, read_cursor
from durable.clock import from_datetime
from durable.doctor.doctor import read_pages
from durable.options import check_id
from durable.store.queries import ListRuns
from durable.store.records import STUCK, RunFilter, RunRecord, RunStatus
from durable.store.store import Store
from durable.suggestions import closest
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, instant

_HEADINGS: Final = ("STARTED (UTC)", "WORKFLOW")


@click.command("list")
@click.option(
    "--status",
    type=Word([*(status.value for status in RunStatus), STUCK]),
    help="Only runs of this status; stuck ones are running, too.",
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
    "--after",
    metavar="CURSOR",
    help="Only what follows a run: the cursor that the page before ended with.",
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
    after: str | None,
    limit: int,
) -> None:
    """List runs, newest first.

    Runs of the library's own, such as schedules, show with their --type or --id. The
    runs of one --id are told apart by their run ids. If there are more than
    --limit, standard error names the cursor for --after, which skips nothing and
    repeats nothing; with --json each run has its own.
    """
    if status == STUCK and stuck is False:
        raise click.UsageError("--status stuck and --not-stuck exclude each other.")
    where = RunFilter(
        status=None if status in (None, STUCK) else RunStatus(status),
        workflow_type=(
            None if workflow_type is None else check_id(workflow_type, "--type")
        ),
        workflow_id=None if workflow_id is None else check_id(workflow_id, "--id"),
        hides_own=workflow_type is None and workflow_id is None,
        stuck=True if status == STUCK else stuck,
        started_before=(
            None if before is None else from_datetime(before.replace(tzinfo=UTC))
        ),
        after=None if after is None else read_cursor(after, "--after"),
    )
    found = asyncio.run(_read(session, where, limit))
    records = found[:limit]
    if session.is_json:
        for record in records:
            write_json({**run_view(record), "cursor": cursor_of(record)})
        return
    _write_table(records, by_run_id=workflow_id is not None)
    if len(found) > limit:
        note(f"there are more: add --after {cursor_of(records[-1])}")


async def _read(session: Session, where: RunFilter, limit: int) -> list[RunRecord]:
    """Read as many runs as are wanted, and one more if there is one."""
    records: list[RunRecord] = []
    size = min(limit + 1, limits.LIST_PAGE_MAX)
    require_database(session)
    if not session.is_sqlite and read_revision(session) is None:
        note(
            "the database has no tables yet: the first 'durable start', 'run' or"
            " 'worker' makes them"
        )
        return records
    async with open_client(session) as (_, store):
        pages = read_pages(store, session.namespace, where, size=size)
        async with contextlib.aclosing(pages):
            async for page in pages:
                records += page
                if len(records) > limit:
                    break
        if not records and not session.is_json:
            await _note_closest(session, store, where)
    return records


async def _note_closest(session: Session, store: Store, where: RunFilter) -> None:
    """Where nothing was found by a name, name what is there and like it."""
    for name, key in (
        (where.workflow_type, "workflow_type"),
        (where.workflow_id, "workflow_id"),
    ):
        if name is not None:
            newest = RunFilter(limit=limits.LIST_PAGE_MAX)
            there = await store.read(ListRuns(session.namespace, newest))
            close = closest(name, {getattr(record, key) for record in there})
            if close not in (None, name):
                note(f"nothing is called {name!r}; did you mean {close!r}?")


def _cells(record: RunRecord, *, by_run_id: bool) -> tuple[str, ...]:
    status = record.status.value if record.stuck is None else STUCK
    return (
        status,
        escape(record.run_id if by_run_id else record.workflow_id),
        instant(record.started_at)[:16],
        escape(record.workflow_type),
    )


def _write_table(records: list[RunRecord], *, by_run_id: bool) -> None:
    """Write a line for each run: ids whole, and on a terminal as wide as that."""
    headings = ("STATUS", "RUN ID" if by_run_id else "WORKFLOW ID", *_HEADINGS)
    rows = [headings, *(_cells(record, by_run_id=by_run_id) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    width = width_of(sys.stdout)
    if width is not None:
        left = width - sum(widths[:-1]) - 2 * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(left, len(_HEADINGS[-1])))
    style = COLORED if is_colored(sys.stdout) else PLAIN
    for row in rows:
        padded = [
            cell.ljust(width) if len(cell) <= width else f"{cell[: width - 1]}…"
            for cell, width in zip(row, widths, strict=True)
        ]
        role = STATUS_ROLES.get(row[0], "plain")
        padded[0] = style.paint(Piece(padded[0], role))
        write_line("  ".join(padded).rstrip())

"""`durable list` and `durable count`."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from durable import limits
from durable.cli.connection import open_client, read_revision, require_database
from durable.cli.output import is_colored, note, width_of, write_json, write_line
from durable.cli.parameters import Word, payloads_option, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN, STATUS_ROLES
from durable.cli.views import run_view
from durable.client.descriptions.description import cursor_of, read_cursor, status_word
from durable.client.descriptions.searching import (
    Listing,
    RunCount,
    listing,
    to_search,
)
from durable.engine import Engine
from durable.options import check_id
from durable.store.queries import ListNamespaces, SearchRuns
from durable.store.records import PAUSED, STUCK, RunRecord, RunStatus
from durable.store.store import Store
from durable.suggestions import closest
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, instant

_HEADINGS: Final = ("STARTED (UTC)", "WORKFLOW")
_DOUBTS_MAX: Final = 1_000
_where: Final = click.option(
    "--where",
    metavar="QUERY",
    help="Only runs that a query holds for, as in \"customer = 'ann' AND StartTime >"
    " '2026-01-31T12:00:00Z'\".",
)


@click.command("list")
@click.option(
    "--status",
    type=Word([*(status.value for status in RunStatus), STUCK, PAUSED]),
    help="Only runs of this status; stuck and paused ones are running, too.",
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
@_where
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
@payloads_option
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
    where: str | None,
    after: str | None,
    limit: int,
    payloads: bool,
) -> None:
    """List runs, newest first, or as ORDER BY of the query says.

    Runs of the library's own, such as schedules, show with their --type or --id. The
    runs of one --id are told apart by their run ids. If there are more than
    --limit, standard error names the cursor for --after, which skips nothing and
    repeats nothing; with --json each run has its own.
    """
    if status == STUCK and stuck is False:
        raise click.UsageError("--status stuck and --not-stuck exclude each other.")
    asked = listing(
        where=where,
        order_by=None,
        status=status,
        workflow_type=(
            None if workflow_type is None else check_id(workflow_type, "--type")
        ),
        workflow_id=None if workflow_id is None else check_id(workflow_id, "--id"),
        stuck=stuck,
        started_before=None if before is None else before.replace(tzinfo=UTC),
        after=None,
        limit=min(limit + 1, limits.LIST_PAGE_MAX),
    )
    if after is not None:
        read_cursor(after, "--after")
        asked = msgspec.structs.replace(asked, after=after)
    named = (workflow_type, workflow_id)
    wants_stuck = bool(stuck) or status == STUCK
    found = asyncio.run(_read(session, asked, limit, named, wants_stuck))
    records = found[:limit]
    if session.is_json:
        for record in records:
            view = run_view(record, payloads=payloads)
            write_json({**view, "cursor": cursor_of(record)})
        return
    _write_table(records, by_run_id=workflow_id is not None)
    if len(found) > limit:
        note(f"there are more: add --after {cursor_of(records[-1])}")


async def _note_doubts(engine: Engine) -> None:
    """Say what waits for an operator, too, though its run is not parked."""
    found = await engine.activities.list(in_doubt=True, limit=_DOUBTS_MAX)
    if found:
        count = f"{len(found)}{'+' * (len(found) == _DOUBTS_MAX)}"
        note(
            f"{count} in doubt, whose runs are not parked:"
            " `durable activity list --in-doubt`"
        )


async def _read(
    session: Session,
    asked: Listing,
    limit: int,
    named: tuple[str | None, str | None],
    wants_stuck: bool,
) -> list[RunRecord]:
    """Read as many runs as are wanted, and one more if there is one."""
    records: list[RunRecord] = []
    require_database(session)
    if not session.is_sqlite and read_revision(session) is None:
        note(
            "the database has no tables yet: the first 'durable start', 'run' or"
            " 'worker' makes them"
        )
        return records
    async with open_client(session) as (engine, store):
        query = await to_search(store, session.namespace, asked)
        while len(records) <= limit:
            page = await store.read(query)
            records += page
            if len(page) < query.limit:
                break
            instant = query.order.instant_of(page[-1]) or 0
            after = (instant, page[-1].run_id)
            query = msgspec.structs.replace(query, after=after)
        if not records and not session.is_json:
            if not await store.read(SearchRuns(session.namespace, limit=1)):
                await _note_namespaces(session, store)
            await _note_closest(session, store, *named)
        if wants_stuck:
            await _note_doubts(engine)
    return records


async def _note_namespaces(session: Session, store: Store) -> None:
    """Where a namespace has no runs, say which have some."""
    others = [n for n in await store.read(ListNamespaces()) if n != session.namespace]
    if others:
        note(f"namespace {session.namespace!r} has none; others: {', '.join(others)}")


async def _note_closest(
    session: Session, store: Store, workflow_type: str | None, workflow_id: str | None
) -> None:
    """Where nothing was found by a name, name what is there and like it."""
    for name, key in ((workflow_type, "workflow_type"), (workflow_id, "workflow_id")):
        if name is not None:
            newest = SearchRuns(session.namespace, limit=limits.LIST_PAGE_MAX)
            there = await store.read(newest)
            close = closest(name, {getattr(record, key) for record in there})
            if close not in (None, name):
                note(f"nothing is called {name!r}; did you mean {close!r}?")


def _cells(record: RunRecord, *, by_run_id: bool) -> tuple[str, ...]:
    return (
        status_word(record),
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


@click.command("count")
@_where
@click.option(
    "--by",
    "group_by",
    metavar="NAME",
    help="Count by value: of an attribute, ExecutionStatus, WorkflowType, TaskQueue,"
    " Version or Stuck.",
)
@standard_options
@pass_session
def count(session: Session, /, *, where: str | None, group_by: str | None) -> None:
    """Count runs.

    Counting ends at a million runs, or at 100,000 that had to be looked at one by one:
    then it says "at least".
    """
    counts = asyncio.run(_count(session, where, group_by))
    groups = [
        (None if value is None else msgspec.to_builtins(value), size)
        for value, size in counts.groups.items()
    ]
    if session.is_json:
        write_json(
            {
                "total": counts.total,
                "is_complete": counts.is_complete,
                "groups": [{"value": value, "count": size} for value, size in groups],
            }
        )
        return
    prefix = "" if counts.is_complete else "at least "
    for value, size in groups:
        shown = "(none)" if value is None else escape(str(value))
        write_line(f"{size:>12,}  {shown}")
    write_line(
        f"{prefix}{counts.total:,} runs"
        if not groups
        else f"{prefix}{counts.total:,} in all"
    )


async def _count(session: Session, where: str | None, group_by: str | None) -> RunCount:
    async with open_client(session) as (engine, _):
        return await engine.count(where=where, group_by=group_by)

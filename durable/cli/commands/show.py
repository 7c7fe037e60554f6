"""`durable show` and `durable history`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from durable.cli.commands.follow import follow
from durable.cli.connection import open_client
from durable.cli.output import (
    is_colored,
    to_json,
    width_of,
    write_json,
    write_line,
    write_lines,
)
from durable.cli.parameters import (
    payloads_option,
    run_id_option,
    standard_options,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_interruptible
from durable.cli.timeline import COLORED, PLAIN, describe_events, render_run
from durable.cli.views import attempt_view, folded_view, row_view, run_view
from durable.client.descriptions.description import waits_for_turn
from durable.core.folding.fold import fold
from durable.core.history.codec import decode_rows
from durable.doctor.whole_histories import with_whole_history
from durable.engine import Engine
from durable.errors import WorkflowNotFoundError
from durable.store.queries import ListWorkers, LoadRuns
from durable.store.records import LoadedRun, WorkerRecord
from durable.telling.pending import find_lost
from durable.telling.pieces import instant


class _Read(NamedTuple):
    run: LoadedRun
    now: int
    turn: str | None = None
    """Why it waits for its turn, if it does."""
    workers: Sequence[WorkerRecord] = ()


async def _load(session: Session, workflow_id: str, run_id: str | None) -> _Read:
    async with open_client(session) as (engine, store):
        handle = await engine.get(workflow_id, run_id=run_id)
        loaded = await store.read(LoadRuns([handle.run_id]))
        if not loaded:
            raise WorkflowNotFoundError(f"Run {workflow_id!r} has just been removed.")
        run = await with_whole_history(store, loaded[0])
        turn = None
        if waits_for_turn(run.record):
            turn = await _find_turn(engine, run.record.task_queue)
        workers = await store.read(ListWorkers())
        return _Read(run, store.now(), turn, workers)


async def _find_turn(engine: Engine, queue: str) -> str:
    found = {one.name: one for one in await engine.queues.runs.list()}
    if queue not in found:
        return f"in queue {queue}"
    one = found[queue]
    if one.paused_at is not None:
        return f"in queue {queue}, which is paused; {one.waiting} wait"
    most = "" if one.concurrency is None else f" of {one.concurrency}"
    return f"in queue {queue}: {one.running}{most} run, {one.waiting} wait"


@click.command("show")
@workflow_id_argument
@run_id_option
@payloads_option
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show only the last N lines of what happened.",
)
@click.option(
    "-f",
    "--follow",
    "is_followed",
    is_flag=True,
    help="Go on with what happens until the run ends; exit as `durable result` does.",
)
@standard_options
@pass_session
def show(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    payloads: bool,
    last: int | None,
    is_followed: bool,
) -> None:
    """Show what a run did, and what it waits for now.

    Times are relative to the start of the run. Attempts of activities stand among the
    events, with what they failed of and which worker made them. With --follow each
    line comes when it is recorded, by whatever process; --json makes an object of each.
    """
    if is_followed:
        work = follow(session, workflow_id, run_id, last=last, payloads=payloads)
        run_interruptible(work)
        return
    run, now, turn, workers = asyncio.run(_load(session, workflow_id, run_id))
    events = decode_rows(run.rows)
    state = fold(events)
    if session.is_json:
        told = describe_events(events, run.attempts, payloads=payloads)
        write_json(
            {
                **run_view(run.record),
                **folded_view(state, payloads=payloads),
                "waiting_messages": len(run.messages),
                "attempts": [attempt_view(row) for row in run.attempts],
                "timeline": told[-(last or 0) :],
            }
        )
        return
    write_lines(
        render_run(
            run.record,
            events,
            run.attempts,
            run.messages,
            now=now,
            last=last,
            width=width_of(sys.stdout),
            style=COLORED if is_colored(sys.stdout) else PLAIN,
            payloads=payloads,
            turn=turn,
            lost=find_lost(run, state, workers, now),
        )
    )


@click.command("history")
@workflow_id_argument
@run_id_option
@payloads_option
@standard_options
@pass_session
def history(
    session: Session, /, *, workflow_id: str, run_id: str | None, payloads: bool
) -> None:
    """Print a run's recorded events, one a line.

    With --json --payloads the output can be read by `durable replay --file`.
    """
    run, *_ = asyncio.run(_load(session, workflow_id, run_id))
    for row in run.rows:
        view = row_view(row, payloads=payloads)
        if session.is_json:
            write_json(view)
        else:
            data = to_json(view["data"])
            task = f"task {row[2]}" if row[2] else "-"
            write_line(f"{row[1]:>5}  {task:<9} {instant(row[4])}  {row[3]}  {data}")

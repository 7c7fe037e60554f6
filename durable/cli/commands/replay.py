"""`durable replay`: recorded histories against today's code.

Nothing is written and no activity runs: a replayer takes the recorded events and checks
that the code asks for the same things again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import click

from durable.api.registry import REGISTRY
from durable.cli.connection import open_client
from durable.cli.gate.files import read_file
from durable.cli.gate.verdicts import Replayed, Verdict, read_rows, replay_rows
from durable.cli.output import note, write_json, write_line
from durable.cli.parameters import run_id_option, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import load_modules
from durable.doctor.doctor import read_pages
from durable.errors import CorruptHistoryError, DurableError, NondeterminismError
from durable.store.queries import ReadHistory
from durable.store.records import HistoryRow, RunFilter, RunStatus
from durable.telling.escaping import escape, escape_lines
from durable.worker.guards.guards import install_guards


class ReplayFailedError(DurableError):
    """A history cannot be read, or its run would still be stuck."""

    code = "replay_failed"


@click.command("replay")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--id", "workflow_id", metavar="ID", help="Replay the run of that id.")
@run_id_option
@click.option(
    "--file",
    "path",
    metavar="FILE",
    help="Replay what `durable history ID --json --payloads` wrote; - for stdin.",
)
@click.option("--all", "is_all", is_flag=True, help="Replay every run.")
@click.option("--open", "is_open", is_flag=True, help="Replay every run that is open.")
@standard_options
@pass_session
def replay(
    session: Session,
    /,
    *,
    modules: tuple[str, ...],
    workflow_id: str | None,
    run_id: str | None,
    path: str | None,
    is_all: bool,
    is_open: bool,
) -> None:
    """Try recorded runs against today's code, without any effect.

    Ends with exit code 8 if a history does not replay, and says where it differs: what
    is recorded, what the code asks for, and both lines; likewise if the code ends a run
    with another result or failure. As in a worker, replay begins at the newest
    checkpoint. Runs whose workflow is in none of the modules are skipped.
    """
    chosen = [workflow_id is not None, path is not None, is_all or is_open]
    if sum(chosen) != 1:
        raise click.UsageError("Give one of --id, --file, --all and --open.")
    load_modules(modules)
    install_guards()
    tally: dict[Verdict, int] = {}
    if path is not None:
        rows = read_file(path)
        _require_workflow(rows)
        _count(session, replay_rows(rows), tally)
    else:
        source = _histories(session, workflow_id, run_id, is_open=is_open)
        asyncio.run(_replay_all(session, source, tally, workflow_id is not None))
    _conclude(session, tally)


async def _histories(
    session: Session, workflow_id: str | None, run_id: str | None, *, is_open: bool
) -> AsyncIterator[list[HistoryRow]]:
    async with open_client(session) as (engine, store):
        if workflow_id is not None:
            handle = await engine.get(workflow_id, run_id=run_id)
            yield await store.read(ReadHistory(handle.run_id))
            return
        where = RunFilter(status=RunStatus.RUNNING if is_open else None)
        async for page in read_pages(store, session.namespace, where):
            for record in page:
                yield await store.read(ReadHistory(record.run_id))


async def _replay_all(
    session: Session,
    source: AsyncIterator[list[HistoryRow]],
    tally: dict[Verdict, int],
    is_required: bool,
) -> None:
    async for rows in source:
        if is_required:
            _require_workflow(rows)
        _count(session, replay_rows(rows), tally)


def _require_workflow(rows: list[HistoryRow]) -> None:
    """Find the workflow of a history that was named.

    Raises:
        NotRegisteredError: no module that was given defines it.
    """
    with contextlib.suppress(CorruptHistoryError):  # reported in its place
        REGISTRY.get_workflow(read_rows(rows)[1].workflow_type)


# --- what came of it ------------------------------------------------------------------


def _count(session: Session, replayed: Replayed, tally: dict[Verdict, int]) -> None:
    tally[replayed.verdict] = tally.get(replayed.verdict, 0) + 1
    if session.is_json:
        write_json(replayed)
        return
    count = "1 event" if replayed.event_count == 1 else f"{replayed.event_count} events"
    name = escape(replayed.workflow_id)
    kind, run_id = escape(replayed.workflow_type), escape(replayed.run_id)
    write_line(f"{replayed.verdict:<9} {name}  {kind}  {count}  (run {run_id})")
    for line in _explain(replayed):
        write_line(f"          {line}")


def _explain(replayed: Replayed) -> Iterator[str]:
    if replayed.message is not None:
        yield from escape_lines(replayed.message)
    if replayed.stack_trace:
        yield from escape_lines(replayed.stack_trace.rstrip("\n"))


def _conclude(session: Session, tally: dict[Verdict, int]) -> None:
    """Say how it went in all; a failure is an error.

    Raises:
        NondeterminismError: a history does not replay.
        ReplayFailedError: one cannot be read, or is stuck.
    """
    total = sum(tally.values())
    histories = "1 history" if total == 1 else f"{total} histories"
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.items()))
    summary = f"{histories}: {told or 'none'}"
    if tally.get("mismatch"):
        raise NondeterminismError(
            f"{summary}.",
            hint="Guard the change with `if patched('...'):`, or restore the code.",
        )
    if tally.get("corrupt") or tally.get("stuck"):
        raise ReplayFailedError(f"{summary}.")
    if not session.is_json:
        note(summary)

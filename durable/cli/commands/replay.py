"""`durable replay`: recorded histories against today's code.

Nothing is written and no activity runs: a replayer takes the recorded events and checks
that the code asks for the same things again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

import click
import msgspec

from durable.api.endings import check_ending
from durable.api.registry import REGISTRY
from durable.cli.connection import open_client
from durable.cli.output import note, users_code_prints_to_stderr, write_json, write_line
from durable.cli.parameters import run_id_option, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import load_modules
from durable.clock import from_datetime
from durable.core.folding.fold import fold
from durable.core.history.codec import decode_rows
from durable.core.history.events import HistoryEvent, WorkflowExecutionStarted
from durable.core.history.payload import JSON_PLAIN, Failure, summary_of
from durable.core.replay.catching_up import catch_up, since_checkpoint
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskFailure,
)
from durable.doctor.doctor import read_pages
from durable.doctor.run_checks import payloads_of
from durable.errors import CorruptHistoryError, DurableError, NondeterminismError
from durable.store.queries import ReadHistory
from durable.store.records import HistoryRow, RunFilter, RunStatus
from durable.telling.escaping import escape, escape_lines
from durable.worker.guards.guards import install_guards

Verdict: TypeAlias = Literal["ok", "mismatch", "stuck", "corrupt", "skipped"]
"""How a replay went.

ok: the code asks for what is recorded. mismatch: it asks for something else, or raises.
stuck: it does, but fails on the events that no workflow task has taken yet. corrupt: a
row cannot be read. skipped: no module that was given defines the workflow.
"""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one history; the keys of `--json`."""

    verdict: Verdict
    workflow_id: str
    run_id: str
    workflow_type: str
    event_count: int
    message: str | None = None
    event_id: int | None = None
    recorded: str | None = None
    found: str | None = None
    stack_trace: str | None = None


class ReplayFailedError(DurableError):
    """A history cannot be read, or its run would still be stuck."""

    code = "replay_failed"


class _RecordedEvent(msgspec.Struct, frozen=True):
    """One line of `durable history --json --payloads`."""

    event_id: int
    task_number: int
    type: str
    time: datetime
    data: msgspec.Raw
    flags: int = 0


_one: Final = msgspec.json.Decoder(_RecordedEvent)
_many: Final = msgspec.json.Decoder(list[_RecordedEvent])


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
        _count(session, _replay_rows(_read_file(path), is_required=True), tally)
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
        _count(session, _replay_rows(rows, is_required=is_required), tally)


# --- one history ----------------------------------------------------------------------


def _replay_rows(rows: list[HistoryRow], *, is_required: bool) -> Replayed:
    try:
        events = decode_rows(rows)
        started = events[0].attributes if events else None
        if not isinstance(started, WorkflowExecutionStarted):
            raise CorruptHistoryError(
                "It does not begin with WorkflowExecutionStarted."
            )
    except CorruptHistoryError as error:
        return Replayed(
            verdict="corrupt",
            workflow_id="?",
            run_id=rows[0][0] if rows else "?",
            workflow_type="?",
            event_count=len(rows),
            message=error.message,
        )
    if is_required:
        REGISTRY.get_workflow(started.workflow_type)
    return replay_history(events, started)


def replay_history(
    events: Sequence[HistoryEvent], started: WorkflowExecutionStarted
) -> Replayed:
    """Replay one history against the workflows that are registered."""

    def end(verdict: Verdict, problem: WorkflowTaskFailure | None = None) -> Replayed:
        error = None if problem is None else problem.error
        mismatch = error if isinstance(error, NondeterminismError) else None
        return Replayed(
            verdict=verdict,
            workflow_id=started.workflow_id,
            run_id=started.run_id,
            workflow_type=started.workflow_type,
            event_count=len(events),
            message=None if problem is None else _message_of(problem),
            event_id=None if mismatch is None else mismatch.event_id,
            recorded=None if mismatch is None else mismatch.recorded,
            found=None if mismatch is None else mismatch.found,
            stack_trace=(
                problem.failure.stack_trace
                if problem is not None and mismatch is None
                else None
            ),
        )

    if started.workflow_type not in REGISTRY.workflows:
        return end("skipped")
    with (
        users_code_prints_to_stderr(),
        catch_up(REGISTRY.code_of, since_checkpoint(events)) as (replayer, problem),
    ):
        if problem is not None:
            return end("mismatch", problem)
        try:
            check_ending(REGISTRY, started, events[-1], replayer.closing)
        except NondeterminismError as error:
            return end("mismatch", _problem(error))
        if fold(events).unprocessed:
            # What the next task would see, as far as it is recorded. What the code
            # would do then goes nowhere.
            problem = replayer.process(WorkflowTask(events[-1].time)).failure
    return end("ok") if problem is None else end("stuck", problem)


def _problem(error: NondeterminismError) -> WorkflowTaskFailure:
    failure = Failure(message=error.message, type=type(error).__name__)
    return WorkflowTaskFailure(TaskFailureKind.NONDETERMINISM, failure, error)


def _message_of(problem: WorkflowTaskFailure) -> str:
    if isinstance(problem.error, DurableError):
        return problem.error.message
    return f"The code raises {summary_of(problem.failure)}"


# --- a file ---------------------------------------------------------------------------


def _read_file(path: str) -> list[HistoryRow]:
    """Read a history from JSON Lines, or from one JSON array.

    Raises:
        click.UsageError: it is neither, or its values were left out.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        is_array = text.lstrip().startswith("[")
        recorded = _many.decode(text) if is_array else _one.decode_lines(text)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path!r} cannot be read: {error}.") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise click.UsageError(
            f"{path!r} is not what 'durable history --json --payloads' writes: {error}."
        ) from None
    rows: list[HistoryRow] = [
        (
            path,
            event.event_id,
            event.task_number,
            event.type,
            from_datetime(event.time),
            bytes(event.data).decode(),
            event.flags,
        )
        for event in recorded
    ]
    if _is_without_values(rows):
        raise click.UsageError(
            f"{path!r} lacks the recorded values; write it with --payloads."
        )
    return rows


def _is_without_values(rows: list[HistoryRow]) -> bool:
    try:
        events = decode_rows(rows)
    except CorruptHistoryError:
        return False  # reported in its place
    return any(
        payload.encoding == JSON_PLAIN and not bytes(payload.json)
        for event in events
        for payload in payloads_of(event.attributes)
    )


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

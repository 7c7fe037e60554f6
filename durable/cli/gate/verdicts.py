"""Judges one recorded run by the code that is loaded: does it ask for the same again?

Nothing is written and no activity runs: a replayer takes the recorded events, and
whatever else the code asks for goes nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from durable.api.endings import check_ending
from durable.api.registry import REGISTRY
from durable.cli.gate.patches import patch_for
from durable.cli.gate.places import first_line, place_of_ending, place_of_error
from durable.cli.output import users_code_prints_to_stderr
from durable.core.folding.fold import fold
from durable.core.history.codec import at_version, decode_rows
from durable.core.history.events import HistoryEvent, WorkflowExecutionStarted
from durable.core.history.payload import Failure, summary_of
from durable.core.replay.catching_up import catch_up, since_checkpoint
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskFailure,
)
from durable.errors import CorruptHistoryError, DurableError, NondeterminismError
from durable.store.records import HistoryRow

Verdict: TypeAlias = Literal["ok", "mismatch", "stuck", "corrupt", "skipped"]
"""How a replay went.

ok: the code asks for what is recorded. mismatch: it asks for something else, or raises.
stuck: it does, but fails on the events that no workflow task has taken yet. corrupt: a
row cannot be read. skipped: no module that was given defines the workflow.
"""

FAILING: Final[tuple[Verdict, ...]] = ("mismatch", "stuck", "corrupt")


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one history; the keys of `--json`.

    Attributes:
        recorded_at: the `file:line`, as of then, that asked for what is recorded.
        code_at: the `file:line` where the code stands instead.
        patch: code to write there, if a patch can keep the run going.
    """

    verdict: Verdict
    workflow_id: str
    run_id: str
    workflow_type: str
    event_count: int
    version: str | None = None
    message: str | None = None
    event_id: int | None = None
    recorded: str | None = None
    found: str | None = None
    stack_trace: str | None = None
    recorded_at: str | None = None
    code_at: str | None = None
    patch: str | None = None


def replay_rows(rows: Sequence[HistoryRow], version: str | None = None) -> Replayed:
    """Replay one history as the database holds it.

    Args:
        rows: its rows.
        version: which version's code; by default that which began it.
    """
    try:
        events, started = read_rows(rows, version)
    except CorruptHistoryError as error:
        return Replayed(
            verdict="corrupt",
            workflow_id="?",
            run_id=rows[0][0] if rows else "?",
            workflow_type="?",
            event_count=len(rows),
            message=error.message,
        )
    return replay_history(events, started)


def read_rows(
    rows: Sequence[HistoryRow], version: str | None = None
) -> tuple[list[HistoryEvent], WorkflowExecutionStarted]:
    """Decode a history; return its first event's facts apart.

    Raises:
        CorruptHistoryError: it is no history.
    """
    events = decode_rows(rows)
    if version is not None:
        events = at_version(events, version)
    started = events[0].attributes if events else None
    if not isinstance(started, WorkflowExecutionStarted):
        raise CorruptHistoryError("It does not begin with WorkflowExecutionStarted.")
    return events, started


def replay_history(
    events: Sequence[HistoryEvent], started: WorkflowExecutionStarted
) -> Replayed:
    """Replay one history against the workflows that are registered."""
    if REGISTRY.find_workflow(started.workflow_type, started.version) is None:
        return _verdict("skipped", events, started)
    with (
        users_code_prints_to_stderr(),
        catch_up(REGISTRY.code_of, since_checkpoint(events)) as (replayer, problem),
    ):
        if problem is not None:
            return _explained("mismatch", events, started, replayer, problem)
        try:
            check_ending(REGISTRY, started, events[-1], replayer.closing)
        except NondeterminismError as error:
            failure = Failure(message=error.message, type=type(error).__name__)
            problem = WorkflowTaskFailure(
                TaskFailureKind.NONDETERMINISM, failure, error
            )
            return _explained("mismatch", events, started, replayer, problem)
        if fold(events).unprocessed:
            # What the next task would see, as far as it is recorded. What the code
            # would do then goes nowhere.
            problem = replayer.process(WorkflowTask(events[-1].time)).failure
            if problem is not None:
                return _explained("stuck", events, started, replayer, problem)
    return _verdict("ok", events, started)


def _verdict(
    verdict: Verdict,
    events: Sequence[HistoryEvent],
    started: WorkflowExecutionStarted,
) -> Replayed:
    return Replayed(
        verdict=verdict,
        workflow_id=started.workflow_id,
        run_id=started.run_id,
        workflow_type=started.workflow_type,
        version=started.version,
        event_count=len(events),
    )


def _explained(
    verdict: Verdict,
    events: Sequence[HistoryEvent],
    started: WorkflowExecutionStarted,
    replayer: Replayer,
    problem: WorkflowTaskFailure,
) -> Replayed:
    error = problem.error
    plain = _verdict(verdict, events, started)
    message = (
        error.message
        if isinstance(error, DurableError)
        else f"The code raises {summary_of(problem.failure)}"
    )
    if not isinstance(error, NondeterminismError):
        return msgspec.structs.replace(
            plain,
            message=message,
            stack_trace=problem.failure.stack_trace,
            code_at=place_of_error(error) or first_line(REGISTRY.code_of(started)),
        )
    code_at = error.found_at or replayer.users_place(None)
    if not code_at:
        code_at = place_of_ending(REGISTRY.code_of(started), since_checkpoint(events))
    return msgspec.structs.replace(
        plain,
        message=message,
        event_id=error.event_id,
        recorded=error.recorded,
        found=error.found,
        recorded_at=error.recorded_at,
        code_at=code_at or None,
        patch=patch_for(events, started.workflow_type, error, code_at),
    )

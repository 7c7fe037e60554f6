"""Brings code to where a run's history ends, for whoever looks at it from outside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from durable.core.history.events import CheckpointRecorded, HistoryEvent
from durable.core.replay.replayer import Replayer
from durable.core.runtime import WorkflowCode
from durable.core.workflow_task import WorkflowTask, WorkflowTaskFailure


@contextmanager
def catch_up(
    code: Callable[[Any], WorkflowCode],
    history: Sequence[HistoryEvent],
    now: int | None = None,
) -> Generator[tuple[Replayer, WorkflowTaskFailure | None]]:
    """Replay a history and no more; give the replayer, and what went wrong.

    The replayer may be driven on, and is torn down in the end.

    Args:
        code: finds the code by the run's first event.
        history: as it was recorded; it holds at least the first event.
        now: the time of the run; that of its last event by default.
    """
    time = history[-1].time if now is None else now
    replayer = Replayer(code)
    try:
        task = WorkflowTask(time, (), tuple(history), is_replay_only=True)
        yield replayer, replayer.process(task).failure
    finally:
        replayer.tear_down()


def since_checkpoint(events: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    """A history as workers read it: nothing but its first event before a checkpoint."""
    begin = 1
    for index, event in enumerate(events):
        if type(event.attributes) is CheckpointRecorded:
            begin = index
    return [*events[:1], *events[begin:]]

"""`durable show` tells which activities were under way on a worker that is dead."""

from __future__ import annotations

import msgspec
import pytest

from durable.cli.timeline import render_run
from durable.core.folding.fold import fold
from durable.store.activity_tasks import TaskState
from durable.store.records import AttemptRecord, AttemptState, LoadedRun
from durable.telling.pending import find_lost
from durable.testing.contract.rows import make_worker
from tests.unit.cli.timelines.test_timeline import (
    RECORD,
    SECOND,
    STARTED,
    T0,
    WORKER,
    history,
    scheduled,
)

EVENTS = history((0, STARTED), (0, scheduled("charge", 1)))
NOW = T0 + 21 * SECOND
BACKOFF = AttemptRecord(
    run_id=RECORD.run_id,
    scheduled_event_id=2,
    attempt=2,
    activity_type="charge",
    state=AttemptState.BACKOFF,
    due_at=NOW + SECOND,
)


@pytest.mark.parametrize(
    ("owner", "lease", "tasks", "told"),
    [
        (WORKER, 1, {}, "attempt 1 under way for 21 s"),
        (WORKER, 0, {}, f"interrupted: its worker {WORKER} is dead"),
        (None, 1, {}, "interrupted: its worker has given it up"),
        (None, 1, {2: TaskState.CLAIMED}, "attempt 1 under way for 21 s"),
        (WORKER, 1, {2: TaskState.LOST}, "ago, interrupted: its worker is dead"),
    ],
)
def test_what_nothing_runs_any_more_is_interrupted(
    owner: str | None, lease: int, tasks: dict[int, TaskState], told: str
) -> None:
    record = msgspec.structs.replace(RECORD, owner=owner)
    run = LoadedRun(record=record, rows=[], messages=[], attempts=[], tasks=tasks)
    workers = [make_worker(WORKER, lease_expires_at=NOW + lease)]

    lost = find_lost(run, fold(EVENTS), workers, NOW)
    line = render_run(record, EVENTS, [], now=NOW, lost=lost)[-1]

    assert line.startswith("  charge  activity 1, attempt 1")
    assert line.endswith(told)


def test_what_waits_for_its_next_attempt_is_not_interrupted() -> None:
    lost = {2: "its worker is dead"}

    line = render_run(RECORD, EVENTS, [BACKOFF], now=NOW, lost=lost)[-1]

    assert "attempt 2 due in 1 s" in line
    assert "interrupted" not in line

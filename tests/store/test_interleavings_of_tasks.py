"""Activities that anyone may take: two groups at once end as if one had come later.

As in `test_interleavings.py`. Each of these was left out by hand, and here is what
failed then:

- tasks that are looked at locked FOR UPDATE: `two_completions`, `retry_and_cancel`,
  `retry_and_withdrawal`, `completion_and_expiry`, `completion_and_cancel`,
  `completion_by_operator_and_settling`;
- a task that is replaced in its place, not deleted and inserted: `retry_and_cancel`;
- tasks that are claimed or judged: `two_claims_of_tasks`, `two_judges`;
- the row of the worker that claims: `reaper_and_claim_of_task`;
- the look that is repeated as the task is gone: `one_completion_twice`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from durable.store.activity_tasks import (
    BeatActivityTask,
    ClaimActivityTasks,
    CompleteActivity,
    SettleActivityTask,
    TakeExpiredTasks,
    TaskCancel,
    TaskState,
    UpdateActivityTask,
)
from durable.store.lease import ReleaseWorker
from durable.store.records import (
    NEVER,
    ActivityTaskRecord,
    DeleteRuns,
    ReapWorkers,
    RecordAttempts,
    RepairRun,
    StartRun,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    make_attempt,
    make_closing,
    make_commit,
    make_settling,
    make_start,
    make_task,
    make_termination,
)
from tests.store import test_interleavings as interleavings
from tests.store.stage import Scene, Stage

stage = interleavings.stage

EXTERNAL = TaskState.EXTERNAL

# --- what meets what ------------------------------------------------------------------


def task(p: str, event_id: int = 2, **changes: Any) -> ActivityTaskRecord:
    # Its type is the scene's own, and so are its claims.
    return make_task(p + "r", event_id, **({"activity_type": p, "due_at": 1} | changes))


def run_with(p: str, *tasks: ActivityTaskRecord, **changes: Any) -> StartRun:
    return make_start(p + "r", tasks=tasks, **({"owner": p + "1"} | changes))


def claim(p: str, limit: int = 2) -> ClaimActivityTasks:
    return ClaimActivityTasks(queues=((QUEUE, (p,)),), limit=limit)


def settling(p: str, event_id: int = 2, **changes: Any) -> SettleActivityTask:
    attempt = make_attempt(p + "r", 1, scheduled_event_id=event_id)
    return make_settling(p + "r", event_id, attempts=(attempt,), **changes)


def retry(p: str) -> SettleActivityTask:
    return settling(p, message=None, next=task(p, attempt=2))


def completion(p: str, event_id: int = 2, **changes: Any) -> CompleteActivity:
    fields: dict[str, Any] = {
        "namespace": NAMESPACE,
        "workflow_id": None,
        "run_id": p + "r",
        "scheduled_event_id": event_id,
        "attempt": 1,
        "request_id": "done",
        "message": "{}",
    }
    return CompleteActivity(**(fields | changes))


def cancel(p: str, **changes: Any) -> Any:
    return make_commit(p + "r", cancels=(TaskCancel(2, "stop", "{}"),), **changes)


def closing(p: str) -> Any:
    return make_closing(p + "r", has_tasks=True)


def claimed(p: str, *operations: Any, **changes: Any) -> Any:
    """A run of worker 1, whose task worker 2 has claimed."""
    return ([run_with(p, task(p), **changes), *operations], [claim(p)])


def outside(p: str, **changes: Any) -> Any:
    return ([run_with(p, task(p, state=EXTERNAL, **changes))], [])


def beat(p: str, event_id: int, **changes: Any) -> BeatActivityTask:
    return BeatActivityTask(
        run_id=p + "r", scheduled_event_id=event_id, attempt=1, **changes
    )


def two_claims_of_tasks(p: str) -> Scene:
    before = [run_with(p, *(task(p, n) for n in (2, 3, 4)))]
    return Scene((before, []), [claim(p)], [claim(p)], passes_by=True)


def two_judges(p: str) -> Scene:
    tasks = [task(p, n, expires_at=n) for n in (2, 3, 4)]
    take = TakeExpiredTasks(limit=2)
    return Scene(([run_with(p, *tasks)], []), [take], [take], passes_by=True)


def claim_of_task_and_close(p: str) -> Scene:
    before = [run_with(p, task(p), task(p, 3))]
    return Scene((before, []), [closing(p)], [claim(p)], passes_by=True)


def claim_of_task_and_termination(p: str) -> Scene:
    before = [run_with(p, task(p))]
    end = make_termination(p + "r")
    return Scene((before, []), [claim(p)], [end], passes_by=True)


def claim_of_task_and_cancel(p: str) -> Scene:
    before = [run_with(p, task(p))]
    return Scene((before, []), [cancel(p)], [claim(p)], passes_by=True)


def claim_of_task_and_withdrawal(p: str) -> Scene:
    before = [run_with(p, task(p))]
    taken_back = make_commit(p + "r", withdrawn=(2,))
    return Scene((before, []), [taken_back], [claim(p)], passes_by=True)


def claim_of_task_and_pause(p: str) -> Scene:
    pause = UpdateActivityTask(
        run_id=p + "r",
        scheduled_event_id=2,
        attempt=1,
        state=TaskState.WAITING,
        due_at=NEVER,
    )
    before = [run_with(p, task(p))]
    return Scene((before, []), [pause], [claim(p)], passes_by=True)


def settling_and_close(p: str) -> Scene:
    return Scene(claimed(p), [closing(p)], [settling(p)])


def settling_and_termination(p: str) -> Scene:
    return Scene(claimed(p), [make_termination(p + "r")], [settling(p)])


def retry_and_close(p: str) -> Scene:
    return Scene(claimed(p), [closing(p)], [retry(p)])


def retry_and_cancel(p: str) -> Scene:
    return Scene(claimed(p), [cancel(p)], [retry(p)])


def settling_and_cancel(p: str) -> Scene:
    return Scene(claimed(p), [cancel(p)], [settling(p)])


def settling_and_withdrawal(p: str) -> Scene:
    taken_back = make_commit(p + "r", withdrawn=(2,))
    return Scene(claimed(p), [taken_back], [settling(p)])


def retry_and_withdrawal(p: str) -> Scene:
    taken_back = make_commit(p + "r", withdrawn=(2,))
    return Scene(claimed(p), [taken_back], [retry(p)])


def settling_and_rest(p: str) -> Scene:
    rest = make_commit(p + "r", update_run=True, is_active=False)
    return Scene(claimed(p), [rest], [settling(p)])


def settling_and_replacement(p: str) -> Scene:
    recording = RecordAttempts(
        run_id=p + "r",
        attempts=(),
        is_active=False,
        wake_at=None,
        tasks=(task(p, attempt=2),),
    )
    return Scene(claimed(p), [recording], [settling(p)])


def settling_and_repair(p: str) -> Scene:
    repair = RepairRun(run_id=p + "r", expected=(1, 2), keep=1)
    return Scene(claimed(p), [repair], [settling(p)])


def settling_and_deletion(p: str) -> Scene:
    delete = DeleteRuns(run_ids=(p + "r",))
    before = claimed(p)
    before[1].append(make_termination(p + "r"))
    return Scene(before, [delete], [settling(p)])


def settlings_of_two(p: str) -> Scene:
    """In the order of neither runs nor tasks."""
    before = [run_with(p, task(p), task(p, 3), task(p, 4), task(p, 5))]
    one = [settling(p, 5), settling(p, 2)]
    return Scene((before, [claim(p, 4)]), [cancel(p)], one)


def completion_and_expiry(p: str) -> Scene:
    run, _ = outside(p, expires_at=1)
    take = TakeExpiredTasks(limit=1)
    return Scene((run, [take]), [completion(p)], [settling(p)])


def completion_and_close(p: str) -> Scene:
    return Scene(outside(p), [closing(p)], [completion(p)])


def completion_and_cancel(p: str) -> Scene:
    return Scene(outside(p), [cancel(p)], [completion(p)])


def completion_by_operator_and_settling(p: str) -> Scene:
    return Scene(claimed(p), [completion(p, attempt=None)], [settling(p)])


def two_completions(p: str) -> Scene:
    other = completion(p, request_id="other")
    return Scene(outside(p), [completion(p)], [other])


def one_completion_twice(p: str) -> Scene:
    return Scene(outside(p), [completion(p)], [completion(p)])


def beats_of_each_others_tasks(p: str) -> Scene:
    tasks = [task(p, n, state=EXTERNAL) for n in (2, 3)]
    one = [beat(p, n, progress=f"{n}", is_external=True) for n in (2, 3)]
    other = [beat(p, n, progress=f"1{n}", is_external=True) for n in (3, 2)]
    return Scene(([run_with(p, *tasks)], []), one, other)


def beat_and_cancel(p: str) -> Scene:
    return Scene(claimed(p), [cancel(p)], [beat(p, 2, progress="1")])


def beat_and_reset_by_operator(p: str) -> Scene:
    change = UpdateActivityTask(
        run_id=p + "r",
        scheduled_event_id=2,
        attempt=1,
        state=TaskState.CLAIMED,
        cancel="paused",
    )
    return Scene(claimed(p), [change], [beat(p, 2, progress="1")])


def reaper_and_settling(p: str) -> Scene:
    reap = ReapWorkers(presumed_dead=(p + "2",))
    return Scene(claimed(p), [reap], [settling(p)], passes_by=True)


def reaper_and_claim_of_task(p: str) -> Scene:
    reap = ReapWorkers(presumed_dead=(p + "2",))
    before = [run_with(p, task(p))]
    return Scene((before, []), [reap], [claim(p)], passes_by=True)


def reaper_and_close_with_task(p: str) -> Scene:
    reap = ReapWorkers(presumed_dead=(p + "2",))
    before = claimed(p)
    return Scene((before[0], before[1]), [closing(p)], [reap], passes_by=True)


def release_of_worker_and_cancel(p: str) -> Scene:
    return Scene(claimed(p), [cancel(p)], [ReleaseWorker()])


SCENES: list[Callable[[str], Scene]] = [
    found
    for found in list(globals().values())
    if getattr(found, "__annotations__", {}).get("return") == "Scene"
]

# --- the tests ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.sweep(12)
@pytest.mark.parametrize("make_scene", SCENES, ids=lambda scene: scene.__name__)
def test_two_groups_end_as_if_one_had_come_after_the_other(
    stage: Stage, make_scene: Callable[[str], Scene]
) -> None:
    interleavings.check_scene(stage, make_scene)

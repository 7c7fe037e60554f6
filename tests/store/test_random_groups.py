"""Four stores of one database carry out groups drawn at random, all at once.

Everybody writes to everything, in groups whose operations come in no order of ids: who
took locks in the order of operations would deadlock in one of ten groups.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durable.errors import (
    ActivityNotFoundError,
    AttemptOverError,
    HistoryTakenError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import IdConflictPolicy
from durable.store.activity_tasks import (
    BeatActivityTask,
    ClaimActivityTasks,
    CompleteActivity,
)
from durable.store.lease import RegisterWorker, ReleaseWorker
from durable.store.records import (
    ActivityTaskRecord,
    CommitTask,
    Committed,
    MailArrived,
    Started,
    StartRun,
    TaskCancel,
    TaskKey,
    TaskState,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_commit,
    make_message,
    make_settling,
    make_start,
    make_task,
    make_termination,
    make_worker,
)
from tests.store.invariants import Message, find_violations
from tests.store.stage import Stage, find_acknowledged, find_seen, ignore, make_executor

GROUPS = 1_000
STORES = 4
NAMES = [f"n{n}" for n in range(40)]
TASKS: list[TaskKey] = []
"""Those that anybody has begun."""
EXPECTED = {
    type(None),
    ActivityNotFoundError,
    AttemptOverError,
    HistoryTakenError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
}


class Actor:
    """One worker, which remembers the runs that it has begun, and some of others."""

    def __init__(self, number: int, url: str, seed: str, known: list[str]) -> None:
        self.executor = make_executor(url)
        self.known = known
        self.owned: dict[str, int] = {}
        self.claimed: set[TaskKey] = set()
        self.mail: dict[str, tuple[str, ...]] = {}
        self.acknowledged: list[Message] = []
        self.seen: list[Message] = []
        self.errors: Counter[type[Any]] = Counter()
        self._draw = random.Random(f"{seed} {number}")
        self._ids = (
            f"{self._draw.randrange(10_000):04}-{number}-{n}" for n in _count()
        )
        self._begin_anew()

    def act(self, groups: int) -> None:
        for _ in range(groups):
            if self._draw.random() < 0.03:
                self._begin_anew()
            drawn = [self._draw_operation() for _ in range(self._draw.randint(1, 8))]
            # Two of one run would depend on each other's outcomes.
            operations = list({id(o) if r is None else r: o for r, o in drawn}.values())
            outcomes, _ = self.executor.execute(operations)
            for operation, (result, error) in zip(operations, outcomes, strict=True):
                self._note(operation, result, error)
        self.executor.close()

    def _begin_anew(self) -> None:
        """Leave all runs to nobody, and be another worker."""
        self.owned.clear()
        self.claimed.clear()
        self.name = f"worker {next(self._ids)}"
        register = RegisterWorker(make_worker(self.name), ignore)
        self.executor.execute([ReleaseWorker(), register])

    def _draw_operation(self) -> tuple[str | None, Any]:
        choice = self._draw.random()
        if self.owned and choice < 0.4:
            run_id = self._draw.choice(list(self.owned))
            return run_id, self._draw_commit(run_id)
        if choice < 0.55:
            return None, self._draw_of_task()
        name = self._draw.choice(NAMES)
        if choice < 0.7:
            return None, make_message(name, f"m{next(self._ids)}", workflow_id=name)
        if choice < 0.73:
            return None, make_termination(name, workflow_id=name)
        return None, self._draw_start(name)

    def _draw_of_task(self) -> Any:
        """Of a task that this worker has claimed, or of anybody's."""
        claim = ClaimActivityTasks(queues=((QUEUE, None),), limit=4)
        if not TASKS or self._draw.random() < 0.2:
            return claim
        run_id, event_id = key = self._draw.choice(TASKS[-60:])
        place: dict[str, Any] = {"run_id": run_id, "scheduled_event_id": event_id}
        if self.claimed and self._draw.random() < 0.6:
            key = self._draw.choice(sorted(self.claimed))
            if self._draw.random() < 0.7:
                self.claimed.discard(key)
                attempt = make_attempt(key[0], 1, scheduled_event_id=key[1])
                return make_settling(*key, attempts=(attempt,))
            place = {"run_id": key[0], "scheduled_event_id": key[1]}
            return BeatActivityTask(**place, attempt=1, progress="{}")
        if self._draw.random() < 0.5:
            return BeatActivityTask(**place, attempt=1, is_external=True)
        return CompleteActivity(
            namespace=NAMESPACE,
            workflow_id=None,
            **place,
            attempt=None,
            request_id=f"out{next(self._ids)}",
            message="{}",
        )

    def _draw_tasks(self, run_id: str) -> tuple[ActivityTaskRecord, ...]:
        states = (TaskState.WAITING, TaskState.WAITING, TaskState.EXTERNAL)
        found = tuple(
            make_task(run_id, n, due_at=1, state=self._draw.choice(states))
            for n in range(1, self._draw.randint(1, 4))
        )
        TASKS.extend(one.key for one in found)
        return found

    def _draw_start(self, name: str) -> StartRun:
        run_id = next(self._ids)
        changes: dict[str, Any] = {
            "workflow_id": name,
            "owner": self._draw.choice([self.name, self.name, None]),
            # Ids are in another order than what workers own.
            "wake_at": self._draw.randrange(START),
            "conflict_policy": self._draw.choice(list(IdConflictPolicy)),
            "terminated_data": "{}",
            "tasks": self._draw_tasks(run_id),
        }
        if not self.known or self._draw.random() < 0.4:
            return make_start(run_id, **changes)
        parent = self._draw.choice(self.known[-60:])
        policy = self._draw.choice(["terminate", "terminate", "request_cancel"])
        # The parent's name is part of its address.
        parent_name = parent.partition("@")[2]
        return make_child(
            run_id,
            parent.partition("@")[0],
            policy,
            parent_workflow_id=parent_name,
            **changes,
        )

    def _draw_commit(self, run_id: str) -> CommitTask:
        first = self.owned[run_id]
        consumed = self.mail.pop(run_id, ())
        name = self._draw.choice(NAMES)
        letter = make_message(name, f"m{next(self._ids)}", workflow_id=name)
        changes: dict[str, Any] = {"consumed_requests": consumed}
        if self._draw.random() < 0.3:
            changes["messages"] = (letter,)
        events = [n for run, n in TASKS if run == run_id]
        changes["cancels"] = tuple(TaskCancel(n, "stop", "{}") for n in events[:1])
        changes["withdrawn"] = tuple(events[1:2])
        if self._draw.random() < 0.5:
            changes |= {"has_children": True, "has_tasks": True}
            return make_closing(run_id, first, first, **changes)
        is_active = self._draw.random() < 0.7
        return make_commit(
            *(run_id, first, first),
            update_run=True,
            is_active=is_active,
            wake_at=self._draw.randrange(START),
            **changes,
        )

    def _note(self, operation: Any, result: Any, error: BaseException | None) -> None:
        self.errors[type(error)] += 1
        if isinstance(operation, ClaimActivityTasks) and error is None:
            self.claimed.update(one.key for one in result)
        if isinstance(operation, CommitTask):
            self._note_commit(operation, result, error)
        if error is not None:
            return
        self.acknowledged += find_acknowledged(operation, result)
        self.seen += find_seen(operation, result)
        if isinstance(operation, StartRun) and isinstance(result, Started):
            record = operation.record
            if result.created:
                self.known.append(f"{record.run_id}@{record.workflow_id}")
                if record.owner:
                    self.owned[record.run_id] = 3

    def _note_commit(
        self, operation: CommitTask, result: Any, error: BaseException | None
    ) -> None:
        run_id = operation.run_id
        if isinstance(result, MailArrived):
            self.mail[run_id] = tuple(m.request_id for m in result.messages)
        elif error is not None or operation.status or not operation.is_active:
            self.owned.pop(run_id, None)
        else:
            assert result is None or isinstance(result, Committed)
            self.owned[run_id] += 1


def _count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres_url", "mariadb_url"])
def test_random_groups_lose_nothing_and_never_deadlock(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(kind)
    seed = str(random.randrange(1 << 32))
    known: list[str] = []
    TASKS.clear()
    actors = [Actor(n, url, seed, known) for n in range(STORES)]
    with ThreadPoolExecutor(STORES) as pool:
        for done in [pool.submit(actor.act, GROUPS // STORES) for actor in actors]:
            done.result()

    errors = sum((actor.errors for actor in actors), Counter[type[Any]]())
    assert errors.keys() <= EXPECTED, (seed, errors)
    assert errors[type(None)] > GROUPS, (seed, errors)
    looker = Stage(url)
    found = find_violations(
        looker.execute,
        [message for actor in actors for message in actor.acknowledged],
        [message for actor in actors for message in actor.seen],
    )
    assert found == {}, seed
    looker.check_tasks()
    looker.await_end_of_others()
    assert looker.count_deadlocks() == 0, seed
    looker.close()

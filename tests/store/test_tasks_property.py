"""Whatever is done to tasks, in whatever groups, they are as dicts say they must be.

Two workers claim, settle, beat and judge at random, runs close and cancel, operators
step in, workers die. The dicts know nothing of groups, looks or locks.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable.store.activity_tasks import (
    RUN_CLOSED,
    BeatActivityTask,
    CancelArrived,
    ClaimActivityTasks,
    CompleteActivity,
    SettleActivityTask,
    TakeExpiredTasks,
    TaskCancel,
    TaskKey,
    TaskState,
    UpdateActivityTask,
    request_of_cancel,
)
from durable.store.connect import connect
from durable.store.queries import ListActivityTasks, ReadMessages, TaskFilter
from durable.store.records import (
    NEVER,
    ActivityTaskRecord,
    Committed,
    MailArrived,
    ReapWorkers,
)
from durable.store.store import Store
from durable.testing.contract.rows import (
    QUEUE,
    START,
    SettableClock,
    make_closing,
    make_commit,
    make_start,
    make_task,
    make_termination,
    make_worker,
    perform_all,
)
from tests.sizes import examples

replace = msgspec.structs.replace
Tasks = dict[TaskKey, ActivityTaskRecord]
WAITING, CLAIMED, LOST, EXTERNAL = TaskState
TYPES = ("charge", "ship")
_worlds = itertools.count(1_000)


class Model:
    """What there must be, after each operation by itself."""

    def __init__(self) -> None:
        self.now = START
        self.tasks: Tasks = {}
        self.mail: dict[str, list[str]] = {}
        self.open: set[str] = set()
        self.epochs: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.workers: set[str] = set()

    def apply(self, operation: Any, me: str) -> Any:
        """Return the result, or the name of the error."""
        return getattr(self, type(operation).__name__)(operation, me)

    def StartRun(self, start: Any, _: str) -> Any:
        run_id = start.record.run_id
        self.open.add(run_id)
        self.mail[run_id], self.epochs[run_id], self.events[run_id] = [], 0, 2
        self.tasks.update((one.key, one) for one in start.tasks)
        return "started"

    def CommitTask(self, commit: Any, _: str) -> Any:
        run_id = commit.run_id
        if (
            run_id not in self.open
            or commit.epoch != self.epochs[run_id]
            or commit.rows[0][1] != self.events[run_id] + 1
        ):
            return "HistoryTakenError"
        if commit.status is not None and self.mail[run_id]:
            return "mail"
        self.events[run_id] += 1
        for event_id in commit.withdrawn:
            self.tasks.pop((run_id, event_id), None)
        self.tasks.update((one.key, one) for one in commit.tasks)
        stopped = []
        for event_id, reason, _message in commit.cancels:
            key = (run_id, event_id)
            one = self.tasks.get(key)
            if one is not None and one.state in (CLAIMED, LOST):
                self.tasks[key] = replace(one, cancel=reason)
            elif one is not None:
                stopped.append(event_id)
                self._end(key, request_of_cancel(event_id))
        if commit.status is not None:
            self._close(run_id)
        else:
            self.epochs[run_id] += 1
        return Committed(stopped=tuple(stopped)) if commit.cancels else None

    def TerminateRun(self, end: Any, _: str) -> Any:
        if end.run_id not in self.open:
            return "WorkflowClosedError"
        self._close(end.run_id)
        return "terminated"

    def _close(self, run_id: str) -> None:
        self.open.discard(run_id)
        self.mail[run_id] = []
        for key, one in list(self.tasks.items()):
            if key[0] == run_id and one.state is CLAIMED:
                self.tasks[key] = replace(one, cancel=RUN_CLOSED)
            elif key[0] == run_id:
                del self.tasks[key]

    def _end(self, key: TaskKey, request_id: str | None) -> None:
        del self.tasks[key]
        if request_id is not None and request_id not in self.mail[key[0]]:
            self.mail[key[0]].append(request_id)

    def ClaimActivityTasks(self, claim: Any, me: str) -> Any:
        found: list[ActivityTaskRecord] = []
        for queue, types in claim.queues:
            due = [
                one
                for one in self.tasks.values()
                if one.state is WAITING
                and one.task_queue == queue
                and (types is None or one.activity_type in types)
                and one.due_at <= self.now
                and (one.expires_at is None or one.expires_at > self.now)
            ]
            due.sort(key=lambda one: (one.priority, one.due_at, one.key))
            found += due[: max(0, claim.limit - len(found))]
        changes: dict[str, Any] = {"state": CLAIMED, "worker_id": me}
        changes |= {"started_at": self.now, "heartbeat_at": None}
        nothing = dict.fromkeys(("expires_at", "judge_id", "cancel"))
        return self._take(found, **changes, **nothing)

    def _take(self, found: list[ActivityTaskRecord], **changes: Any) -> Any:
        taken = tuple(replace(one, **changes) for one in found)
        self.tasks.update((one.key, one) for one in taken)
        return taken

    def TakeExpiredTasks(self, take: Any, me: str) -> Any:
        found = [
            one
            for one in self.tasks.values()
            if one.expires_at is not None
            and one.expires_at <= self.now
            and one.state is not CLAIMED
            and one.judge_id not in self.workers
        ]
        found.sort(key=lambda one: (one.expires_at, one.key))
        return self._take(found[: take.limit], judge_id=me)

    def SettleActivityTask(self, settle: Any, me: str) -> Any:
        key = (settle.run_id, settle.scheduled_event_id)
        one = self.tasks.get(key)
        if (
            one is None
            or one.attempt != settle.attempt
            or me != (one.worker_id if one.state is CLAIMED else one.judge_id)
        ):
            return "AttemptOverError"
        if key[0] not in self.open:
            del self.tasks[key]
            return False
        if settle.next is not None:
            if one.cancel not in (None, settle.cancel):
                return CancelArrived(one.cancel or "")
            self.tasks[key] = settle.next
        else:
            self._end(key, settle.request_id if settle.message else None)
        return True

    def CompleteActivity(self, done: Any, _: str) -> Any:
        key = (done.run_id, done.scheduled_event_id)
        one = self.tasks.get(key)
        if key[0] in self.open and done.request_id in self.mail[key[0]]:
            return key[0]
        if one is None or key[0] not in self.open:
            return "ActivityNotFoundError"
        if done.attempt is not None and (one.state, one.attempt) != (
            EXTERNAL,
            done.attempt,
        ):
            return "AttemptOverError"
        self._end(key, done.request_id)
        return key[0]

    def BeatActivityTask(self, beat: Any, me: str) -> Any:
        key = (beat.run_id, beat.scheduled_event_id)
        one = self.tasks.get(key)
        if one is None and beat.is_external:
            return "ActivityNotFoundError"
        if beat.is_external:
            is_held = one is not None and one.state is EXTERNAL
        else:
            is_held = one is not None and (one.state, one.worker_id) == (CLAIMED, me)
        if one is None or not is_held or one.attempt != beat.attempt:
            return "AttemptOverError"
        new: dict[str, Any] = {"heartbeat_at": self.now}
        if beat.progress is not None:
            new["progress"] = beat.progress
        if beat.is_external and beat.expires_at is not None:
            new["expires_at"] = beat.expires_at
        self.tasks[key] = replace(one, **new)
        return one.cancel

    def UpdateActivityTask(self, update: Any, _: str) -> Any:
        key = (update.run_id, update.scheduled_event_id)
        one = self.tasks.get(key)
        if one is None or (one.state, one.attempt) != (update.state, update.attempt):
            return False
        if update.is_reset and one.state is not WAITING:
            return False
        new: dict[str, Any] = {}
        if update.is_reset:
            new = {"attempt": 1, "progress": None}
        if update.due_at is not None:
            new["due_at"] = update.due_at
        if one.state is CLAIMED and update.cancel is not None:
            new["cancel"] = update.cancel or None
        if one.state in (WAITING, EXTERNAL) and update.expires_at is not None:
            new |= {"expires_at": update.expires_at, "judge_id": None}
        self.tasks[key] = replace(one, **new)
        return True

    def lose(self, worker_id: str) -> None:
        """Let a worker be gone."""
        self.workers.discard(worker_id)
        for key, one in self.tasks.items():
            if one.state is CLAIMED and one.worker_id == worker_id:
                self.tasks[key] = replace(one, state=LOST, expires_at=0)


class Draw:
    """Operations at random, upon what the model knows."""

    def __init__(self, model: Model, chance: random.Random, p: str) -> None:
        self._model, self._chance, self._p = model, chance, p

    def operation(self, me: str) -> Any:
        """Return one that a worker may carry out."""
        chance, model = self._chance, self._model
        if len(model.events) < 2 or (len(model.events) < 4 and chance.random() < 0.1):
            return self._start()
        run_id = chance.choice(sorted(model.events))
        known = sorted(model.tasks)
        key = (run_id, 2)
        if known and chance.random() < 0.95:
            key = chance.choice(known)
        one = model.tasks.get(key)
        place: dict[str, Any] = {"run_id": key[0], "scheduled_event_id": key[1]}
        attempt = 1 if one is None else one.attempt
        if chance.random() < 0.1:
            attempt += 1
        name = chance.choice(
            ["commit"] * 3
            + ["claim", "settle"] * 4
            + ["take", "complete"] * 2
            + ["beat", "update"] * 2
            + ["end"]
        )
        if name == "commit" or name == "end":
            return self._commit(run_id, is_end=name == "end")
        if name == "claim":
            types = chance.choice([None, TYPES, TYPES[:1]])
            queues = ((self._p, types), (QUEUE, None))
            return ClaimActivityTasks(queues=queues, limit=chance.randint(0, 3))
        if name == "take":
            return TakeExpiredTasks(limit=chance.randint(1, 3))
        if name == "settle":
            return self._settle(one, attempt, place)
        if name == "complete":
            return CompleteActivity(
                namespace=self._p,
                workflow_id=None,
                **place,
                attempt=chance.choice([attempt, attempt, None]),
                request_id=chance.choice(["out", f"out-{key[1]}"]),
                message="{}",
            )
        later = model.now + chance.randint(0, 3)
        if name == "beat":
            return BeatActivityTask(
                **place,
                attempt=attempt,
                progress=chance.choice([None, "1", "2"]),
                expires_at=chance.choice([None, later]),
                is_external=chance.random() < 0.4,
            )
        return UpdateActivityTask(
            **place,
            attempt=attempt,
            state=chance.choice([WAITING, CLAIMED if one is None else one.state]),
            due_at=chance.choice([None, NEVER, model.now]),
            expires_at=chance.choice([None, later]),
            cancel=chance.choice([None, "", "paused"]),
            is_reset=chance.random() < 0.3,
        )

    def _task(self, run_id: str, event_id: int, **changes: Any) -> ActivityTaskRecord:
        chance, now = self._chance, self._model.now
        fields: dict[str, Any] = {
            "namespace": self._p,
            "task_queue": chance.choice([self._p, self._p, QUEUE]),
            "activity_type": chance.choice(TYPES),
            "priority": chance.choice([1, 3, 3]),
            "due_at": now + chance.randint(-3, 3),
            "expires_at": chance.choice([None, now + chance.randint(0, 4)]),
            "state": chance.choice([WAITING, WAITING, EXTERNAL]),
        }
        return make_task(run_id, event_id, **(fields | changes))

    def _start(self) -> Any:
        run_id = f"{self._p}-{len(self._model.events)}"
        return make_start(
            run_id,
            namespace=self._p,
            tasks=tuple(self._task(run_id, n) for n in (1, 2)),
        )

    def _commit(self, run_id: str, *, is_end: bool) -> Any:
        chance, model = self._chance, self._model
        next_id = model.events[run_id] + 1
        others = [event_id for run, event_id in model.tasks if run == run_id]
        if is_end and chance.random() < 0.5:
            fields = {"namespace": self._p, "run_id": run_id}
            return make_termination(run_id, **fields)
        picked = [n for n in others if chance.random() < 0.3]
        cancels = tuple(TaskCancel(n, "stop", "{}") for n in picked[1:])
        event_id = chance.choice([next_id, next_id, *others])
        changes: dict[str, Any] = {
            "epoch": model.epochs[run_id] + (chance.random() < 0.1),
            "cancels": cancels,
            "withdrawn": tuple(picked[:1]),
            "tasks": (self._task(run_id, event_id),) if chance.random() < 0.6 else (),
        }
        if is_end:
            return make_closing(run_id, next_id, next_id, has_tasks=True, **changes)
        return make_commit(run_id, next_id, next_id, **changes)

    def _settle(
        self, one: ActivityTaskRecord | None, attempt: int, place: Any
    ) -> SettleActivityTask:
        chance = self._chance
        fields = {**place, "attempt": attempt, "request_id": f"done-{attempt}"}
        ending = chance.choice(["message", "next", "neither"])
        if ending == "message":
            return SettleActivityTask(**fields, message="{}")
        if ending == "next" and one is not None:
            then = self._task(*one.key, attempt=one.attempt + 1)
            heard = chance.choice([None, one.cancel])
            return SettleActivityTask(**fields, next=then, cancel=heard)
        return SettleActivityTask(**fields)


async def play(url: str, chance: random.Random, groups: int) -> None:
    clock, model = SettableClock(), Model()
    p = f"w{next(_worlds)}"
    draw = Draw(model, chance, p)
    stores: list[Store] = [connect(url, clock=clock) for _ in range(2)]
    names = [f"{p}-a", f"{p}-b"]
    for store, name in zip(stores, names, strict=True):
        await store.open()
        await _register(store, name, model)
    try:
        for number in range(groups):
            place = chance.randrange(2)
            store, me = stores[place], names[place]
            if chance.random() < 0.08:
                dead = names[1 - place]
                assert await store.perform(ReapWorkers(presumed_dead=(dead,))) == [dead]
                model.lose(dead)
                await stores[1 - place].release_worker()
                names[1 - place] = f"{p}-{number}"
                await _register(stores[1 - place], names[1 - place], model)
            operations, expected = [], []
            for _ in range(chance.randint(1, 5)):
                operations.append(draw.operation(me))
                expected.append(model.apply(operations[-1], me))
            outcomes = await perform_all(store, *operations)
            told = [_shown(one) for one in outcomes]
            assert told == expected, operations
            where = TaskFilter(limit=1_000)
            found = await store.read(ListActivityTasks(p, where))
            assert found == [model.tasks[key] for key in sorted(model.tasks)]
            for run_id, mail in model.mail.items():
                waiting = await store.read(ReadMessages(run_id))
                assert [one.request_id for one in waiting] == mail
            clock.advance(chance.choice([0, 0, 0.000_001, 0.000_002]))
            model.now = clock.at
    finally:
        for store in stores:
            await store.close()


async def _register(store: Store, name: str, model: Model) -> None:
    worker = make_worker(name, namespace=name.partition("-")[0])
    await store.register_worker(worker, lambda: None)
    model.workers.add(name)


def _shown(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        return type(outcome).__name__
    if isinstance(outcome, MailArrived):
        return "mail"
    name = type(outcome).__name__
    return name.lower() if name in ("Started", "Terminated") else outcome


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=examples(150), deadline=None)
def test_tasks_in_memory_are_as_dicts_say(chance: random.Random) -> None:
    asyncio.run(play(f"memory://tasks-{next(_worlds)}", chance, 25))


@given(chance=st.randoms(use_true_random=False))
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_tasks_in_a_file_are_as_dicts_say(
    tmp_path: Path, chance: random.Random
) -> None:
    asyncio.run(play(f"sqlite:///{tmp_path}/{next(_worlds)}.db", chance, 25))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres_url", "mariadb_url"])
def test_tasks_on_a_server_are_as_dicts_say(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(kind)
    seed = random.randrange(1 << 32)
    for number in range(examples(10)):
        chance = random.Random(f"{seed} {number}")
        try:
            asyncio.run(play(url, chance, 25))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, number {number}") from error

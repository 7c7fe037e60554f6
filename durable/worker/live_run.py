"""A run that is in memory: its replayer, what waits to be seen, what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from durable.api.activity_context import ActivityContext
from durable.core.events import ActivityTaskScheduled, WorkflowExecutionStarted
from durable.core.messages import ActivityResolution
from durable.core.payload import Failure
from durable.core.replayer import Replayer
from durable.core.workflow_task import TaskInput
from durable.store.records import AttemptRecord
from durable.worker.activity_code import Code
from durable.worker.activity_threads import ThreadCall
from durable.worker.inputs import key_of


class Attempt:
    """One attempt of an activity that this process runs, or will run."""

    __slots__ = (
        "attempt",
        "code",
        "context",
        "due_at",
        "has_row",
        "has_waited",
        "headers",
        "is_cancel_requested",
        "is_cut_short",
        "is_over",
        "last_failure",
        "lost",
        "problem",
        "run",
        "scheduled",
        "scheduled_at",
        "scheduled_event_id",
        "started_at",
        "task",
        "timer",
        "work",
        "worker_id",
    )

    def __init__(
        self,
        run: LiveRun,
        scheduled_event_id: int,
        scheduled: ActivityTaskScheduled,
        scheduled_at: int,
        *,
        attempt: int = 1,
        lost: int = 0,
        last_failure: Failure | None = None,
    ) -> None:
        self.run = run
        self.scheduled_event_id = scheduled_event_id
        self.scheduled = scheduled
        self.scheduled_at = scheduled_at
        self.attempt = attempt
        self.lost = lost
        """How many attempts before it were lost with their workers."""
        self.last_failure = last_failure
        self.headers = run.task_headers
        """What travels to it from the workflow task that scheduled it."""
        self.started_at = 0
        self.due_at = 0
        """When it may begin, if it waits for its time."""
        self.has_row = attempt > 1
        """A row of the attempts table speaks of it, and must say how it ended."""
        self.worker_id: str | None = None
        """The worker that ran it, if that was another one and a row names it."""
        self.is_cancel_requested = False
        self.is_over = False
        """Its outcome is decided; whatever the function still does is not heard."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.context: ActivityContext | None = None
        """Set by its first step."""
        self.code: Code | None = None
        """What it runs; None until it begins."""
        self.work: ThreadCall | None = None
        """Its call in a thread, if it has one."""
        self.is_cut_short = False
        """The worker that drains could wait no longer, and asked it to stop."""
        self.has_waited = False
        """It was left behind by a worker that does not know its activity."""
        self.problem: Failure | None = None
        """The bug that keeps its outcome from being recorded; it parks the run."""

    def ask_to_stop(self) -> None:
        """Let the function see that it should end."""
        if self.context is not None:
            self.context.cancel()


Question: TypeAlias = tuple[int, Callable[[Replayer], Any], asyncio.Future[Any]]
"""What somebody wants to look at, after how many commits."""


class InputKeys:
    """The keys of a list of inputs that grows, each taken once."""

    __slots__ = ("_count", "_keys", "inputs")

    def __init__(self, inputs: list[TaskInput]) -> None:
        self.inputs = inputs
        self._count = 0
        self._keys: set[str] = set()

    def read(self) -> set[str]:
        """The keys of all that is in the list by now."""
        self._keys.update(map(key_of, self.inputs[self._count :]))
        self._count = len(self.inputs)
        return self._keys


class LiveRun:
    """One run in memory. Only the loop's thread touches it."""

    __slots__ = (
        "acks",
        "attempt_records",
        "attempts",
        "backoffs",
        "commit_count",
        "committing_acks",
        "consumed",
        "consumed_requests",
        "deadline_at",
        "deadline_type",
        "failed_tries",
        "has_mail",
        "headers",
        "held",
        "input_keys",
        "inputs",
        "is_active",
        "is_closed",
        "is_committing",
        "is_dropped",
        "is_holding",
        "is_parked",
        "is_reading",
        "mailed",
        "parent_close_policy",
        "questions",
        "ready_at",
        "refusals",
        "replayer",
        "resolutions",
        "run_id",
        "started",
        "started_at",
        "starting",
        "taken",
        "task_headers",
        "update_mail",
        "wake_at",
        "wants_reload",
        "workflow_id",
        "workflow_type",
    )

    def __init__(
        self,
        started: WorkflowExecutionStarted,
        replayer: Replayer,
        parent_close_policy: str | None = None,
    ) -> None:
        self.started = started
        self.run_id = started.run_id
        self.workflow_id = started.workflow_id
        self.workflow_type = started.workflow_type
        self.parent_close_policy = parent_close_policy
        self.replayer = replayer
        self.headers: Mapping[str, str] = {}
        """What travels with it since its start."""
        self.task_headers: Mapping[str, str] = {}
        """Those, or what an observer made of them in the latest workflow task."""
        self.ready_at = 0
        """When the next turn was due though a commit was on its way; only kept if
        there is an observer."""
        self.started_at = 0
        self.inputs: list[TaskInput] = []
        """Events and updates that no turn has taken, in order of arrival."""
        self.input_keys: InputKeys | None = None
        """Made when `inputs` are first searched."""
        self.consumed: tuple[int, ...] = ()
        """Inbox sequences that `inputs` hold."""
        self.consumed_requests: list[str] = []
        """The same by request id, for what came without being read from the inbox."""
        self.update_mail: dict[str, int] = {}
        """The inbox sequences of updates that are neither accepted nor refused."""
        self.taken: set[int] = set()
        """Inbox sequences that were read; a late read may bring them again."""
        self.mailed: set[str] = set()
        """What of `inputs` came by the inbox, by key."""
        self.acks: list[asyncio.Future[bool]] = []
        """Who waits until `inputs` are durable; then those of the commit under way."""
        self.committing_acks: list[asyncio.Future[bool]] = []
        self.commit_count = 0
        """Its commits that have ended well since it came into memory."""
        self.questions: list[Question] = []
        """Who wants to look at the run once no commit is under way."""
        self.starting: set[int] = set()
        """Children whose start is on its way, by initiated event."""
        self.is_reading = False  # its inbox
        self.held: list[Callable[[], None]] = []
        """What hands in messages of this process after that, or after a commit."""
        self.attempt_records: tuple[AttemptRecord, ...] = ()
        """Attempts that have ended; written with the next turn."""
        self.attempts: dict[int, Attempt] = {}
        """Activities that run or are about to, by scheduled event."""
        self.backoffs: dict[int, Attempt] = {}
        """Activities whose next attempt waits for its time, by scheduled event."""
        self.deadline_at: int | None = None
        self.deadline_type = "run"
        self.failed_tries = 0
        self.refusals = 0
        """Writes of its that the database has refused since the last it took."""
        self.is_committing = self.is_closed = False
        self.is_dropped = False
        """No longer ours: whatever still refers to it must do nothing."""
        self.has_mail = False  # messages were committed that it has not read
        self.is_holding = False  # an attempt with a `problem`
        self.resolutions: list[ActivityResolution] = []  # what was decided of such
        self.is_parked = False
        """Its row says that it is stuck."""
        self.wants_reload = False
        """It has to be read again, once the commit that is on its way has ended."""
        self.is_active = False
        """What the run's row says; likewise `wake_at`."""
        self.wake_at: int | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is under way, so that it may leave memory."""
        return not (
            self.is_committing
            or self.inputs
            or self.attempts
            or self.attempt_records
            or self.starting
            or self.is_reading
            or self.wants_reload
            or self.questions
        )

    def has_input(self, key: str) -> bool:
        """Whether `inputs` hold one of that key, as `key_of` gives it.

        The list may be appended to; for any other change it must be replaced.
        """
        known = self.input_keys
        if known is None or known.inputs is not self.inputs:
            known = self.input_keys = InputKeys(self.inputs)
        return key in known.read()

    def wanted_row(self, *, begins_work: bool = False) -> tuple[bool, int | None]:
        """What its row must say now: `is_active` and `wake_at`.

        Active is what has something under way that a loader alone would find again
        after a crash; `begins_work` says that the write itself begins some.
        """
        is_active = (
            begins_work
            or self.is_committing
            or bool(self.attempts or self.starting or self.inputs)
            # A worker that drains leaves inputs to the next.
            or bool(self.replayer.unprocessed)
        )
        return is_active, self.next_due_at()

    def next_due_at(self) -> int | None:
        """The earliest of its timers, waiting attempts and deadline."""
        earliest = self.replayer.next_timer_at()
        if self.deadline_at is not None:
            earliest = _earlier(earliest, self.deadline_at)
        for attempt in self.backoffs.values():
            earliest = _earlier(earliest, attempt.due_at)
        return earliest


def _earlier(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)

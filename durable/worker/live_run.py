"""A run that is in memory: its replayer, what waits to be seen, what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

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


# Structs, since each run makes some: their fields are set without a step of Python.
class Attempt(msgspec.Struct, eq=False):
    """One attempt of an activity that this process runs, or will run."""

    run: LiveRun
    scheduled_event_id: int
    scheduled: ActivityTaskScheduled
    scheduled_at: int
    headers: Mapping[str, str]
    """What travels to it from the workflow task that scheduled it."""
    attempt: int = 1
    lost: int = 0
    """How many attempts before it were lost with their workers."""
    last_failure: Failure | None = None
    has_row: bool = False
    """A row of the attempts table speaks of it, and must say how it ended."""
    started_at: int = 0
    due_at: int = 0
    """When it may begin, if it waits for its time."""
    worker_id: str | None = None
    """The worker that ran it, if that was another one and a row names it."""
    is_cancel_requested: bool = False
    is_over: bool = False
    """Its outcome is decided; whatever the function still does is not heard."""
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    context: ActivityContext | None = None
    """Set by its first step."""
    code: Code | None = None
    """What it runs; None until it begins."""
    work: ThreadCall | None = None
    """Its call in a thread, if it has one."""
    is_cut_short: bool = False
    """The worker that drains could wait no longer, and asked it to stop."""
    has_waited: bool = False
    """It was left behind by a worker that does not know its activity."""
    problem: Failure | None = None
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


class LiveRun(msgspec.Struct, eq=False):
    """One run in memory. Only the loop's thread touches it."""

    run_id: str
    workflow_id: str
    workflow_type: str
    started: WorkflowExecutionStarted
    replayer: Replayer
    parent_close_policy: str | None = None
    started_at: int = 0
    headers: Mapping[str, str] = {}
    """What travels with it since its start."""
    task_headers: Mapping[str, str] = {}
    """Those, or what an observer made of them in the latest workflow task."""
    ready_at: int = 0
    """When the next turn was due though a commit was on its way; only kept if there is
    an observer."""
    inputs: list[TaskInput] = []
    """Events and updates that no turn has taken, in order of arrival."""
    input_keys: InputKeys | None = None
    """Made when `inputs` are first searched."""
    consumed: tuple[int, ...] = ()
    """Inbox sequences that `inputs` hold."""
    consumed_requests: list[str] = []
    """The same by request id, for what came without being read from the inbox."""
    update_mail: dict[str, int] = {}
    """The inbox sequences of updates that are neither accepted nor refused."""
    taken: set[int] = set()
    """Inbox sequences that were read; a late read may bring them again."""
    mailed: set[str] = set()
    """What of `inputs` came by the inbox, by key."""
    acks: list[asyncio.Future[bool]] = []
    """Who waits until `inputs` are durable; then those of the commit under way."""
    committing_acks: list[asyncio.Future[bool]] = []
    commit_count: int = 0
    """Its commits that have ended well since it came into memory."""
    questions: list[Question] = []
    """Who wants to look at the run once no commit is under way."""
    starting: set[int] = set()
    """Children whose start is on its way, by initiated event."""
    is_reading: bool = False  # its inbox
    held: list[Callable[[], None]] = []
    """What hands in messages of this process after that, or after a commit."""
    attempt_records: tuple[AttemptRecord, ...] = ()
    """Attempts that have ended; written with the next turn."""
    attempts: dict[int, Attempt] = {}
    """Activities that run or are about to, by scheduled event."""
    backoffs: dict[int, Attempt] = {}
    """Activities whose next attempt waits for its time, by scheduled event."""
    deadline_at: int | None = None
    deadline_type: str = "run"
    failed_tries: int = 0
    refusals: int = 0
    """Writes of its that the database has refused since the last it took."""
    is_committing: bool = False
    is_closed: bool = False
    is_dropped: bool = False
    """No longer ours: whatever still refers to it must do nothing."""
    has_mail: bool = False  # messages were committed that it has not read
    is_holding: bool = False  # an attempt with a `problem`
    resolutions: list[ActivityResolution] = []  # what was decided of such
    is_parked: bool = False
    """Its row says that it is stuck."""
    wants_reload: bool = False
    """It has to be read again, once the commit that is on its way has ended."""
    is_active: bool = False
    """What the run's row says; likewise `wake_at`."""
    wake_at: int | None = None

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


def new_run(
    started: WorkflowExecutionStarted,
    replayer: Replayer,
    started_at: int = 0,
    parent_close_policy: str | None = None,
) -> LiveRun:
    """A live run that begins with this event."""
    run = LiveRun(
        started.run_id,
        started.workflow_id,
        started.workflow_type,
        started,
        replayer,
        parent_close_policy,
        started_at,
        started.headers,
        started.headers,
    )
    limit = started.execution_timeout
    if limit is not None:
        run.deadline_at, run.deadline_type = started_at + limit, "execution"
    limit = started.run_timeout
    if limit is not None and (
        run.deadline_at is None or started_at + limit < run.deadline_at
    ):
        run.deadline_at, run.deadline_type = started_at + limit, "run"
    return run


def _earlier(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)

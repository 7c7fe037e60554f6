"""A run that is in memory: its replayer, what waits to be seen, what is under way.

`durable.runs.machine` says what becomes of it; nothing else writes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol

import msgspec

from durable.core.history.codec import Row
from durable.core.history.events import (
    ActivityTaskScheduled,
    WorkflowExecutionPaused,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payloads
from durable.core.messages import ActivityResolution
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.errors import HistoryTakenError
from durable.observer import Note
from durable.runs.incoming import Incoming, Item, Token
from durable.runs.states import AT_REST, OVER, RUNNING, Phase, State
from durable.store.beginnings import NO_DEFAULTS, RunDefaults
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    CommitTask,
    LoadedRun,
    ParkRun,
    StartRun,
)


class Room(Protocol):
    """The free places of a worker, as they are taken in thought."""

    def take(self, activity_type: str) -> bool:
        """Take a place for an activity; False if there is none for it.

        What this worker does not leave to another one finds room always.
        """
        ...


class Terms(msgspec.Struct, eq=False):
    """What runs know of the worker that they live in.

    A worker that joins again is another one.

    Attributes:
        max_tries: how often a turn that fails is tried before its run is set aside.
        can_run: whether it would take a run of a queue, type and version itself.
        knows_activity: whether it could run an activity of a name.
        new_run_id: makes an id for a run that is about to be started.
        new_replayer: makes a replayer that finds its workflow's code.
        is_observed: somebody wants to hear how long turns have waited.
        is_draining: nothing is begun any more.
        has_others: other workers serve its queue; what exceeds its room is theirs, too.
        room: its free places for activities.
        configured: the queues of which activities are given out by limits.
        runs_limited_as: stands among them if runs of its queue are limited, too.
        defaults: what goes for children that say nothing else.
    """

    worker_id: str
    max_tries: int
    can_run: Callable[[str, str, str | None], bool]
    knows_activity: Callable[[str], bool]
    new_run_id: Callable[[], str]
    new_replayer: Callable[[], Replayer]
    is_observed: bool = False
    is_draining: bool = False
    has_others: bool = False
    room: Callable[[], Room] | None = None
    configured: frozenset[str] = frozenset()
    runs_limited_as: str = ""
    defaults: Callable[[], RunDefaults] = lambda: NO_DEFAULTS

    @property
    def limits_runs(self) -> bool:
        """Whether runs of its queue wait for their turn."""
        return self.runs_limited_as in self.configured


# Structs, since each run makes some: their fields are set without a step of Python.
class Attempt(msgspec.Struct, eq=False):
    """One attempt of an activity that this process runs, or will run."""

    run: LiveRun
    scheduled_event_id: int
    scheduled: ActivityTaskScheduled
    scheduled_at: int
    headers: Mapping[str, str]
    """What travels to it from the workflow task that scheduled it."""
    phase: Phase = RUNNING
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
    has_waited: bool = False
    """It was left behind by a worker that does not know its activity."""
    details: Payloads | None = None
    """What its last heartbeat said, or that of the attempt before."""
    heartbeat_at: int = 0
    problem: Failure | None = None
    """The bug that keeps its outcome from being recorded; it parks the run."""
    held_as: AttemptState = AttemptState.RETURNED
    """What its row says then."""
    body: Any = None
    """What runs it if it is a step: the closure that the code handed over last."""
    call: Any = None
    """What the pool that runs it keeps of it; nothing here looks at that."""

    @property
    def is_over(self) -> bool:
        """Whether its outcome is decided."""
        return self.phase is OVER


class Unwritten(msgspec.Struct, eq=False):
    """Turns that only asked for local activities, and that nobody but their run knows.

    Attributes:
        after: the last event that is written.
        write_by: when they are to be written at the latest.
        rows: their events.
        size: the bytes of what those hold.
        items: what they have taken.
        notes: what they have for an observer.
        held: what the pool said of attempts that are not recorded, and that calls for
            a row of theirs.
        is_due: something waits until they are written.
    """

    after: int
    write_by: int
    rows: list[Row] = []
    size: int = 0
    items: list[Item] = []
    notes: list[Note] = []
    held: tuple[Any, ...] = ()
    is_due: bool = False

    def hold(self, given: Any) -> None:
        """Let what calls for a row wait until the activity that it is of is written."""
        self.held += (given,)
        self.is_due = True


_REFUSAL: Final = 8


class LiveRun(msgspec.Struct, eq=False):
    """One run in memory. Only the loop's thread touches it."""

    run_id: str
    started: WorkflowExecutionStarted
    replayer: Replayer
    terms: Terms
    state: State
    started_at: int = 0
    parent_close_policy: str | None = None
    task_headers: Mapping[str, str] = {}
    """What travels with it since its start, or what an observer made of that in the
    latest workflow task."""
    incoming: Incoming = msgspec.field(default_factory=Incoming)
    attempts: dict[int, Attempt] = {}
    """Activities that run or are about to, by scheduled event."""
    backoffs: dict[int, Attempt] = {}
    """Activities whose next attempt waits for its time, by scheduled event."""
    offered: AbstractSet[int] = frozenset()
    """Activities that anyone may take, or might once, by scheduled event."""
    leaving: dict[int, bool] = {}
    """Those whose row is on its way (True), or was when the history was asked for: what
    is read may not have it."""
    ended: tuple[AttemptRecord, ...] = ()
    """Attempts that have ended; written with the next turn."""
    unwritten: Unwritten | None = None
    """Turns that are to be written with the next one."""
    asked: frozenset[int] = frozenset()
    """Children and deliveries that are under way, by initiated event."""
    questions: tuple[tuple[int, Token], ...] = ()
    """Who wants to look at the run, after how many commits."""
    resolutions: tuple[ActivityResolution, ...] = ()
    """What operators have decided of attempts whose outcome cannot be recorded."""
    is_holding: bool = False
    """Rows say of some of its attempts that their outcome cannot be recorded."""
    deadline: tuple[int, str] | None = None
    """When its time is up, and which timeout says so."""
    row: tuple[bool, int | None] = (False, None)
    """What the run's row says: whether this worker owns it, and `wake_at`."""
    epoch: int = 0
    """That of the row, as far as this worker has written or read it."""
    is_parked: bool = False
    """Its row says that it is stuck."""
    commits: int = 0
    """Those that have ended well since it came into memory."""
    failed_tries: int = 0
    refusals: int = 0
    """Writes of its that the database has refused since the last it took.

    One that came after others' is an eighth of one: those have gone on with the run.
    """
    must_read: bool = False
    """It has to be read again, once it is at rest."""
    ready_at: int = 0
    """When the next turn was due though a commit was on its way; only kept if there is
    an observer."""
    operation: StartRun | CommitTask | ParkRun | None = None
    """What is being written."""
    completion: WorkflowTaskCompletion | None = None
    """The turn that it came of, if it came of one."""
    notes: Sequence[Note] = ()
    """What that turn has for an observer."""
    untold: tuple[str, ...] = ()
    """Updates that were answered in a commit which was refused: perhaps it is there."""
    creator: Token | None = None
    """Who wants to hear how its creation ended."""
    loaded: LoadedRun | None = None
    """What was read, while its code is driven through it."""
    paused: WorkflowExecutionPaused | None = None
    """What has paused it: then it keeps what comes in, and begins nothing."""
    stuck: Failure | None = None
    """Why it is being set aside, or will be once it is read again."""

    @property
    def workflow_id(self) -> str:
        """The id of its chain."""
        return self.started.workflow_id

    @property
    def workflow_type(self) -> str:
        """The name of its workflow."""
        return self.started.workflow_type

    @property
    def headers(self) -> Mapping[str, str]:
        """What travels with it since its start."""
        return self.started.headers

    def note_offered(self, events: AbstractSet[int]) -> None:
        """Note that activities are anyone's to take from now on."""
        if isinstance(self.offered, set):
            self.offered |= events
        elif events:
            self.offered = {*self.offered, *events}

    def note_leaving(self, event_id: int) -> None:
        """Note that the row is on its way by which an activity is left to others."""
        self.note_offered({event_id})
        self.leaving[event_id] = True

    def has_left(self, event_id: int, *, is_reading: bool) -> None:
        """The row is there, or refused. What is being read may be older than that."""
        if is_reading:
            self.leaving[event_id] = False
        else:
            self.leaving.pop(event_id, None)

    def forget_left(self) -> None:
        """What is read from now on has the rows that were written."""
        if self.leaving:
            self.leaving = {
                number: True for number, is_on in self.leaving.items() if is_on
            }

    def is_unwritten(self, scheduled_event_id: int) -> bool:
        """Whether an activity was asked for in a turn that is not written."""
        return self.unwritten is not None and scheduled_event_id > self.unwritten.after

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is under way, so that it may leave memory."""
        incoming = self.incoming
        return self.state is AT_REST and not (
            incoming.waiting
            or self.attempts
            or self.leaving
            or self.ended
            or self.asked
            or incoming.is_reading
            or self.must_read
            or self.questions
        )

    def has_forgotten(self, update_id: str) -> bool:
        """Whether only history knows how an update was answered.

        That was before the newest checkpoint, or by an earlier run of the chain.
        """
        view = self.replayer
        return (
            view.knows_update(update_id)
            and view.update_answer(update_id) is None
            and update_id not in view.open_updates()
        )

    @property
    def is_active(self) -> bool:
        """Whether something is under way that a loader alone would find after a crash.

        Not whether a commit is.
        """
        return bool(
            self.attempts
            or self.asked
            or self.incoming.waiting
            # A worker that drains leaves inputs to the next.
            or self.replayer.unprocessed
        )

    def wanted_row(self, *, is_busy: bool) -> tuple[bool, int | None]:
        """What its row must say now: whether it is owned, and `wake_at`.

        Owned is what `is_active`; `is_busy` says that a commit is under way, or that
        this write begins something.
        """
        return is_busy or self.is_active, self.next_due_at()

    def spend_epoch(self, *, stays: bool) -> int:
        """The epoch in which its next write finds it, which ends with that at rest.

        `stays` is whether this worker owns it after the write.
        """
        epoch = self.epoch
        if not (stays and self.row[0]):
            self.epoch += 1
        return epoch

    def count_refusal(self, error: BaseException) -> None:
        """Count a write that was refused; see `refusals`."""
        self.refusals += 1 if isinstance(error, HistoryTakenError) else _REFUSAL

    @property
    def should_pause(self) -> bool:
        """Whether so much was refused that the next write would be, too."""
        return self.refusals > _REFUSAL

    def next_due_at(self) -> int | None:
        """The earliest of its timers, waiting attempts and deadline."""
        if self.paused is not None:
            return None
        earliest = self.replayer.next_timer_at()
        if self.deadline is not None:
            earliest = _earlier(earliest, self.deadline[0])
        for attempt in self.backoffs.values():
            earliest = _earlier(earliest, attempt.due_at)
        return earliest


def new_run(
    started: WorkflowExecutionStarted,
    terms: Terms,
    state: State,
    started_at: int = 0,
    parent_close_policy: str | None = None,
) -> LiveRun:
    """A live run that begins with this event."""
    return LiveRun(
        started.run_id,
        started,
        terms.new_replayer(),
        terms,
        state,
        started_at,
        parent_close_policy,
        started.headers,
        deadline=deadline_of(started, started_at),
    )


def deadline_of(
    started: WorkflowExecutionStarted, started_at: int
) -> tuple[int, str] | None:
    """When the time of a run is up, and which timeout says so."""
    whole, run = started.execution_timeout, started.run_timeout
    started_at = started.begins_at(started_at)
    if run is not None and (whole is None or run < whole):
        return started_at + run, "run"
    return None if whole is None else (started_at + whole, "execution")


def _earlier(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)

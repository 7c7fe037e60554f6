"""What a live run wants done after it was given something."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec

from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Failure
from durable.core.machines import retry
from durable.core.messages import ActivityResolution
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import WorkflowTask
from durable.observer import Note
from durable.runs.incoming import Token
from durable.runs.live_run import Attempt
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    CommitTask,
    Committed,
    MessageRecord,
    ParkRun,
    RecordAttempts,
    Started,
    StartRun,
)

T = TypeVar("T")
Some: TypeAlias = list[T] | tuple[()]
"""A list that is only made once there is something for it."""

UpdateNews: TypeAlias = (
    WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted | Failure | None
)
"""What became of an update: accepted, answered, refused and why, or not taken."""


class Then(enum.Enum):
    """What a row of an attempt is written for."""

    BEGIN = "begin"
    """Its first line may run."""
    REMEMBER = "remember"
    """Nothing follows."""
    WAIT = "wait"
    """It waits for its time."""
    FOLLOW = "follow"
    """An attempt has ended, and the one after it waits for its time."""
    SEEK = "seek"
    """It waits for a worker that knows its activity."""
    HOLD = "hold"
    """Its run parks for it."""
    OFFER = "offer"
    """Whoever takes it may begin it, or judge it."""
    EXTERNAL = "external"
    """Somebody outside completes it."""


class Left(enum.Enum):
    """Why a run leaves memory."""

    CLOSED = "closed"
    """It has closed, and its last event is in `Effects.terminal`."""
    CLOSED_ELSEWHERE = "closed elsewhere"
    PARKED = "parked"
    LEASE_LOST = "lease lost"
    DROPPED = "dropped"
    """Others have it, or nobody; whoever waits must ask the store."""


CLOSED: Final = Left.CLOSED


class Recording(msgspec.Struct, eq=False):
    """Rows of attempts to be written, and what follows for `attempt`."""

    operation: RecordAttempts
    attempt: Attempt
    then: Then
    ended: AttemptRecord | None = None
    """The row that must be written with the next turn, should this fail."""
    token: Token | None = None
    """Who is told whether it is written."""
    is_first: bool = True
    """`attempt` has not been left by another worker that does not know its activity."""


class AttemptEnd(msgspec.Struct, eq=False):
    """How an attempt ended, for the log and the observer."""

    attempt: Attempt
    state: AttemptState
    failure: Failure | None = None
    decision: retry.Retry | retry.GiveUp | None = None
    """What comes next, of one that failed."""
    was_here: bool = True
    """It was this worker's, so its observer is told."""
    has_run: bool = True


class Creation(msgspec.Struct, eq=False):
    """How the creation of a run ended, for who wanted it."""

    creator: Token
    outcome: Started | BaseException
    has_ended: bool
    """It ended in its first turn, and no further run of its chain began."""


def also(items: Some[T], item: T) -> list[T]:
    """The same with one more."""
    if isinstance(items, list):
        items.append(item)
        return items
    return [item]


class RareEffects(msgspec.Struct, eq=False):
    """What a plain run never wants done.

    Attributes:
        notes: what a turn has for the observer, now that it is committed.
        attempt_ends: attempts that have ended.
        news: what became of updates, by id.
        spread: a commit did something to other runs.
        closed: runs that others have closed.
        torn_down: a replayer that has lived through what never happened.
        ask: who wants to look at the run may do so now.
        reply: queries of the inbox, to be answered now in the epoch of the run's row.
        unanswered: who wanted to must ask the store.
        stop: attempts that are to end; what runs is asked to.
        unheard: attempts that go on, though nobody hears of them.
        record: rows of attempts -> `Recorded`.
        seek: attempts that wait for a worker which knows their activity, and whether
            another worker has left them for that already.
        mend: attempts that have returned; perhaps today's code can record what.
        resolve: what operators have decided of attempts.
        start: children to be started -> `ChildAnswered`.
        deliver: messages to be sent again -> `Delivered`.
        refused: why a write was refused, for the log; `is_of_attempt` says that it was
            for an attempt.
        parking: why the run is being set aside, for the log.
        read_mail: its inbox is to be read -> `MailRead`.
        read_run: its history is -> `Loaded`.
        look_around: there may be runs that nobody owns.
        again: instants at which it is to be given `Due`, which no row speaks of.
        error: what nobody expected; it is raised.
    """

    notes: Sequence[Note] = ()
    attempt_ends: Some[AttemptEnd] = ()
    news: Some[tuple[str, UpdateNews]] = ()
    spread: Committed | None = None
    closed: Some[str] = ()
    torn_down: Replayer | None = None
    ask: Some[Token] = ()
    reply: Some[tuple[MessageRecord, int]] = ()
    unanswered: Some[Token] = ()
    stop: Some[Attempt] = ()
    unheard: Some[Attempt] = ()
    record: Some[Recording] = ()
    seek: Some[tuple[Attempt, bool]] = ()
    mend: Some[Attempt] = ()
    resolve: Some[tuple[Attempt, ActivityResolution]] = ()
    start: Some[HistoryEvent] = ()
    deliver: Some[HistoryEvent] = ()
    refused: BaseException | None = None
    is_of_attempt: bool = False
    parking: Failure | None = None
    read_mail: bool = False
    read_run: bool = False
    look_around: bool = False
    again: Some[int] = ()
    error: BaseException | None = None


class Effects(msgspec.Struct, eq=False):
    """What is to be done, in the order of the fields.

    Attributes:
        rare: all that a plain run never wants; it is made when it is first asked for.
        write: -> `Settled` or `Refused`.
        creation: the run is created, or is not.
        tell: who waits for a message is told whether it is durable.
        begin: attempts that may run; their rows are written.
        wake_at: look for what is due no later than this instant.
        ready_at: when the turn that is to be driven was due, if somebody observes.
        drive: one turn -> `Driven`.
        left: the run leaves memory.
        terminal: its last event, if this worker has it.
    """

    found_rare: RareEffects | None = None
    """`rare`, if there is any."""
    write: StartRun | CommitTask | ParkRun | None = None
    creation: Creation | None = None
    tell: Some[tuple[Token, bool]] = ()
    begin: Some[Attempt] = ()
    wake_at: int | None = None
    ready_at: int = 0
    drive: WorkflowTask | None = None
    left: Left | None = None
    terminal: HistoryEvent | None = None

    @property
    def rare(self) -> RareEffects:
        """What a plain run never wants done."""
        if self.found_rare is None:
            self.found_rare = RareEffects()
        return self.found_rare

    def wake_by(self, instant: int) -> None:
        """Have it looked for what is due, no later than this."""
        if self.wake_at is None or instant < self.wake_at:
            self.wake_at = instant

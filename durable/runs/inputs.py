"""What a live run is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from durable.core.history.events import Attributes, HistoryEvent
from durable.core.history.payload import Failure, Payload
from durable.core.workflow_task import TaskInput, WorkflowTaskCompletion
from durable.errors import DurableError
from durable.observer import Note
from durable.runs.effects import Recording
from durable.runs.incoming import Token
from durable.runs.live_run import Attempt
from durable.store.records import (
    AttemptState,
    Committed,
    LoadedRun,
    MailArrived,
    MessageRecord,
    Started,
)

# --- its code and its writes ----------------------------------------------------------


class Driven(msgspec.Struct, eq=False):
    """Its code was driven; this is what it decided.

    `headers` travel with what it asked for, if an observer had a say in them; `notes`
    are for that one.
    """

    completion: WorkflowTaskCompletion
    headers: Mapping[str, str] | None = None
    notes: Sequence[Note] = ()


class Settled(msgspec.Struct, eq=False):
    """The write that was on its way has taken place, or was answered by messages."""

    result: Started | Committed | MailArrived | None


class Refused(msgspec.Struct, eq=False):
    """The write that was on its way ended with this."""

    error: BaseException


class Loaded(msgspec.Struct, eq=False):
    """Its history was read; None if there is no such run."""

    loaded: LoadedRun | None


class Recorded(msgspec.Struct, eq=False):
    """Rows of attempts were written, or were not for this error."""

    recording: Recording
    error: BaseException | None


# --- messages and questions -----------------------------------------------------------


class Told(msgspec.Struct, eq=False):
    """This process has a signal, a request to stop or an update for it.

    `token` is told True once it is durable, and False if the store must be asked. Only
    with `may_repeat` it is asked whether the run has it already.
    """

    event: TaskInput
    token: Token | None = None
    may_repeat: bool = True


class ChildEnded(msgspec.Struct, eq=False):
    """A child in this process has ended; the inbox has that under a request id."""

    event: Attributes
    request_id: str


class MailCame(msgspec.Struct, eq=False):
    """A message for it was committed."""


class MailRead(msgspec.Struct, eq=False):
    """Its inbox was read as it had asked; None if nobody can read that."""

    messages: list[MessageRecord] | None


class MailFound(msgspec.Struct, eq=False):
    """Somebody else has read its inbox, and then which event is its newest.

    At rest it is nobody's: others may have gone on with it.
    """

    messages: list[MessageRecord]
    last_event_id: int


class Asked(msgspec.Struct, eq=False):
    """Somebody wants to look at it between two turns."""

    token: Token


class Harmed(msgspec.Struct, eq=False):
    """It is not what is recorded: others have written, or who looked has changed it."""


# --- what it began --------------------------------------------------------------------


class AttemptCompleted(msgspec.Struct, eq=False):
    """The function of an attempt has returned."""

    attempt: Attempt
    result: Payload
    started_at: int


class AttemptFailed(msgspec.Struct, eq=False):
    """It has raised, or its time is up; the next one is not to begin before that."""

    attempt: Attempt
    failure: Failure
    started_at: int
    not_before: int = 0


class AttemptStopped(msgspec.Struct, eq=False):
    """It has ended as it was asked to."""

    attempt: Attempt
    started_at: int


class AttemptNotBegun(msgspec.Struct, eq=False):
    """It could not begin, and is tried again at an instant."""

    attempt: Attempt
    again_at: int


class AttemptUnrecorded(msgspec.Struct, eq=False):
    """For this bug its outcome cannot be recorded; its row will be in that state."""

    attempt: Attempt
    problem: Failure
    row_state: AttemptState
    started_at: int


class AttemptDoubtful(msgspec.Struct, eq=False):
    """It was cut short, and this says why its outcome is not known."""

    attempt: Attempt
    failure: Failure
    started_at: int


class AttemptLost(msgspec.Struct, eq=False):
    """The process that ran it has died, and this worker has not: it is in doubt."""

    attempt: Attempt
    failure: Failure
    started_at: int


class AttemptBeat(msgspec.Struct, eq=False):
    """It goes on, and has said how far it has come: that is to be written."""

    attempt: Attempt
    started_at: int


class AttemptExternal(msgspec.Struct, eq=False):
    """Somebody outside is to complete it: `token` is told whether that is recorded."""

    attempt: Attempt
    started_at: int
    token: Token


class AttemptQueued(msgspec.Struct, eq=False):
    """The pool has no room for it yet.

    One of many that have just come may soon have a place, and needs no row: if it is
    lost by then, it runs again.
    """

    attempt: Attempt
    is_one_of_many: bool = False


class AttemptUnknown(msgspec.Struct, eq=False):
    """The pool does not know its activity."""

    attempt: Attempt


class AttemptReady(msgspec.Struct, eq=False):
    """The pool has room for one that waited."""

    attempt: Attempt


class AttemptLeft(msgspec.Struct, eq=False):
    """The pool that drains has certainly not begun it."""

    attempt: Attempt


class AttemptUnheard(msgspec.Struct, eq=False):
    """The pool that drains does not wait for it; it may simply be run again."""

    attempt: Attempt


class AttemptMended(msgspec.Struct, eq=False):
    """What was held has a result after all."""

    attempt: Attempt
    result: Payload


class AttemptStillUnrecorded(msgspec.Struct, eq=False):
    """What was held still has none, for this."""

    attempt: Attempt
    problem: Failure
    is_refused: bool = False
    """An operator's decision is not taken."""


class AttemptRepeated(msgspec.Struct, eq=False):
    """An operator wants what was held to run again."""

    attempt: Attempt


class HoldAgain(msgspec.Struct, eq=False):
    """That an attempt is held could not be written: it is tried again."""

    attempt: Attempt


class ChildAnswered(msgspec.Struct, eq=False):
    """A child was started, or was not; how one ended follows at once."""

    event: HistoryEvent
    outcome: Started | BaseException
    has_ended: bool = False


class Delivered(msgspec.Struct, eq=False):
    """What was sent again has an answer: the receiver, or why there is none."""

    event: HistoryEvent
    outcome: str | DurableError


# --- the rest of the world ------------------------------------------------------------


class Due(msgspec.Struct, eq=False):
    """Something it waits for may be due."""


class Claimed(msgspec.Struct, eq=False):
    """It was at rest, and this worker owns it from now on, in this epoch."""

    epoch: int


class ClosedElsewhere(msgspec.Struct, eq=False):
    """It was closed by a write that is not this worker's."""


class Leave(msgspec.Struct, eq=False):
    """It has to leave memory."""


AnyInput: TypeAlias = (
    Driven
    | Settled
    | Refused
    | Loaded
    | Recorded
    | Told
    | ChildEnded
    | MailCame
    | MailRead
    | MailFound
    | Asked
    | Harmed
    | AttemptCompleted
    | AttemptFailed
    | AttemptStopped
    | AttemptNotBegun
    | AttemptUnrecorded
    | AttemptDoubtful
    | AttemptLost
    | AttemptBeat
    | AttemptExternal
    | AttemptQueued
    | AttemptUnknown
    | AttemptReady
    | AttemptLeft
    | AttemptUnheard
    | AttemptMended
    | AttemptStillUnrecorded
    | AttemptRepeated
    | HoldAgain
    | ChildAnswered
    | Delivered
    | Due
    | Claimed
    | ClosedElsewhere
    | Leave
)

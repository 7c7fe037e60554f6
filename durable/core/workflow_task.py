"""What goes into the replay machine and what comes out of it.

The contract on `WorkflowTaskCompletion`:

1. Input is data: new events and "now" are fields of `WorkflowTask`. The core waits for
   nothing.
2. The worker stores `events` in one fenced transaction before anything else sees them.
3. Only then do activities start, timers count and waiters hear of it. If the commit
   fails, the replayer is torn down: it has lived through what never happened.
4. The same history and the same code give the same completion, byte for byte.
5. With `failure` set the replayer is spent, and `events` holds only the turn's inputs,
   not taken by any task yet: they are stored, so that no outcome is lost.
"""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

import msgspec

from durable.core.history.commands import Command
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    WorkflowExecutionUpdateAccepted,
)
from durable.core.history.payload import Failure, Payloads
from durable.core.machines.machine import Entry


class UpdateRequest(msgspec.Struct, frozen=True, gc=False):
    """Somebody asks the run for an update. It is no event until it is accepted."""

    update_id: str
    update_name: str
    input: Payloads
    identity: str = ""
    headers: dict[str, str] = {}

    def accepted(self) -> WorkflowExecutionUpdateAccepted:
        """Its event, once it has passed its validator."""
        return WorkflowExecutionUpdateAccepted(
            update_id=self.update_id,
            update_name=self.update_name,
            input=self.input,
            identity=self.identity,
            headers=self.headers,
        )


def update_request_id(update_id: str) -> str:
    """The request id of an update, among those of all messages."""
    return f"update:{update_id}"


TaskInput: TypeAlias = Attributes | UpdateRequest


class WorkflowTask(msgspec.Struct, frozen=True, gc=False):
    """One turn of a run.

    Attributes:
        now: the time of the turn. The core never lets a run's time step back.
        events: what happened since the last turn, in order of arrival. Timers need no
            mention: the core fires those that are due by `now`.
        history: recorded events that this replayer has not seen: everything for a new
            one, nothing for one that is warm.
        is_replay_only: stop after `history`; commands beyond it are neither an error
            nor recorded.
    """

    now: int
    events: tuple[TaskInput, ...] = ()
    history: tuple[HistoryEvent, ...] | list[HistoryEvent] = ()
    is_replay_only: bool = False


class TaskFailureKind(enum.Enum):
    """Why workflow code could not be driven on."""

    BUG = "bug"
    NONDETERMINISM = "nondeterminism"
    BLOCKED = "blocked"


class WorkflowTaskFailure(msgspec.Struct, frozen=True):
    """A failed turn: the failure as data, and the exception for tests to raise."""

    kind: TaskFailureKind
    failure: Failure
    error: Any


class WorkflowTaskCompletion(msgspec.Struct, frozen=True):
    """What one turn decided.

    Attributes:
        task_number: the turn's number in the run, from 1.
        entries: what the code asked for, in order; `commands` as data.
        events: all events to append: the turn's inputs, then one for each command.
        is_closed: the last event is the run's terminal event.
        rejected: updates that were refused, by id, with why. Nothing records them. If
            the whole turn came to nothing but that, `events` is empty.
        checkpoint_event_id: the newest checkpoint among `events`, or None.
        failure: set if the turn failed; then nothing else counts.
    """

    task_number: int
    entries: tuple[Entry, ...] = ()
    events: tuple[HistoryEvent, ...] = ()
    is_closed: bool = False
    rejected: tuple[tuple[str, Failure], ...] = ()
    checkpoint_event_id: int | None = None
    failure: WorkflowTaskFailure | None = None

    @property
    def commands(self) -> tuple[Command, ...]:
        """What the code asked for, in order; `events` hold the same."""
        return tuple(entry.command() for entry in self.entries)

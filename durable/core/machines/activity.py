"""Activities: scheduled, perhaps asked to stop, closed by one outcome."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from durable.core.commands import (
    ActivitySettings,
    RequestCancelActivityTask,
    ScheduleActivityTask,
)
from durable.core.events import (
    ActivityTaskCancelRequested,
    ActivityTaskScheduled,
    Attributes,
)
from durable.core.machines.machine import Entry, Machine, Move, State, Table
from durable.core.runtime import ActivityRequest


class ActivityMachine(Machine, Entry):
    """One activity of a run; also the entry of its own ScheduleActivityTask."""

    __slots__ = (
        "_send",
        "_task_queue",
        "activity_id",
        "future",
        "is_withdrawn",
        "request",
        "scheduled",
        "scheduled_at",
        "scheduled_event_id",
    )
    event_type = ActivityTaskScheduled
    table: ClassVar[Table] = {
        (State.CREATED, Move.RECORD): State.PENDING,
        (State.CREATED, Move.CANCEL): State.CLOSED,
        (State.PENDING, Move.CANCEL): State.CANCEL_REQUESTED,
        (State.PENDING, Move.RESOLVE): State.CLOSED,
        (State.CANCEL_REQUESTED, Move.RESOLVE): State.CLOSED,
    }

    def __init__(
        self,
        activity_id: str,
        request: ActivityRequest,
        future: asyncio.Future[Any],
        send: Callable[[Entry], None],
        task_queue: str,
    ) -> None:
        self.state = State.CREATED
        self._task_queue = task_queue
        self.is_withdrawn = False
        self.activity_id = activity_id
        self.request = request
        self.future = future
        self.scheduled_event_id = 0
        self.scheduled_at = 0
        self.scheduled: Attributes | None = None
        self._send = send

    def command(self) -> ScheduleActivityTask:
        """The command as data."""
        request = self.request
        return ScheduleActivityTask(
            activity_id=self.activity_id,
            activity_type=request.activity_type,
            input=request.input,
            settings=_on_queue(request.settings, self._task_queue),
            headers={},
            summary=request.summary,
            source=request.source(),
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare id, type and arguments; never timeouts, retries or labels."""
        assert isinstance(event, ActivityTaskScheduled)  # noqa: S101 - by `event_type`
        request = self.request
        if event.activity_type != request.activity_type:
            return "the activity"
        if event.activity_id != self.activity_id:
            return "the activity id"
        if not request.same_input(event.input, request.input):
            return "the arguments"
        return None

    def recorded(self, event_id: int, time: int, event: Attributes) -> None:
        """Await the outcome."""
        self.move(Move.RECORD)
        self.scheduled_event_id = event_id
        self.scheduled_at = time
        self.scheduled = event

    def cancel(self, *, send: bool = True) -> None:
        """Give the activity up; ask it to stop if it may be running."""
        if self.state is State.CREATED:
            self.move(Move.CANCEL)
            self.is_withdrawn = True
        elif self.state is State.PENDING and send:
            self.move(Move.CANCEL)
            self._send(_CancelEntry(self))

    def resolve(self, event: Attributes) -> None:
        """Take the outcome; whoever still waits is woken."""
        self.move(Move.RESOLVE)
        if not self.future.done():
            self.future.set_result(event)


@functools.lru_cache(maxsize=1_024)
def _on_queue(settings: ActivitySettings, task_queue: str) -> ActivitySettings:
    """Write out the run's own queue, which settings leave empty."""
    return msgspec.structs.replace(settings, task_queue=task_queue)


class _CancelEntry(Entry):
    """The entry of a RequestCancelActivityTask."""

    __slots__ = ("_machine", "is_withdrawn")
    event_type = ActivityTaskCancelRequested

    def __init__(self, machine: ActivityMachine) -> None:
        self.is_withdrawn = False
        self._machine = machine

    def command(self) -> RequestCancelActivityTask:
        """The command as data."""
        return RequestCancelActivityTask(
            activity_id=self._machine.activity_id,
            scheduled_event_id=self._machine.scheduled_event_id,
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare which activity is meant."""
        assert isinstance(event, ActivityTaskCancelRequested)  # noqa: S101 - by `event_type`
        if event.scheduled_event_id != self._machine.scheduled_event_id:
            return "the activity"
        return None

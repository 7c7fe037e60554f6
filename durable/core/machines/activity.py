"""Activities: scheduled, perhaps asked to stop, closed by one outcome."""

from __future__ import annotations

import asyncio
import functools
from types import CodeType
from typing import Any, ClassVar, Protocol

import msgspec

from durable.core.history.commands import (
    ActivitySettings,
    RequestCancelActivityTask,
    ScheduleActivityTask,
)
from durable.core.history.events import (
    ActivityTaskScheduled,
    Attributes,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Payloads
from durable.core.machines.fact import FactEntry
from durable.core.machines.machine import (
    CREATED,
    PENDING,
    RECORD,
    RESOLVE,
    STOPPABLE,
    Entry,
    Machine,
    Move,
    Operations,
    State,
    Table,
)
from durable.core.runtime import ActivityTarget, source_line
from durable.observer import Headers


class Sender(Protocol):
    """The run that an activity belongs to."""

    started: WorkflowExecutionStarted

    def send(self, entry: Entry) -> None:
        """Take a command that the activity issues."""
        ...


# A struct, since runs mostly call activities: no step of Python sets its fields.
class ActivityMachine(Machine, Entry, msgspec.Struct, eq=False):
    """One activity of a run; also the entry of its own ScheduleActivityTask."""

    activity_id: str
    target: ActivityTarget
    input: Payloads
    future: asyncio.Future[Any]
    sender: Sender
    code: CodeType | None
    instruction: int
    state: State = CREATED
    is_withdrawn: bool = False
    scheduled_event_id: int = 0
    scheduled_at: int = 0
    scheduled: Attributes | None = None
    headers: Headers | None = None
    """What travels with it, if it was asked for within a span."""
    event_type = ActivityTaskScheduled
    table: ClassVar[Table] = STOPPABLE

    def command(self) -> ScheduleActivityTask:
        """The command as data."""
        return ScheduleActivityTask(*self._fields())

    def event(self) -> ActivityTaskScheduled:
        """The event that records it, made at once: runs mostly call activities."""
        return ActivityTaskScheduled(*self._fields())

    def _fields(self) -> tuple[Any, ...]:
        target = self.target
        return (
            self.activity_id,
            target.activity_type,
            self.input,
            _on_queue(target.settings, self.sender.started.task_queue),
            target.headers or {},
            target.summary,
            source_line(self.code, self.instruction),
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare id, type and arguments; never timeouts, retries or labels."""
        assert type(event) is ActivityTaskScheduled  # noqa: S101 - by `event_type`
        target = self.target
        if event.activity_type != target.activity_type:
            return "the activity"
        if event.activity_id != self.activity_id:
            return "the activity id"
        if event.input == self.input:
            return None
        return target.differing_input(event.input, self.input)

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """Await the outcome."""
        self.move(RECORD)
        run.activities[event_id] = self
        self.scheduled_event_id = event_id
        self.scheduled_at = time
        self.scheduled = event

    def cancel(self, *, send: bool = True) -> None:
        """Give the activity up; ask it to stop if it may be running."""
        if self.state is CREATED:
            self.move(Move.CANCEL)
            self.is_withdrawn = True
        elif self.state is PENDING and send:
            self.move(Move.CANCEL)
            command = RequestCancelActivityTask(
                self.activity_id, self.scheduled_event_id
            )
            self.sender.send(FactEntry(command, "scheduled_event_id", "the activity"))

    def resolve(self, event: Attributes) -> None:
        """Take the outcome; whoever still waits is woken."""
        self.move(RESOLVE)
        if not self.future.done():
            self.future.set_result(event)


@functools.lru_cache(maxsize=1_024)
def _on_queue(settings: ActivitySettings, task_queue: str) -> ActivitySettings:
    """Write out the run's own queue, which settings leave empty."""
    if settings.task_queue:
        return settings
    return msgspec.structs.replace(settings, task_queue=task_queue)

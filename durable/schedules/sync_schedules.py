"""`SyncEngine.schedules`: the same for code without an event loop."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from typing_extensions import Unpack

from durable.api.workflows.workflow_definition import WorkflowCall
from durable.loop_thread import LoopThread
from durable.schedules.cron import When
from durable.schedules.definition import ScheduleDefinition, ScheduleOverlap
from durable.schedules.schedules import (
    CreateOptions,
    ScheduleDescription,
    ScheduleHandle,
    Schedules,
)


class SyncScheduleHandle:
    """One schedule; see `ScheduleHandle`."""

    def __init__(self, thread: LoopThread, handle: ScheduleHandle) -> None:
        self._thread = thread
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self._handle)

    def describe(self) -> ScheduleDescription:
        """Tell what it does, has done and will do; see `ScheduleHandle.describe`."""
        return self._thread.call(self._handle.describe())

    def update(
        self, change: Callable[[ScheduleDefinition], ScheduleDefinition | None], /
    ) -> ScheduleDescription:
        """Change what it is told; see `ScheduleHandle.update`."""
        return self._thread.call(self._handle.update(change))

    def pause(self, note: str = "") -> None:
        """Let it start nothing by itself; see `ScheduleHandle.pause`."""
        self._thread.call(self._handle.pause(note))

    def unpause(self, note: str = "") -> None:
        """Let it go on from now; see `ScheduleHandle.unpause`."""
        self._thread.call(self._handle.unpause(note))

    def trigger(self, *, overlap: ScheduleOverlap | str | None = None) -> str:
        """Start a run now; see `ScheduleHandle.trigger`."""
        return self._thread.call(self._handle.trigger(overlap=overlap))

    def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        overlap: ScheduleOverlap | str | None = None,
    ) -> int:
        """Act for past times; see `ScheduleHandle.backfill`."""
        return self._thread.call(self._handle.backfill(start, end, overlap=overlap))

    def delete(self) -> None:
        """Delete it; see `ScheduleHandle.delete`."""
        self._thread.call(self._handle.delete())


class SyncSchedules:
    """The schedules of an engine's namespace; see `Schedules`."""

    def __init__(self, thread: LoopThread, schedules: Schedules) -> None:
        self._thread = thread
        self._schedules = schedules

    def create(
        self,
        id: str,
        call: WorkflowCall[Any],
        *when: When | Iterable[When],
        **options: Unpack[CreateOptions],
    ) -> SyncScheduleHandle:
        """Create a schedule; see `Schedules.create`."""
        created = self._schedules.create(id, call, *when, **options)
        return SyncScheduleHandle(self._thread, self._thread.call(created))

    def get(self, id: str, /) -> SyncScheduleHandle:
        """A handle to a schedule; see `Schedules.get`."""
        return SyncScheduleHandle(self._thread, self._schedules.get(id))

    def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> builtins.list[ScheduleDescription]:
        """List schedules, the newest first; see `Schedules.list`."""
        return self._thread.call(self._schedules.list(limit=limit, after=after))

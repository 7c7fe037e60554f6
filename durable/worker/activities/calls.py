"""What runs an attempt: its task or thread, its timer, its place."""

from __future__ import annotations

import asyncio

import msgspec

from durable.api.activities.activity_context import ActivityContext
from durable.runs.live_run import Attempt
from durable.worker.activities.activity_code import Code
from durable.worker.activities.activity_threads import ThreadCall
from durable.worker.activities.beats import Beats
from durable.worker.activities.processes.pool import ProcessCall


class Call(msgspec.Struct, eq=False):
    """One call of an attempt's function, from when it waits for a place."""

    attempt: Attempt
    started_at: int = 0
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    context: ActivityContext | None = None
    """Set by its first step."""
    code: Code | None = None
    """What it runs; None until it begins."""
    work: ThreadCall | ProcessCall | None = None
    """Its call in a thread or a process, if it has one."""
    beats: Beats | None = None
    """Its heartbeats, if it has any."""
    is_external: bool = False
    """Somebody outside completes its attempt; only what it raises still counts."""
    is_stopping: bool = False
    """Its run wants it to end."""
    is_cut_short: bool = False
    """The worker that drains could wait no longer, and asked it to stop."""
    is_committing: bool = False
    """Its transaction is being committed: whatever else comes is not heard."""
    is_verified: bool = False
    """The attempt before, which was in doubt, has certainly had no effect."""
    is_promised: bool = False
    """A place is kept for it until its row is written."""

    def cancel_timer(self) -> None:
        """Let its time not run out."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.beats is not None:
            self.beats.stop()


def starts_by(attempt: Attempt) -> tuple[int, str] | None:
    """The instant until which an attempt must begin, and the timeout that says so."""
    settings = attempt.scheduled.settings
    limits: list[tuple[int, str]] = []
    if settings.schedule_to_start_timeout is not None:
        since = attempt.due_at or attempt.scheduled_at
        limits.append((since + settings.schedule_to_start_timeout, "schedule_to_start"))
    if settings.schedule_to_close_timeout is not None:
        instant = attempt.scheduled_at + settings.schedule_to_close_timeout
        limits.append((instant, "schedule_to_close"))
    return min(limits, default=None)

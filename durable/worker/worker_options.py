"""How a worker works."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from durable import limits


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works.

    Attributes:
        concurrency: activities that run at once.
        threads: how many of them may be plain functions, each in a thread.
        processes: how many may be plain functions, each in a process.
        activity_queues: task queues that it serves beside its own, for activities
            alone, and how many of each run at once.
        cached_runs: idle runs kept live between turns.
        max_tries: failed turns before a run parks as stuck.
        blocked_seconds: how long code may hold the thread; None watches nothing.
        grace_seconds: how long a drain waits for running activities.
    """

    concurrency: int = limits.ACTIVITIES_MAX
    threads: int = limits.ACTIVITY_THREADS_MAX
    processes: int = 1
    activity_queues: Mapping[str, int] = {}
    cached_runs: int = limits.CACHED_RUNS_MAX
    max_tries: int = limits.WORKFLOW_TASK_ATTEMPTS
    blocked_seconds: float | None = limits.WORKFLOW_TASK_BLOCKED_SECONDS
    grace_seconds: float = 10.0

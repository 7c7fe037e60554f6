"""Every name that appears in spans and metrics.

There is no accepted OpenTelemetry convention for workflows yet, so all names carry our
own prefix, but for `error.type`. Ids stand on spans only: on a metric each would be a
time series of its own.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "durable"
"""The instrumentation scope of all spans and metrics."""

# --- attributes of spans only ---------------------------------------------------------

WORKFLOW_ID: Final = "durable.workflow.id"
RUN_ID: Final = "durable.workflow.run_id"
WORKFLOW_TASK_NUMBER: Final = "durable.workflow.task.number"
WORKFLOW_TASK_ATTEMPT: Final = "durable.workflow.task.attempt"
ACTIVITY_ID: Final = "durable.activity.id"
ACTIVITY_ATTEMPT: Final = "durable.activity.attempt"
WORKER_ID: Final = "durable.worker.id"

# --- attributes of spans and metrics --------------------------------------------------

WORKFLOW_TYPE: Final = "durable.workflow.type"
ACTIVITY_TYPE: Final = "durable.activity.type"
QUEUE: Final = "durable.queue"
OUTCOME: Final = "durable.outcome"
NAMESPACE: Final = "durable.namespace"
POOL: Final = "durable.pool"
"""Of slots: "activities", or "threads" for those that are plain functions."""
ERROR_TYPE: Final = "error.type"

# --- spans ----------------------------------------------------------------------------

START_WORKFLOW: Final = "start_workflow"
RUN_WORKFLOW_TASK: Final = "run_workflow_task"
RUN_ACTIVITY: Final = "run_activity"
RUN_WORKFLOW: Final = "run_workflow"

# --- metrics, with Temporal's name for what is alike ----------------------------------

WORKFLOW_COMPLETED: Final = "durable.workflow.completed"
"""Temporal: workflow_completed, workflow_failed, workflow_canceled."""
WORKFLOW_DURATION: Final = "durable.workflow.duration"
"""Temporal: workflow_endtoend_latency."""
WORKFLOW_TASK_DURATION: Final = "durable.workflow_task.duration"
"""Temporal: workflow_task_execution_latency."""
REPLAY_DURATION: Final = "durable.workflow_task.replay.duration"
"""Temporal: workflow_task_replay_latency."""
WORKFLOW_TASK_SCHEDULE_TO_START: Final = "durable.workflow_task.schedule_to_start"
"""Temporal: workflow_task_schedule_to_start_latency."""
ACTIVITY_DURATION: Final = "durable.activity.duration"
"""Temporal: activity_execution_latency."""
ACTIVITY_SCHEDULE_TO_START: Final = "durable.activity.schedule_to_start"
"""Temporal: activity_schedule_to_start_latency."""
ACTIVITY_FAILED: Final = "durable.activity.failed"
"""Temporal: activity_execution_failed."""
CACHE_HITS: Final = "durable.cache.hits"
"""Temporal: sticky_cache_hit."""
CACHE_MISSES: Final = "durable.cache.misses"
"""Temporal: sticky_cache_miss."""
CACHE_SIZE: Final = "durable.cache.size"
"""Temporal: sticky_cache_size."""
SLOTS_AVAILABLE: Final = "durable.worker.slots.available"
"""Temporal: worker_task_slots_available."""
SLOTS_USED: Final = "durable.worker.slots.used"
"""Temporal: worker_task_slots_used."""
QUEUE_DEPTH: Final = "durable.queue.depth"
QUEUE_LAG: Final = "durable.queue.lag"
RETENTION_LAG: Final = "durable.retention.lag"
SCHEDULE_LAG: Final = "durable.schedule.lag"
"""Temporal: schedule_action_delay."""
COMMIT_DURATION: Final = "durable.db.commit.duration"
COMMIT_ROWS: Final = "durable.db.commit.rows"
COMMIT_OPERATIONS: Final = "durable.db.commit.operations"

# --- metrics of `--health-port` alone: of each process, whatever it observes ----------

LIVE: Final = "durable_live"
READY: Final = "durable_ready"
PROCESSES: Final = "durable_processes"
PROCESS_RESTARTS: Final = "durable_process_restarts_total"
WORKER_LIVE_RUNS: Final = "durable_worker_live_runs"
WORKER_RUNNING_ACTIVITIES: Final = "durable_worker_running_activities"
WORKER_ACTIVITY_CAPACITY: Final = "durable_worker_activity_capacity"
WORKER_LEASE_SECONDS_LEFT: Final = "durable_worker_lease_seconds_left"
WORKER_DRAINING: Final = "durable_worker_draining"
WORKER_DATABASE_REACHABLE: Final = "durable_worker_database_reachable"

# --- metrics that are read from the database: every worker tells the same -------------

BACKLOG_RUNS: Final = "durable.backlog.runs"
"""Temporal: approximate_backlog_count, by task queue."""
BACKLOG_AGE: Final = "durable.backlog.age"
"""Temporal: approximate_backlog_age_seconds, by task queue."""
STUCK_RUNS: Final = "durable.stuck.runs"

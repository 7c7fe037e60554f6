"""Retries of a workflow: whether a run that failed is begun again, and when: pure.

A further try is a new run of the same chain, with the same input and a history of its
own. Nothing is resumed.
"""

from __future__ import annotations

import msgspec

from durable.core.history.events import WorkflowExecutionStarted
from durable.core.history.ids import RunIds
from durable.core.history.payload import Failure, innermost
from durable.core.machines.retry import backoff, is_retryable
from durable.core.replay.seed import siphash13


def following_run_id(run_id: str, now: int) -> str:
    """The id of the next run of a chain: the same whoever works it out."""
    entropy = f"{run_id}/next".encode()
    bits = siphash13(entropy) << 64 | siphash13(entropy + b"/")
    return RunIds().make(now, bits)


def next_delay(
    started: WorkflowExecutionStarted,
    failure: Failure | None,
    *,
    started_at: int,
    now: int,
) -> int | None:
    """Microseconds until a failed run is begun again; None if it is not.

    `failure` is None if the run passed its run timeout.
    """
    policy = started.retry_policy
    if policy is msgspec.UNSET:
        return None
    if policy.max_attempts and started.attempt >= policy.max_attempts:
        return None
    delay = None
    if failure is not None:
        why = innermost(failure)
        if failure.non_retryable or why.non_retryable:
            return None
        if why.kind != "timeout" and not is_retryable(policy, why):
            return None
        delay = failure.next_retry_delay
    if delay is None:
        delay = backoff(policy, started.attempt, started.run_id)
    whole = started.execution_timeout
    if whole is not None and now + delay >= started.begins_at(started_at) + whole:
        return None
    return delay

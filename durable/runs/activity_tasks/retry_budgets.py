"""How many retries of its activities a worker begins: token buckets, kept in memory."""

from __future__ import annotations

import math

import msgspec

from durable.core.machines import retry
from durable.options import RetryBudget
from durable.runs import inputs
from durable.runs.activity_tasks import endings
from durable.runs.states import CANCELLING


class _Bucket(msgspec.Struct):
    """What is left at an instant; less than nothing is owed by retries that wait."""

    left: float
    at: int


class RetryBudgets:
    """What is left of the budget of each activity that has one."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def earn(self, name: str, budget: RetryBudget, now: int) -> None:
        """A first attempt of an activity begins."""
        bucket = self._filled(name, budget, now)
        bucket.left = min(bucket.left + budget.ratio, budget.burst)

    def spend(
        self, name: str, budget: RetryBudget, given: inputs.AttemptFailed, now: int
    ) -> int:
        """Take the next attempt after one that has failed, if there is to be any.

        Returns:
            The instant before which it is not to begin. It is fixed then: what is
            earned meanwhile is for those that fail later.
        """
        attempt = given.attempt
        settings = attempt.scheduled.settings
        failure = endings.in_doubt(settings, given.failure, attempt.attempt)
        if attempt.phase is CANCELLING or failure.kind == retry.OUTCOME_UNKNOWN:
            return 0
        bucket = self._filled(name, budget, now)
        owed = max(0.0, 1 - bucket.left)
        not_before = now + math.ceil(owed / budget.min_per_second * 1_000_000)
        number = attempt.scheduled_event_id
        decision = endings.decide_failure(
            settings,
            failure,
            attempt=attempt.attempt,
            lost=attempt.lost,
            scheduled_at=attempt.scheduled_at,
            now=now,
            key=endings.key_of(attempt.run.run_id, number, attempt.attempt),
            not_before=not_before,
        )
        if isinstance(decision, retry.Retry):
            bucket.left -= 1
        return not_before

    def _filled(self, name: str, budget: RetryBudget, now: int) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(budget.burst, now)
        passed = max(0, now - bucket.at) / 1_000_000
        bucket.left = min(bucket.left + passed * budget.min_per_second, budget.burst)
        bucket.at = max(now, bucket.at)
        return bucket

"""Retry arithmetic: (settings, attempt, failure) to the next attempt, or the end.

Pure. Attempts count from 1 and include the first.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final

import msgspec

from durable import limits
from durable.core.history.commands import ActivitySettings, RetrySettings
from durable.core.history.payload import Failure

MAXIMUM_ATTEMPTS_REACHED: Final = "maximum_attempts_reached"
NON_RETRYABLE: Final = "non_retryable_failure"
SCHEDULE_TO_CLOSE: Final = "timeout"
CANCEL_REQUESTED: Final = "cancel_requested"
OUTCOME_UNKNOWN: Final = "outcome_unknown"
"""Nobody knows whether the attempt took effect; of failures, their kind, too."""
IN_DOUBT: Final = "in_doubt"
"""The same, and an operator is to say what follows: that is no end yet."""


class Retry(msgspec.Struct, frozen=True):
    """The next attempt is due after `delay` microseconds."""

    delay: int


class GiveUp(msgspec.Struct, frozen=True):
    """There is no further attempt; `retry_state` says why."""

    retry_state: str


def decide(
    settings: ActivitySettings,
    *,
    attempt: int,
    failure: Failure,
    scheduled_at: int,
    now: int,
    key: str = "",
    not_before: int = 0,
) -> Retry | GiveUp:
    """Decide what follows a failed attempt.

    `key` names the attempt among all that there are; its jitter follows from that. The
    next one is not due before the instant `not_before`.

    A failure that may not be tried again is named so even on the last attempt. A next
    attempt that would begin after `schedule_to_close_timeout` ends the activity now.
    """
    policy = settings.retry_policy
    if not is_retryable(policy, failure):
        return GiveUp(NON_RETRYABLE)
    if policy.max_attempts and attempt >= policy.max_attempts:
        return GiveUp(MAXIMUM_ATTEMPTS_REACHED)
    delay = failure.next_retry_delay
    if delay is None:
        delay = backoff(policy, attempt, key)
    delay = max(delay, not_before - now)
    deadline = settings.schedule_to_close_timeout
    if deadline is not None and now + delay >= scheduled_at + deadline:
        return GiveUp(SCHEDULE_TO_CLOSE)
    return Retry(delay)


def backoff(policy: RetrySettings, attempt: int, key: str = "") -> int:
    """The wait after attempt `attempt`, in microseconds.

    With jitter it is shorter by up to that fraction: by which share of it, a digest of
    `key` says, so that it is the same whoever asks, and wherever.
    """
    interval: float = policy.max_interval
    with contextlib.suppress(OverflowError):
        factor = policy.backoff_coefficient ** (attempt - 1)
        interval = min(interval, policy.initial_interval * factor)
    if policy.jitter:
        interval *= 1 - policy.jitter * _share(key)
    return int(interval)


def stagger(lost: int, key: str) -> int:
    """The wait before the attempt after `lost` lost ones, in microseconds.

    Whatever ran beside an activity that kills its process was lost with it. From the
    second time on all of them wait, for as long as a digest of `key` says, so that they
    do not begin at once again: what waits is not lost.
    """
    if lost < 2:
        return 0
    longest = min(
        limits.LOST_WAIT_SECONDS * 2 ** (lost - 2), limits.LOST_WAIT_SECONDS_MAX
    )
    return int(longest * 1_000_000 * _share(key))


def _share(key: str) -> float:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_retryable(policy: RetrySettings, failure: Failure) -> bool:
    """Whether the policy lets this failure be tried again, attempts aside.

    A timed-out attempt always is, unless the whole activity's time is up.
    """
    if failure.kind == "timeout":
        return failure.timeout_type in ("start_to_close", "heartbeat")
    if failure.kind in ("cancelled", "terminated") or failure.non_retryable:
        return False
    if any(_matches(pattern, failure) for pattern in policy.non_retryable):
        return False
    if not policy.retryable_errors:
        return True
    return any(
        _matches(pattern, failure) or pattern in failure.message
        for pattern in policy.retryable_errors
    )


def _matches(pattern: str, failure: Failure) -> bool:
    return pattern == failure.type or pattern in failure.bases

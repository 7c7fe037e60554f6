"""Retry policies written out as plain data."""

from __future__ import annotations

import msgspec

from durable.core.history.commands import ONE_ATTEMPT, RetrySettings
from durable.errors import InvalidOptionError
from durable.options import RetryPolicy, to_microseconds


def retry_settings(policy: object, where: str) -> RetrySettings:
    """Write a retry policy out as plain data; `None` is one attempt.

    Raises:
        InvalidOptionError: it is no RetryPolicy.
    """
    if policy is None:
        return ONE_ATTEMPT
    if not isinstance(policy, RetryPolicy):
        raise InvalidOptionError(
            f"retry {where} is {policy!r}: give a RetryPolicy, or None for one attempt."
        )
    return RetrySettings(
        max_attempts=policy.max_attempts,
        initial_interval=to_microseconds(policy.initial_interval, "initial_interval"),
        max_interval=to_microseconds(policy.max_interval, "max_interval"),
        backoff_coefficient=float(policy.backoff_coefficient),
        retryable_errors=tuple(map(_pattern, policy.retryable_errors)),
        non_retryable=tuple(map(_pattern, policy.non_retryable)),
        # Left out where there is none: so it was recorded before there could be one.
        jitter=float(policy.jitter) or msgspec.UNSET,
    )


def _pattern(pattern: str | type[BaseException]) -> str:
    return pattern if isinstance(pattern, str) else pattern.__name__

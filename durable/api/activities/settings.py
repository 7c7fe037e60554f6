"""Options of activities, and retry policies, checked and written out as recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from durable import limits
from durable.api.activities.effects import effect_settings
from durable.api.activities.kinds import USUAL, ActivityKind
from durable.core.history.commands import (
    ONE_ATTEMPT,
    ActivitySettings,
    RetrySettings,
)
from durable.errors import InvalidOptionError
from durable.options import (
    ActivityCancellationType,
    ActivityOptions,
    RetryPolicy,
    check_id,
    to_microseconds,
)

_NOT_OF_LOCAL: Final = {
    "task_queue": "it runs in the process that owns its run",
    "schedule_to_start_timeout": "it waits for no worker",
    "heartbeat_timeout": "what takes so long is to be recorded before it begins",
    **dict.fromkeys(("priority", "fairness_key"), "it waits in no queue"),
}


def settings_of(
    name: str, options: ActivityOptions, kind: ActivityKind = USUAL
) -> ActivitySettings:
    """Write the options of an activity out.

    Raises:
        InvalidOptionError, InvalidDurationError, InvalidIdError: one has a wrong value.
    """
    where = f"of activity {name!r}"

    def duration(key: str) -> int | None:
        value = options.get(key)
        if value is None:
            return None
        microseconds = to_microseconds(value, f"{key} {where}")  # type: ignore[arg-type]  # by the key
        if microseconds == 0:
            raise InvalidOptionError(
                f"{key} {where} is 0: nothing could finish in time.",
                hint="Give a positive duration, or None for no limit.",
            )
        return microseconds

    start_to_close = duration("start_to_close_timeout")
    schedule_to_close = duration("schedule_to_close_timeout")
    if start_to_close is None and schedule_to_close is None:
        raise InvalidOptionError(
            f"Activity {name!r} has neither start_to_close_timeout nor"
            " schedule_to_close_timeout, so a lost attempt would never be noticed.",
            hint="Set one of them.",
        )
    cancellation = options.get("cancellation_type")
    if not isinstance(cancellation, ActivityCancellationType):
        raise InvalidOptionError(
            f"cancellation_type {where} is {cancellation!r}:"
            " give an ActivityCancellationType."
        )
    if not isinstance(options.get("match_arguments"), bool):
        raise InvalidOptionError(f"match_arguments {where} is no bool.")
    task_queue = options.get("task_queue")
    if task_queue is not None:
        check_id(task_queue, f"task_queue {where}")
    return ActivitySettings(
        task_queue=task_queue or "",
        start_to_close_timeout=start_to_close,
        schedule_to_close_timeout=schedule_to_close,
        schedule_to_start_timeout=duration("schedule_to_start_timeout"),
        heartbeat_timeout=duration("heartbeat_timeout"),
        retry_policy=retry_settings(options.get("retry"), where),
        cancellation_type=cancellation.value,
        **effect_settings(options, kind.verify, where),
        **turn_settings(options, where),
        **_local_settings(options, kind, where),
    )


def _local_settings(
    options: ActivityOptions, kind: ActivityKind, where: str
) -> dict[str, Any]:
    """Whether it is local, and whether all else that was asked for can be so."""
    is_local = options.get("local", False)
    if not isinstance(is_local, bool):
        raise InvalidOptionError(f"local {where} is {is_local!r}, no bool.")
    if not is_local:
        return {}
    asked: Mapping[str, Any] = options
    for name, reason in _NOT_OF_LOCAL.items():
        if asked.get(name) is not None:
            raise InvalidOptionError(
                f"{name} {where} is {asked[name]!r}, but it is local: {reason}.",
                hint=f"Leave out {name}, or local.",
            )
    for name, value, reason in (
        ("effect", options.get("effect"), "a crash runs it again, whatever it did"),
        ("run_in", kind.run_in, "it runs in the process that owns its run"),
        ("auto_heartbeat", kind.auto_heartbeat, _NOT_OF_LOCAL["heartbeat_timeout"]),
    ):
        if value in ("once", "transaction", "process", True):
            raise InvalidOptionError(
                f"{name} {where} is {value!r}, but it is local: {reason}.",
                hint=f"Leave out local: {name} needs its record.",
            )
    return {"is_local": True}


def turn_settings(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read when something comes, of what waits in a queue.

    Raises:
        InvalidOptionError, InvalidIdError: an option breaks its rule.
    """
    priority, key = options.get("priority"), options.get("fairness_key")
    weight = options.get("fairness_weight", 1)
    for name, value, most in (
        ("priority", 1 if priority is None else priority, 5),
        ("fairness_weight", weight, 1_000),
    ):
        if type(value) is not int or not 1 <= value <= most:
            raise InvalidOptionError(
                f"{name} {where} is {value!r}: give a whole number from 1 to {most:,}."
            )
    if key is not None:
        check_id(key, f"fairness_key {where}")
        if len(key) > limits.FAIRNESS_KEY_CHARS_MAX:
            raise InvalidOptionError(
                f"fairness_key {where} is {key[:80]!r}, of {len(key)} characters; at"
                f" most {limits.FAIRNESS_KEY_CHARS_MAX} are kept.",
                hint="Shorten it, or use a digest of it.",
            )
    return {
        "priority": priority,
        "fairness_key": key or "",
        "fairness_weight": weight,
    }


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

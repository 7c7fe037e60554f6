"""Where the function of an activity runs, for what, and how its doubts are resolved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from durable.errors import InvalidOptionError
from durable.options import RetryBudget

Verify: TypeAlias = Callable[..., object]
"""Takes an activity's arguments; gives `Done` or `NotDone`, or raises."""


class ActivityKind(msgspec.Struct, frozen=True):
    """Where the function of an activity runs, and for which activities.

    Attributes:
        run_in: "thread" or "process", if it is a plain function.
        cancel_thread: whether a cancellation is raised in it.
        dynamic: whether it runs whatever no other activity is there for.
        auto_heartbeat: whether its worker says for it that it goes on.
        verify: finds out what an attempt in doubt has done.
        retry_budget: how many retries of it a worker begins.
    """

    run_in: Literal["thread", "process"] = "thread"
    cancel_thread: bool = True
    dynamic: bool = False
    auto_heartbeat: bool = False
    verify: Verify | None = None
    retry_budget: RetryBudget | None = None


USUAL: Final = ActivityKind()


def check_kind(
    run_in: object,
    cancel_thread: object,
    dynamic: object,
    auto_heartbeat: object,
    verify: object = None,
    retry_budget: object = None,
) -> ActivityKind:
    """Where and for what an activity runs, as it was written.

    Raises:
        InvalidOptionError: a value is none that there is.
    """
    if run_in not in ("thread", "process"):
        raise InvalidOptionError(
            f"run_in of an activity is {run_in!r}: give 'thread' or 'process'."
        )
    for name, value in (
        ("cancel_thread", cancel_thread),
        ("dynamic", dynamic),
        ("auto_heartbeat", auto_heartbeat),
    ):
        if not isinstance(value, bool):
            raise InvalidOptionError(f"{name} of an activity is {value!r}, no bool.")
    if retry_budget is not None and not isinstance(retry_budget, RetryBudget):
        raise InvalidOptionError(
            f"retry_budget of an activity is {retry_budget!r}: give a RetryBudget."
        )
    kind = ActivityKind(
        *(run_in, cancel_thread, dynamic, auto_heartbeat, verify, retry_budget)  # type: ignore[arg-type]  # as checked above
    )
    return USUAL if kind == USUAL else kind

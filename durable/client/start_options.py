"""How a run is started: what was said, and what goes for what was not."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from durable.errors import InvalidOptionError
from durable.options import (
    ALLOW_DUPLICATE,
    REJECT_DUPLICATE,
    TERMINATE_EXISTING,
    USE_EXISTING,
    USE_SAME,
    Duration,
    IdConflictPolicy,
    IdReuse,
    IdReusePolicy,
    OnConflict,
    check_id,
    to_conflict_policy,
    to_microseconds,
    to_reuse_policy,
)

START_OPTION_NAMES: Final = frozenset(
    {
        "id",
        "on_conflict",
        "id_reuse",
        "request_id",
        "run_timeout",
        "execution_timeout",
        "task_queue",
        "memo",
        "with_signal",
    }
)
"""What a start may be told beside its call."""


class StartOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one run is started; durations in microseconds."""

    workflow_id: str | None
    on_conflict: IdConflictPolicy | None
    id_reuse: IdReusePolicy | None
    request_id: str | None
    run_timeout: int | None
    execution_timeout: int | None
    task_queue: str | None
    memo: dict[str, Any]
    first: Any = None
    """A signal's event or an update that the first turn sees, if any."""

    @property
    def conflict_policy(self) -> IdConflictPolicy:
        """What was chosen, or the default."""
        return self.on_conflict or USE_SAME

    @property
    def reuse_policy(self) -> IdReusePolicy:
        """What was chosen, or the default: what else has been said goes before."""
        if self.id_reuse is not None:
            return self.id_reuse
        # An id of our own making was never used. Whoever wants the open run replaced,
        # or some run to have a message, cannot mean one that has closed.
        is_new = (
            self.workflow_id is None
            or self.on_conflict is TERMINATE_EXISTING
            or (self.first is not None and self.on_conflict is USE_EXISTING)
        )
        return ALLOW_DUPLICATE if is_new else REJECT_DUPLICATE


def start_options(
    *,
    workflow_id: str | None,
    on_conflict: OnConflict | None,
    id_reuse: IdReuse | None,
    request_id: str | None,
    run_timeout: Duration | None,
    execution_timeout: Duration | None,
    task_queue: str | None,
    memo: dict[str, Any] | None,
) -> StartOptions:
    """Check the options of a start.

    Raises:
        InvalidIdError, InvalidOptionError, InvalidDurationError: one breaks its rule.
    """
    for value, name in (
        (workflow_id, "the workflow id"),
        (request_id, "the request id"),
        (task_queue, "the task queue"),
    ):
        if value is not None:
            check_id(value, name)
    return StartOptions(
        workflow_id=workflow_id,
        on_conflict=None if on_conflict is None else to_conflict_policy(on_conflict),
        id_reuse=None if id_reuse is None else to_reuse_policy(id_reuse),
        request_id=request_id,
        run_timeout=_positive(run_timeout, "run_timeout"),
        execution_timeout=_positive(execution_timeout, "execution_timeout"),
        task_queue=task_queue,
        memo=memo or {},
    )


def _positive(value: Duration | None, name: str) -> int | None:
    if value is None:
        return None
    microseconds = to_microseconds(value, name)
    if microseconds == 0:
        raise InvalidOptionError(f"{name} is 0: give a positive duration, or None.")
    return microseconds

"""How a run is started: what was said, and what goes for what was not."""

from __future__ import annotations

from typing import Any

import msgspec
from typing_extensions import TypedDict

from durable.api.child_options import timeout_of
from durable.api.messages import SignalCall
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
    check_option_names,
    to_conflict_policy,
    to_reuse_policy,
)


class UpdateStartOptions(TypedDict, total=False):
    """Options of a start that comes with an update; see `Engine.start`."""

    id_reuse: IdReuse | None
    request_id: str | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    task_queue: str | None
    memo: dict[str, Any] | None


class StartOptions(UpdateStartOptions, total=False):
    """What a start may be told beside its call; see `Engine.start`."""

    id: str | None
    on_conflict: OnConflict | None
    with_signal: SignalCall | None


class StartSettings(msgspec.Struct, frozen=True, kw_only=True):
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


def start_settings(options: StartOptions) -> StartSettings:
    """Check the options of a start; the signal is left to others.

    Raises:
        InvalidIdError, InvalidOptionError, InvalidDurationError: one breaks its rule.
    """
    check_option_names(options, StartOptions.__annotations__, "option of a start")
    for key, name in (
        ("id", "the workflow id"),
        ("request_id", "the request id"),
        ("task_queue", "the task queue"),
    ):
        if options.get(key) is not None:
            check_id(options[key], name)  # type: ignore[literal-required]  # from above
    on_conflict, id_reuse = options.get("on_conflict"), options.get("id_reuse")
    return StartSettings(
        workflow_id=options.get("id"),
        on_conflict=None if on_conflict is None else to_conflict_policy(on_conflict),
        id_reuse=None if id_reuse is None else to_reuse_policy(id_reuse),
        request_id=options.get("request_id"),
        run_timeout=timeout_of(options.get("run_timeout"), "run_timeout"),
        execution_timeout=timeout_of(
            options.get("execution_timeout"), "execution_timeout"
        ),
        task_queue=options.get("task_queue"),
        memo=options.get("memo") or {},
    )

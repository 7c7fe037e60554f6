"""What a schedule is told: when to act, what to run, and by which policies."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import Any, Final

import msgspec

from durable import limits
from durable.api.workflows.child_options import (
    START_OPTIONS,
    encode_memo,
    refuse_others,
    retry_of,
    timeout_of,
)
from durable.api.workflows.workflow_definition import WorkflowCall, workflow_of
from durable.core.history.commands import RetrySettings
from durable.core.history.payload import Payload, Payloads
from durable.errors import InvalidCallError, InvalidIdError, InvalidScheduleError
from durable.options import RetryPolicy, check_id, spell_out, to_microseconds
from durable.schedules.spec import ScheduleSpec
from durable.search.attributes import encode_attributes
from durable.suggestions import ending_with_closest

ID_ROOM: Final = 40
"""Bytes that the time takes in the workflow id of what a schedule starts."""


class ScheduleOverlap(enum.Enum):
    """What to do when it is time and the run before is still open.

    It is decided when there is something to decide: a change of the policy goes for
    what waits already.
    """

    SKIP = "skip"
    """Start nothing: the time is skipped, and counted."""
    BUFFER_ONE = "buffer_one"
    """Start one when the open run ends; skip all that come meanwhile."""
    BUFFER_ALL = "buffer_all"
    """Start all, one after the other; at most 1,000 wait."""
    CANCEL_OTHER = "cancel_other"
    """Ask the open run to stop, and start when it has ended."""
    TERMINATE_OTHER = "terminate_other"
    """Terminate the open run, and start."""
    ALLOW_ALL = "allow_all"
    """Start beside it. Such runs have no last result, and pause nothing."""


def to_overlap(value: object) -> ScheduleOverlap:
    """Read an overlap policy.

    Raises:
        InvalidScheduleError: it is neither a policy nor one's value.
    """
    try:
        return ScheduleOverlap(value)
    except ValueError:
        words = [policy.value for policy in ScheduleOverlap]
        raise InvalidScheduleError(
            f"overlap is {value!r}: give one of {', '.join(map(repr, words))}"
            f"{ending_with_closest(value, words)}",
            field="overlap",
        ) from None


class ScheduleAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a schedule starts; durations in microseconds.

    Attributes:
        workflow_id: what the workflow ids of its runs begin with.
    """

    workflow_type: str
    input: Payloads
    workflow_id: str
    task_queue: str | None = None
    run_timeout: int | None = None
    execution_timeout: int | None = None
    memo: dict[str, Payload] = {}
    retry: RetrySettings | None = None
    attributes: dict[str, Payload] = {}


def action_of(
    call: WorkflowCall[Any], schedule_id: str, retry: RetryPolicy | None
) -> ScheduleAction:
    """What a call of a workflow, with its options, asks a schedule to start.

    Raises:
        InvalidCallError: it is no call, or has options that mean nothing here.
        InvalidInputError: an option breaks its rule.
    """
    if not isinstance(call, WorkflowCall):
        known = workflow_of(call)
        raise InvalidCallError(
            f"{call!r} is no workflow call.",
            hint="Give a call of a workflow, such as send_report(team)."
            if known is None
            else f"Call it: {known.function.__qualname__}(...).",
        )
    call.is_used = True
    definition, options = call.definition, call.child_options
    name = definition.name
    refuse_others(options, START_OPTIONS - {"id_reuse"}, name, "a schedule")
    base = options.get("id") or schedule_id
    if len(check_id(base, "the id of a schedule's runs").encode()) > (
        limits.ID_BYTES_MAX - ID_ROOM
    ):
        raise InvalidIdError(
            f"The id {base[:40]!r}... is too long for a schedule's runs: theirs has the"
            f" time behind it, so give at most {limits.ID_BYTES_MAX - ID_ROOM} bytes."
        )
    queue = options.get("task_queue") or definition.task_queue
    return ScheduleAction(
        workflow_type=name,
        input=call.input,
        workflow_id=base,
        task_queue=None if queue is None else check_id(queue, "task_queue"),
        run_timeout=timeout_of(options.get("run_timeout"), "run_timeout")
        or definition.run_timeout,
        execution_timeout=timeout_of(
            options.get("execution_timeout"), "execution_timeout"
        )
        or definition.execution_timeout,
        memo=encode_memo(options.get("memo") or {}),
        retry=retry_of(retry or options.get("retry"), "of a schedule"),
        attributes=encode_attributes(
            options.get("attributes") or {}, "attributes of a schedule"
        ),
    )


class ScheduleDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a schedule is told; `replace` gives a changed one.

    Attributes:
        action: what it starts.
        spec: when.
        overlap: what to do if the run before is still open.
        catchup_window: after an outage, times that are longer ago than this are missed,
            not made up for; 10 s at least, 365 days by default.
        pause_on_failure: pause when a run fails or times out, after its retries.
        paused: whether it starts nothing by itself.
        note: why, or whatever else there is to say.
        remaining_actions: how often it still starts something by itself; None is
            without end. Triggers and backfills neither heed nor change it.

    Raises:
        InvalidScheduleError, InvalidDurationError: a value breaks its rule.
    """

    action: ScheduleAction
    spec: ScheduleSpec
    overlap: ScheduleOverlap = ScheduleOverlap.SKIP
    catchup_window: timedelta = timedelta(days=365)
    pause_on_failure: bool = False
    paused: bool = False
    note: str = ""
    remaining_actions: int | None = None

    def __post_init__(self) -> None:
        """Refuse what breaks a rule."""
        window = timedelta(
            microseconds=to_microseconds(self.catchup_window, "catchup_window")
        )
        if window < timedelta(seconds=10):
            raise InvalidScheduleError(
                f"catchup_window is {self.catchup_window!r}: give at least 10 s, or a"
                " worker that restarts would miss times.",
                field="catchup_window",
            )
        remaining: object = self.remaining_actions
        if remaining is not None and (
            not isinstance(remaining, int)
            or isinstance(remaining, bool)
            or remaining < 0
        ):
            raise InvalidScheduleError(
                f"remaining_actions is {remaining!r}: give a number, or None.",
                field="remaining_actions",
            )
        for name, kind in (("pause_on_failure", bool), ("paused", bool), ("note", str)):
            value: object = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidScheduleError(
                    f"{name} of a schedule is {value!r}: give a {kind.__name__}.",
                    field=name,
                )
        msgspec.structs.force_setattr(self, "note", spell_out(self.note))
        msgspec.structs.force_setattr(self, "catchup_window", window)
        msgspec.structs.force_setattr(self, "overlap", to_overlap(self.overlap))

    def replace(self, **changes: Any) -> ScheduleDefinition:
        """The same with other values, checked again; for callbacks of `update`.

            definition.replace(spec=schedule_spec("@hourly"), note="more often")

        Args:
            **changes: attributes; and `call=` for another call of a workflow.

        Raises:
            InvalidInputError: a value breaks its rule.
        """
        call = changes.pop("call", None)
        if call is not None:
            action = action_of(call, self.action.workflow_id, None)
            retry = self.action.retry
            changes["action"] = msgspec.structs.replace(action, retry=retry)
        unknown = changes.keys() - set(self.__struct_fields__)
        if unknown:
            name = min(unknown)
            raise InvalidScheduleError(
                f"A schedule has no {name!r}"
                f"{ending_with_closest(name, [*self.__struct_fields__, 'call'])}",
                field=name,
            )
        return msgspec.structs.replace(self, **changes)

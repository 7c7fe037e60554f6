"""Options that a workflow call carries: how it runs as a child, or how it is started.

They are checked where they are written, by `Workflow.options(...)`. What a child
inherits from its parent is worked out when it is asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import msgspec
from typing_extensions import TypedDict

from durable.api.activities.settings import retry_settings
from durable.converter import json
from durable.core.history.commands import ChildSettings, RetrySettings
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ChildTarget, WorkflowRuntime
from durable.errors import InvalidCallError, InvalidOptionError
from durable.options import (
    ChildCancellationType,
    Duration,
    IdReuse,
    IdReusePolicy,
    ParentClosePolicy,
    RetryPolicy,
    check_id,
    check_option_names,
    to_label,
    to_microseconds,
    to_reuse_policy,
)
from durable.search.attributes import encode_attributes
from durable.search.conditions import Attribute

_E = TypeVar("_E", bound=enum.Enum)


class SharedOptions(TypedDict, total=False):
    """Options of a workflow call, besides `propagate_failures`.

    Keys:
        id: the workflow id; a child without one gets a random one, the same on replay.
        task_queue: where it runs; the workflow's own queue by default, else that of
            the parent or engine.
        run_timeout: the longest one run may take.
        execution_timeout: the longest the whole chain of runs may take.
        id_reuse: whether another run may begin under the id of a closed one; of a
            child it may ("new_run") by default.
        memo: plain values kept with the run.
        attributes: what it is found by, by `Attribute`.
        parent_close_policy: what becomes of the child when its parent closes.
        cancellation_type: what awaiting it does when cancelled.
        wait_for_cancellation: False is short for `ChildCancellationType.TRY_CANCEL`.
        inherit_parent_timeout: False lets the child run for longer than its parent
            may. Otherwise its run timeout is at most what the parent has left.
        retry: when a run that failed, or passed its run timeout, is begun again: as a
            new run of its id with the same input and a history of its own. Nobody who
            waits for the result notices before the last try.
        summary: a label for timelines; never compared on replay.
    """

    id: str | None
    task_queue: str | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    id_reuse: IdReuse
    memo: dict[str, Any]
    attributes: Mapping[Attribute[Any], Any]
    parent_close_policy: ParentClosePolicy
    cancellation_type: ChildCancellationType
    wait_for_cancellation: bool
    inherit_parent_timeout: bool
    retry: RetryPolicy | None
    summary: str | None


class ChildOptions(SharedOptions, total=False):
    """All options of a workflow call, as they were given.

    Keys:
        propagate_failures: False makes awaiting give None when the child fails.
    """

    propagate_failures: bool


START_OPTIONS: Final = frozenset(
    {
        "id",
        "task_queue",
        "run_timeout",
        "execution_timeout",
        "id_reuse",
        "memo",
        "retry",
        "attributes",
    }
)
"""Those that an engine heeds; the others speak of a parent."""
CONTINUE_OPTIONS: Final = frozenset({"task_queue", "run_timeout", "memo", "attributes"})
"""Those that continuing as new heeds."""


def merge(base: ChildOptions, more: dict[str, Any]) -> ChildOptions:
    """Lay further options over others.

    Raises:
        InvalidOptionError: an option does not exist.
    """
    check_option_names(more, ChildOptions.__annotations__, "option of a workflow call")
    merged: ChildOptions = {**base, **more}  # type: ignore[typeddict-item]  # names were checked above
    return merged


def refuse_others(
    options: ChildOptions, allowed: Collection[str], name: str, who: str
) -> None:
    """Refuse options of a call that whoever takes the call has no use for.

    Args:
        options: the options of the call.
        allowed: which of them have a meaning here.
        name: the workflow's name.
        who: what takes the call.

    Raises:
        InvalidCallError: there are others.
    """
    others = sorted(set(options) - set(allowed))
    if others:
        raise InvalidCallError(
            f"The call of workflow {name!r} has the options {', '.join(others)},"
            f" which {who} has no use for.",
            hint="They are for calls that a workflow awaits: for its children.",
        )


def child_target(
    workflow_type: str,
    differing_input: Callable[[Payloads, Payloads], str | None],
    options: ChildOptions,
    *,
    version: str | None,
    task_queue: str | None,
    run_timeout: int | None,
    execution_timeout: int | None,
) -> ChildTarget:
    """Write the options of a child out; the last four are the workflow's own.

    Raises:
        InvalidOptionError, InvalidDurationError, InvalidIdError: one breaks its rule.
        PayloadError: a memo's value is no plain data.
    """
    where = f"of workflow {workflow_type!r}"
    workflow_id = options.get("id")
    if workflow_id is not None:
        check_id(workflow_id, f"the id {where}")
    queue = options.get("task_queue")
    if queue is not None:
        check_id(queue, f"task_queue {where}")
    summary = to_label(options.get("summary"), f"summary {where}")
    for flag in (
        "inherit_parent_timeout",
        "propagate_failures",
        "wait_for_cancellation",
    ):
        if not isinstance(options.get(flag, True), bool):
            raise InvalidOptionError(f"{flag} {where} is no bool.")
    settings = ChildSettings(
        task_queue=queue or task_queue or "",
        run_timeout=timeout_of(options.get("run_timeout"), f"run_timeout {where}")
        or run_timeout,
        execution_timeout=timeout_of(
            options.get("execution_timeout"), f"execution_timeout {where}"
        )
        or execution_timeout,
        parent_close_policy=_member(
            options, "parent_close_policy", ParentClosePolicy.TERMINATE, where
        ).value,
        cancellation_type=_cancellation_type(options, where).value,
        id_reuse_policy=to_reuse_policy(
            options.get("id_reuse", IdReusePolicy.ALLOW_DUPLICATE), f"id_reuse {where}"
        ).value,
        version=version,
        memo=encode_memo(options.get("memo") or {}),
        inherit_parent_timeout=options.get("inherit_parent_timeout", True),
        propagate_failures=options.get("propagate_failures", True),
        retry_policy=retry_of(options.get("retry"), where) or msgspec.UNSET,
        attributes=encode_attributes(
            options.get("attributes") or {}, f"attributes {where}"
        ),
    )
    return ChildTarget(workflow_type, settings, summary, differing_input)


def _member(options: ChildOptions, key: str, default: _E, where: str) -> _E:
    value: object = options.get(key, default)
    kind = type(default)
    if not isinstance(value, kind):
        raise InvalidOptionError(f"{key} {where} is {value!r}: give a {kind.__name__}.")
    return value


def _cancellation_type(options: ChildOptions, where: str) -> ChildCancellationType:
    chosen = _member(
        options,
        "cancellation_type",
        ChildCancellationType.WAIT_CANCELLATION_COMPLETED,
        where,
    )
    waits = options.get("wait_for_cancellation")
    if waits is None:
        return chosen
    if "cancellation_type" in options and waits is not _waits(chosen):
        raise InvalidOptionError(
            f"wait_for_cancellation={waits} {where} contradicts cancellation_type"
            f"={chosen}.",
            hint="Give one of them.",
        )
    if waits or chosen is ChildCancellationType.ABANDON:
        return chosen
    return ChildCancellationType.TRY_CANCEL


def _waits(kind: ChildCancellationType) -> bool:
    return kind in (
        ChildCancellationType.WAIT_CANCELLATION_REQUESTED,
        ChildCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


def encode_memo(memo: dict[str, Any]) -> dict[str, Payload]:
    """Turn a memo into payloads.

    Raises:
        InvalidOptionError: it is no mapping of texts.
        PayloadError: a value is no plain data.
    """
    given: object = memo
    if not isinstance(given, Mapping) or not all(
        isinstance(key, str) and key == to_label(key, "a key") for key in memo
    ):
        raise InvalidOptionError(f"memo is {given!r}: give a dict of texts to values.")
    return {
        key: json.encode(value, Any, f"memo {key!r}") for key, value in memo.items()
    }


def retry_of(policy: object, where: str) -> RetrySettings | None:
    """Write a workflow's retry policy out; None for none.

    Raises:
        InvalidOptionError: it is no RetryPolicy.
    """
    return None if policy is None else retry_settings(policy, where)


def timeout_of(value: Duration | None, name: str) -> int | None:
    """A timeout in microseconds, None for none.

    Raises:
        InvalidOptionError, InvalidDurationError: it is 0, or no duration.
    """
    if value is None:
        return None
    microseconds = to_microseconds(value, name)
    if microseconds == 0:
        raise InvalidOptionError(f"{name} is 0: give a positive duration, or None.")
    return microseconds


def within_parent(target: ChildTarget, runtime: WorkflowRuntime) -> ChildTarget:
    """The same child with no more time than its parent has left."""
    settings = target.settings
    if not settings.inherit_parent_timeout:
        return target
    left = runtime.time_left()
    own = settings.run_timeout
    if left is None or (own is not None and own <= left):
        return target
    return ChildTarget(
        target.workflow_type,
        msgspec.structs.replace(settings, run_timeout=left),
        target.summary,
        target.differing_input,
    )

"""What an operator may change of an activity that waits, and what its row is then."""

from __future__ import annotations

from typing import Any

import msgspec
from typing_extensions import TypedDict

from durable.api.activities.activity import DEFAULTS, merge_options
from durable.api.activities.settings import settings_of
from durable.core.history.commands import ActivitySettings
from durable.errors import InvalidOptionError
from durable.options import Duration, RetryPolicy, check_option_names
from durable.runs.activity_tasks.task_rows import (
    data_of,
    encode,
    ends_by,
    progress_of,
    starts_by,
)
from durable.store.activity_tasks import ActivityTaskRecord, TaskState


class TaskOptions(TypedDict, total=False):
    """Options of an activity that may change while it waits; see `ActivityOptions`.

    Keys:
        max_attempts: that of the retry policy alone, which stays otherwise.
    """

    retry: RetryPolicy | None
    max_attempts: int
    start_to_close_timeout: Duration | None
    schedule_to_close_timeout: Duration | None
    schedule_to_start_timeout: Duration | None
    heartbeat_timeout: Duration | None
    task_queue: str


def changes_of(record: ActivityTaskRecord, options: TaskOptions) -> dict[str, Any]:
    """What `UpdateActivityTask` is to do for these options.

    Raises:
        InvalidOptionError, InvalidDurationError: one has a wrong value.
    """
    data = data_of(record)
    scheduled, scheduled_at = data.scheduled, data.scheduled_at
    settings = _changed(record.activity_type, scheduled.settings, options)
    scheduled = msgspec.structs.replace(scheduled, settings=settings)
    is_external = record.state is TaskState.EXTERNAL
    if is_external:
        started_at = record.started_at or record.due_at
        heard_at = record.heartbeat_at or started_at
        expires_at, _ = ends_by(settings, scheduled_at, started_at, heard_at)
    else:
        since = progress_of(record).waits_since or record.due_at
        expires_at, _ = starts_by(settings, scheduled_at, since)
    return {
        "state": TaskState.EXTERNAL if is_external else TaskState.WAITING,
        "data": encode(msgspec.structs.replace(data, scheduled=scheduled)),
        "expires_at": -1 if expires_at is None else expires_at,  # none any more
        "task_queue": options.get("task_queue"),
    }


def _changed(
    name: str, settings: ActivitySettings, options: TaskOptions
) -> ActivitySettings:
    check_option_names(options, TaskOptions.__annotations__, "option to change")
    if not options:
        raise InvalidOptionError(
            f"Nothing was given that is to change of activity {name!r}.",
            hint="Give it, such as start_to_close_timeout='10m'.",
        )
    # One of two must be there; which of them is, is looked at below.
    base = merge_options(DEFAULTS, {"schedule_to_close_timeout": 1})
    given: dict[str, Any] = {**options}
    attempts = given.pop("max_attempts", None)
    asked = settings_of(name, merge_options(base, given))
    if "task_queue" in options and not asked.task_queue:
        raise InvalidOptionError(f"task_queue of activity {name!r} is None: name one.")
    fields = ["retry_policy" if one == "retry" else one for one in given]
    changed = msgspec.structs.replace(
        settings, **{field: getattr(asked, field) for field in fields}
    )
    if attempts is not None:
        RetryPolicy(max_attempts=attempts)  # or it raises
        policy = changed.retry_policy
        policy = msgspec.structs.replace(policy, max_attempts=attempts)
        changed = msgspec.structs.replace(changed, retry_policy=policy)
    if changed.start_to_close_timeout is changed.schedule_to_close_timeout is None:
        raise InvalidOptionError(
            f"Activity {name!r} would have neither start_to_close_timeout nor"
            " schedule_to_close_timeout, so a lost attempt would never be noticed.",
            hint="Leave it one of them.",
        )
    return changed

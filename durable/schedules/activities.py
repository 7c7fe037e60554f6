"""What schedules have engines do for them: activities of the library's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from durable.api.activities.activity_context import ActivityInfo
from durable.client.client import Client
from durable.client.start_options import StartSettings
from durable.converter import json
from durable.core.history.payload import Payload, Payloads
from durable.errors import (
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import IdConflictPolicy
from durable.schedules.packing import pack, unpack
from durable.schedules.schedule_workflow import (
    FIND_END,
    FIND_TIMES,
    START_BESIDE,
    TERMINATE,
    Beside,
    TimesFound,
    TimesWanted,
    attributes_of,
    memo_of,
    reuse_policy,
)
from durable.store.queries import FindRun

_PAGE: Final = 1_000
"""Past times that are worked out at once, and held in memory and history."""
_AHEAD: Final = 16
_HORIZON: Final = 3_600
"""Seconds: further ahead no more than one time is worked out before it comes."""
_MISSED: Final = 10_000
"""Missed times that are counted at once: each holds the event loop for a moment."""

_SECOND: Final = 1_000_000


def schedule_activities(
    client: Client,
) -> dict[str, Callable[[Payloads, ActivityInfo], Awaitable[Payload]]]:
    """The activities by which schedules work out times, and reach runs."""
    return {
        FIND_TIMES: _find_times,
        START_BESIDE: partial(_start_beside, client),
        TERMINATE: partial(_terminate, client),
        FIND_END: partial(_find_end, client),
    }


async def _find_times(input: Payloads, _: ActivityInfo) -> Payload:
    wanted = unpack(input[0], TimesWanted)
    return pack(find_times(wanted))


def find_times(wanted: TimesWanted) -> TimesFound:
    """Work out the next times of a spec, and count those that are long over."""
    spec, seed = wanted.spec, wanted.seed
    found: list[tuple[int, int]] = []
    after, missed, nows = wanted.after // _SECOND, 0, wanted.now // _SECOND
    instant = spec.next_second(after)
    while (
        instant is not None
        and instant * _SECOND < wanted.not_before
        and spec.put_off(instant, seed) < wanted.not_before
    ):
        missed, after = missed + 1, instant
        if missed == _MISSED:
            return TimesFound([], after * _SECOND, missed, True)
        instant = spec.next_second(instant)
    ahead = 0
    while instant is not None and len(found) < _PAGE and ahead < _AHEAD:
        if found and instant > nows + _HORIZON:
            break
        found.append((instant * _SECOND, spec.put_off(instant, seed)))
        ahead += instant > nows
        instant = spec.next_second(instant)
    return TimesFound(found, after * _SECOND, missed, instant is not None)


async def _start_beside(client: Client, input: Payloads, info: ActivityInfo) -> Payload:
    """Start a run that nobody watches; give its run id, or nothing if there is one."""
    beside = unpack(input[0], Beside)
    action = beside.definition.action
    memo = action.memo | memo_of(beside.schedule_id, beside.scheduled_at)
    how = StartSettings(
        workflow_id=beside.workflow_id,
        on_conflict=IdConflictPolicy.FAIL,
        id_reuse=reuse_policy(beside.is_manual),
        request_id=info.idempotency_key,
        run_timeout=action.run_timeout,
        execution_timeout=action.execution_timeout,
        task_queue=action.task_queue,
        retry=action.retry,
        attributes=attributes_of(action, beside.schedule_id),
        memo={
            name: json.decode(value, Any, "the memo") for name, value in memo.items()
        },
    )
    try:
        handle = await client.start_recorded(action.workflow_type, action.input, how)
    except WorkflowAlreadyStartedError:
        return pack("")
    return pack(handle.run_id)


async def _terminate(client: Client, input: Payloads, _: ActivityInfo) -> Payload:
    workflow_id, run_id = unpack(input[0], tuple[str, str])
    try:
        handle = await client.find(workflow_id, run_id or None, None)
        await handle.terminate("the schedule's next time has come")
    except (WorkflowNotFoundError, WorkflowClosedError):
        return pack(False)
    return pack(True)


async def _find_end(client: Client, input: Payloads, _: ActivityInfo) -> Payload:
    """When the newest run of an id has closed."""
    workflow_id = unpack(input[0], str)
    record = await client.store.read(FindRun(client.namespace, workflow_id))
    closed_at = None if record is None else record.closed_at
    at = client.store.now() if closed_at is None else closed_at
    return pack(at)

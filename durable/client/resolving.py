"""What an operator decides of an activity that is in doubt, or cannot be recorded."""

from __future__ import annotations

import secrets
from typing import Any

from durable import limits
from durable.api.activities.effects import Done, NotDone
from durable.api.registry import Registry
from durable.client.chain import Chain, Connection
from durable.converter import json
from durable.converter.failures import failure_of
from durable.core.history.codec import decode_rows
from durable.core.history.events import ActivityTaskScheduled
from durable.core.history.payload import Payload
from durable.core.messages import ActivityResolution, encode_message
from durable.errors import InvalidCallError, WorkflowClosedError
from durable.options import check_id
from durable.runs.activity_tasks import outside
from durable.runs.activity_tasks.task_rows import data_of, progress_of
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    CompleteActivity,
    TaskState,
)
from durable.store.queries import (
    ListActivityTasks,
    ReadAttempts,
    ReadHistory,
    TaskFilter,
)
from durable.store.records import AttemptRecord, AttemptState, MessageKind


async def retry_activity(chain: Chain, activity_id: str, identity: str) -> None:
    """Say that it is to be run again.

    Raises: as `complete_activity`, but for the result.
    """
    doubt = await _find_doubt(chain, activity_id)
    if doubt is not None:
        await settle_doubt(chain.connection, doubt, NotDone())
        return
    held = await _find_held(chain, activity_id)
    await _send(chain, held, None, identity)


async def fail_activity(chain: Chain, activity_id: str, error: BaseException) -> None:
    """Say that one in doubt has failed.

    Raises: as `complete_activity`, but for the result.
    """
    doubt = await _find_doubt(chain, activity_id)
    if doubt is None:
        held = await _find_held(chain, activity_id)
        raise InvalidCallError(
            f"Activity {activity_id!r} ({held.activity_type}) has returned: it cannot"
            " fail any more.",
            hint="Give its result, or have it run again.",
        )
    await settle_doubt(chain.connection, doubt, error)


async def complete_activity(
    chain: Chain, activity_id: str, result: Any, identity: str
) -> None:
    """Say what its result is.

    Raises:
        InvalidCallError: the run has no such activity that waits for this.
        PayloadError: the result does not fit the activity's annotation.
        WorkflowNotFoundError, WorkflowClosedError: the run is not open.
    """
    doubt = await _find_doubt(chain, activity_id)
    if doubt is not None:
        await settle_doubt(chain.connection, doubt, Done(result))
        return
    held = await _find_held(chain, activity_id)
    registry = chain.connection.registry
    payload = encode_result(registry, held.activity_type, result)
    await _send(chain, held, payload, identity)


def encode_result(registry: Registry, activity_type: str, result: object) -> Payload:
    """A result as its activity records it, if its code is known here.

    Raises:
        PayloadError: it does not fit the annotation.
    """
    activity = registry.find_activity(activity_type)
    if activity is None:
        return json.encode(result, type(result), "the result")
    return activity.call_signature.encode_result(result)


async def settle_doubt(
    connection: Connection,
    record: ActivityTaskRecord,
    verdict: Done[Any] | NotDone | BaseException,
    request_id: str | None = None,
) -> None:
    """Say what an attempt in doubt has done.

    Raises:
        InvalidCallError: it is not in doubt, or that is no verdict.
        ActivityNotFoundError, AttemptOverError: somebody else has said it before.
        PayloadError: the result does not fit the activity's annotation.
    """
    if not progress_of(record).in_doubt:
        raise InvalidCallError(
            f"Activity {record.activity_type!r} of run {record.run_id!r} is not in"
            f" doubt: it is {record.state.value}.",
            hint="`durable activity list` shows how it stands.",
        )
    said: dict[str, Any] = {
        "attempt": record.attempt,
        "request_id": request_id or f"resolve:{secrets.token_hex(8)}",
        "identity": connection.identity,
        "now": connection.store.now(),
    }
    if isinstance(verdict, NotDone):
        operation = outside.repeat(record, **said)
    elif isinstance(verdict, Done):
        registry = connection.registry
        payload = encode_result(registry, record.activity_type, verdict.result)
        operation = outside.complete(record, payload, **said)
    elif isinstance(verdict, BaseException):
        operation = outside.give_up(record, failure_of(verdict), **said)
    else:
        raise InvalidCallError(
            f"{verdict!r} says nothing of an attempt in doubt.",
            hint="Give Done(result), NotDone() or an exception.",
        )
    await end_activity(connection, operation)


async def end_activity(connection: Connection, operation: CompleteActivity) -> None:
    """Say what became of an attempt, and have whoever is concerned look.

    Raises: as the operation.
    """
    run_id: str = await connection.store.perform(operation)
    if operation.message is not None:
        connection.mailed(run_id)
    elif connection.worker is not None:
        connection.worker.changed()


async def _find_doubt(chain: Chain, activity_id: str) -> ActivityTaskRecord | None:
    run_id = (await chain.record()).run_id
    connection, after = chain.connection, None
    while True:
        state = TaskState.EXTERNAL
        where = TaskFilter(
            run_id=run_id, state=state, after=after, limit=limits.LIST_PAGE_MAX
        )
        query = ListActivityTasks(connection.namespace, where)
        found = await connection.store.read(query)
        for record in found:
            is_meant = data_of(record).scheduled.activity_id == activity_id
            if is_meant and progress_of(record).in_doubt:
                return record
        if len(found) < limits.LIST_PAGE_MAX:
            return None
        after = found[-1].key


async def _find_held(chain: Chain, activity_id: str) -> AttemptRecord:
    record, store = await chain.record(), chain.connection.store
    latest = {
        row.scheduled_event_id: row
        for row in await store.read(ReadAttempts(record.run_id))
    }
    events = decode_rows(await store.read(ReadHistory(record.run_id)))
    held = {
        event.attributes.activity_id: latest[event.event_id]
        for event in events
        if isinstance(event.attributes, ActivityTaskScheduled)
        and event.event_id in latest
        and latest[event.event_id].state is AttemptState.RETURNED
    }
    found = held.get(check_id(activity_id, "the activity id"))
    if found is None and record.closed_at is not None:
        raise WorkflowClosedError(
            f"Run {record.workflow_id!r} ({record.run_id}) is closed; none of its"
            " activities waits for a result."
        )
    if found is None:
        named = [f"{key} ({row.activity_type})" for key, row in held.items()]
        raise InvalidCallError(
            f"Run {record.workflow_id!r} has no activity {activity_id!r} that is in"
            " doubt, or whose result could not be recorded; of the latter there are:"
            f" {', '.join(named) or 'none'}.",
            hint="`durable show WORKFLOW_ID` names what a run waits for, and `durable"
            " activity list --in-doubt` what is in doubt.",
        )
    return found


async def _send(
    chain: Chain, held: AttemptRecord, result: Payload | None, identity: str
) -> None:
    resolution = ActivityResolution(
        scheduled_event_id=held.scheduled_event_id,
        attempt=held.attempt,
        result=result,
        identity=identity,
    )
    request_id = secrets.token_hex(16)
    data = encode_message(resolution)
    await chain.put(MessageKind.RESOLVE, request_id, data)

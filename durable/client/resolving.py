"""What an operator decides of an activity whose result could not be recorded."""

from __future__ import annotations

import secrets
from typing import Any

from durable.client.chain import Chain
from durable.converter import json
from durable.core.history.codec import decode_rows
from durable.core.history.events import ActivityTaskScheduled
from durable.core.history.payload import Payload
from durable.core.messages import ActivityResolution, encode_message
from durable.errors import InvalidCallError, WorkflowClosedError
from durable.store.queries import ReadAttempts, ReadHistory
from durable.store.records import AttemptRecord, AttemptState, MessageKind


async def retry_activity(chain: Chain, activity_id: str, identity: str) -> None:
    """Say that it is to be run again.

    Raises: as `complete_activity`, but for the result.
    """
    held = await _find_held(chain, activity_id)
    await _send(chain, held, None, identity)


async def complete_activity(
    chain: Chain, activity_id: str, result: Any, identity: str
) -> None:
    """Say what its result is.

    Raises:
        InvalidCallError: the run has no such activity that waits for this.
        PayloadError: the result does not fit the activity's annotation.
        WorkflowNotFoundError, WorkflowClosedError: the run is not open.
    """
    held = await _find_held(chain, activity_id)
    activity = chain.connection.registry.find_activity(held.activity_type)
    payload = (
        json.encode(result, Any, "the result")
        if activity is None
        else activity.call_signature.encode_result(result)
    )
    await _send(chain, held, payload, identity)


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
    found = held.get(activity_id)
    if found is None and record.closed_at is not None:
        raise WorkflowClosedError(
            f"Run {record.workflow_id!r} ({record.run_id}) is closed; none of its"
            " activities waits for a result."
        )
    if found is None:
        named = [f"{key} ({row.activity_type})" for key, row in held.items()]
        raise InvalidCallError(
            f"Run {record.workflow_id!r} has no activity {activity_id!r} whose result"
            " could not be recorded;"
            f" such are: {', '.join(named) or 'none'}.",
            hint="`durable show WORKFLOW_ID` names what a run waits for.",
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

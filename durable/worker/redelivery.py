"""Sends again what a run sent before its worker died, unless it was answered.

The message went out in the commit that recorded it, so it did arrive; only the answer
may be missing. Sending it again under the same request id brings that answer: the
receiver takes it once.
"""

from __future__ import annotations

from collections.abc import Callable

from durable.core.history.codec import decode_rows
from durable.core.history.events import HistoryEvent
from durable.errors import WorkflowClosedError, WorkflowNotFoundError
from durable.runs.inputs import Delivered
from durable.runs.live_run import LiveRun
from durable.runs.outgoing import delivery
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import PutMessage
from durable.store.store import Store


async def send_again(
    store: Store, run: LiveRun, event: HistoryEvent, mail: Callable[[str], None]
) -> Delivered:
    """Send what a run that was just caught up has no answer to.

    `mail` is told the run that has a message now.
    """
    message = delivery(run, event)
    try:
        receiver: str = await store.perform(message)
    except (WorkflowNotFoundError, WorkflowClosedError) as error:
        return Delivered(event, await _former_receiver(store, message) or error)
    mail(receiver)
    return Delivered(event, receiver)


async def _former_receiver(store: Store, message: PutMessage) -> str | None:
    """The run that took a message and has closed since, if there is one."""
    record = await store.read(
        FindRun(message.namespace, message.workflow_id, message.run_id)
    )
    if record is None:
        return None
    for event in decode_rows(await store.read(ReadHistory(record.run_id))):
        if getattr(event.attributes, "request_id", None) == message.request_id:
            return record.run_id
    return None

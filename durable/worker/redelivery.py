"""Sends again what a run sent before its worker died, unless it was answered.

The message went out in the commit that recorded it, so it did arrive; only the answer
may be missing. Sending it again under the same request id brings that answer: the
receiver takes it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from durable.core.history.codec import decode_rows
from durable.core.history.events import HistoryEvent
from durable.errors import StoreError, WorkflowClosedError, WorkflowNotFoundError
from durable.runs.inputs import Delivered
from durable.runs.live_run import LiveRun
from durable.runs.outgoing import delivery
from durable.runs.states import GONE
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import PutMessage
from durable.store.store import Store
from durable.worker.log_lines import name_of

_log: Final = logging.getLogger("durable.worker")
_AGAIN_SECONDS: Final = 1.0


async def send_again(
    store: Store, run: LiveRun, event: HistoryEvent, mail: Callable[[str], None]
) -> Delivered | None:
    """Send what a run that was just caught up has no answer to.

    It is tried until there is an answer, since nobody else would send it; None if the
    run has left memory meanwhile. `mail` is told the run that has a message now.
    """
    while run.state is not GONE:
        try:
            return await _send(store, run, event, mail)
        except StoreError as error:
            if not error.is_told:
                _log.error("What run %s sent has no answer: %s", name_of(run), error)
            await asyncio.sleep(_AGAIN_SECONDS)
    return None


async def _send(
    store: Store, run: LiveRun, event: HistoryEvent, mail: Callable[[str], None]
) -> Delivered:
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

"""Sends again what a run sent before its worker died, unless it was answered.

The message went out in the commit that recorded it, so it did arrive; only the answer
may be missing. Sending it again under the same request id brings that answer: the
receiver takes it once.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from durable.core.codec import decode_rows
from durable.core.events import DELIVERY_OUTCOMES, HistoryEvent
from durable.errors import DurableError, WorkflowClosedError, WorkflowNotFoundError
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import PutMessage
from durable.store.store import Store
from durable.worker.live_run import LiveRun
from durable.worker.outgoing import delivered, delivery


class Host(Protocol):
    """What sending again asks of the worker around it."""

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        ...

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step in the background; its errors are logged."""
        ...


class Redelivery:
    """Finds the answers to deliveries of restored runs."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    def restore(self, run: LiveRun) -> None:
        """Send again whatever a run that was just caught up has no answer to."""
        answered = {
            event.initiated_event_id
            for event in (*run.inputs, *run.replayer.unprocessed)
            if isinstance(event, DELIVERY_OUTCOMES)
        }
        for machine in run.replayer.pending_deliveries():
            number = machine.initiated_event_id
            if number not in answered and number not in run.starting:
                assert machine.initiated is not None  # noqa: S101 - it is recorded
                run.starting.add(number)
                event = HistoryEvent(number, 0, 0, machine.initiated)
                self._host.spawn(self._send(run, event))

    async def _send(self, run: LiveRun, event: HistoryEvent) -> None:
        message = delivery(run, event)
        outcome: str | DurableError
        try:
            receiver: str = await self._store.perform(message)
            self._host.mail(receiver)
            outcome = receiver
        except (WorkflowNotFoundError, WorkflowClosedError) as error:
            outcome = await self._former_receiver(message) or error
        finally:
            run.starting.discard(event.event_id)
        if not (run.is_dropped or run.is_closed):
            run.inputs.append(delivered(event, outcome))
            self._host.advance(run)

    async def _former_receiver(self, message: PutMessage) -> str | None:
        """The run that took a message and has closed since, if there is one."""
        record = await self._store.read(
            FindRun(message.namespace, message.workflow_id, message.run_id)
        )
        if record is None:
            return None
        for event in decode_rows(await self._store.read(ReadHistory(record.run_id))):
            if getattr(event.attributes, "request_id", None) == message.request_id:
                return record.run_id
        return None

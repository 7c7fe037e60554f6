"""What a worker may ask of a run that a replayer holds; nothing of it is changed."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from types import FrameType

import msgspec

from durable import limits
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    UnreadSignal,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Payload, Payloads
from durable.core.loop import turn
from durable.core.loop.stacks import STACK_QUERY, TaskStack, stacks_of
from durable.core.loop.user_code import users_place
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.child import ChildMachine
from durable.core.machines.external import DeliveryMachine
from durable.core.replay.context import RunContext
from durable.core.replay.driver import RunDriver
from durable.core.workflow_task import update_request_id
from durable.errors import QueryFailedError, ReadOnlyError
from durable.observer import Note


class RunView:
    """The readable side of a replayer."""

    __slots__ = ("_context", "_driver", "_unprocessed", "is_harmed")

    def __init__(self) -> None:
        self.is_harmed = False
        """A query has tried to change something: the run must be read again."""
        self._driver: RunDriver | None = None
        # The driver's; kept here too because it is asked for often.
        self._context: RunContext | None = None
        self._unprocessed: Sequence[HistoryEvent] = ()

    @property
    def has_mailbox(self) -> bool:
        """Whether the run has had anything to do with messages."""
        return self._context is not None and self._context.has_mailbox

    @property
    def calls_elsewhere(self) -> bool:
        """Whether it may have activities of another task queue than its own."""
        return self._context is not None and self._context.calls_elsewhere

    @property
    def is_closed(self) -> bool:
        """The run has its terminal event."""
        return self._driver is not None and self._driver.is_closed

    @property
    def unprocessed(self) -> list[Attributes]:
        """Inputs that were recorded, but that no task has taken yet."""
        if not self._unprocessed:
            return []
        return [event.attributes for event in self._unprocessed]

    def pending_activities(self) -> list[ActivityMachine]:
        """Activities that are recorded and have no outcome, in order."""
        return [] if self._context is None else list(self._context.activities.values())

    def find_activity(self, scheduled_event_id: int) -> ActivityMachine | None:
        """The open activity of a scheduled event, if its outcome is still awaited."""
        context = self._context
        return None if context is None else context.activities.get(scheduled_event_id)

    def pending_children(self) -> list[ChildMachine]:
        """Children that are recorded and have no outcome, in order."""
        return [] if self._context is None else list(self._context.children.values())

    def pending_child(self, initiated_event_id: int) -> ChildMachine | None:
        """The open child of an initiated event."""
        context = self._context
        return None if context is None else context.children.get(initiated_event_id)

    def pending_deliveries(self) -> list[DeliveryMachine]:
        """Messages to other runs that are recorded and have no answer, in order."""
        return [] if self._context is None else list(self._context.deliveries.values())

    @property
    def has_had_children(self) -> bool:
        """Whether the run ever asked for a child."""
        return self._context is not None and self._context.has_had_children

    def knows_request(self, request_id: str) -> bool:
        """Whether a message with that request id is in the run's history already."""
        driver = self._driver
        if driver is not None and request_id in driver.request_ids:
            return True
        return any(
            getattr(event, "request_id", None) == request_id
            for event in self.unprocessed
        )

    def request_ids(self) -> tuple[str, ...]:
        """The newest request ids, updates among them, for the next run of the chain."""
        driver = self._driver
        if driver is None:
            return ()
        return tuple(list(driver.request_ids)[-limits.REQUEST_IDS_KEPT :])

    def knows_update(self, update_id: str) -> bool:
        """Whether an update with that id was accepted."""
        driver = self._driver
        return driver is not None and update_request_id(update_id) in driver.request_ids

    def update_answer(self, update_id: str) -> WorkflowExecutionUpdateCompleted | None:
        """The answer to an accepted update, if its handler has ended.

        Not if that was before the newest checkpoint: then history knows.
        """
        context = self._context
        return None if context is None else context.mailbox.updates.get(update_id)

    def open_updates(self) -> list[str]:
        """The accepted updates that have no answer."""
        context = self._context
        if context is None:
            return []
        return [key for key, value in context.mailbox.updates.items() if value is None]

    def unread_signals(self) -> tuple[UnreadSignal, ...]:
        """The signals that the code has not received."""
        context = self._context
        if context is None or not context.has_mailbox:
            return ()
        return context.mailbox.unread()

    def described(self) -> tuple[dict[str, Payload], dict[str, Payload]]:
        """Attributes and memo, as the code has changed them."""
        context = self._context
        assert context is not None  # noqa: S101 - a turn was driven
        return context.attributes, context.memo

    def patches(self) -> set[str]:
        """The patches that the code goes by, as far as it has asked."""
        context = self._context
        assert context is not None  # noqa: S101 - a turn was driven
        known = {*context.recorded_patches, *context.patches}
        return {
            one
            for one in known
            # Earlier releases let other ids be.
            if isinstance(one, str) and context.patches.get(one, True)  # pyright: ignore[reportUnnecessaryIsInstance]  # see above
        }

    def query(
        self, name: str, input: Payloads, headers: dict[str, str] | None = None
    ) -> Payload:
        """Ask the code, on settled state. Raises what its handler raises.

        Raises:
            QueryFailedError: nothing handles that name, or the run has not begun.
            ReadOnlyError: the handler tried to change the run.
        """
        context, driver = self._context, self._driver
        if context is None or driver is None:
            raise QueryFailedError("The run's code has not begun.")
        if name == STACK_QUERY and not context.mailbox.has_query(name):
            return Payload(json=msgspec.Raw(msgspec.json.encode(self.stacks())))
        if not driver.has_begun:
            raise QueryFailedError("The run has closed before its code began.")
        outer = turn.enter(context.loop)
        was_replaying, context.is_replaying = context.is_replaying, False
        try:
            return context.mailbox.query(name, input, headers)
        except ReadOnlyError:
            # A future that it has set may be done, and nobody was woken.
            self.is_harmed = True
            raise
        finally:
            context.is_replaying = was_replaying
            turn.leave(outer)

    def users_place(self, frame: FrameType | None) -> str:
        """The line of the user's code that runs there, or waits for what does."""
        context = self._context
        return users_place(frame, None if context is None else context.loop)

    def stacks(self) -> list[TaskStack]:
        """Where each task of the run waits."""
        return [] if self._context is None else stacks_of(self._context.loop.tasks)

    def take_notes(self) -> Sequence[Note]:
        """What the code has for an observer since it was last asked."""
        context = self._context
        if context is None or context.notes is None:
            return ()
        return context.notes.take()

    def next_timer_at(self) -> int | None:
        """When the earliest timer is due."""
        context = self._context
        if context is None:
            return None
        heap, timers = context.timer_heap or (), context.timers
        while heap:
            due_at, event_id = heap[0]
            if event_id in timers:
                return due_at
            heapq.heappop(heap)
        return None

    def has_due_timer(self, now: int) -> bool:
        """Whether any timer is due."""
        due_at = self.next_timer_at()
        return due_at is not None and due_at <= now

"""What a live run has been told and has not recorded, and where each of it came from.

Messages of the inbox are committed already, so they come before those that this process
handed in and that are not. What became of the run's own operations keeps its place
among the mail: the start of a child comes before its end, which the inbox brings.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    DELIVERY_OUTCOMES,
    Attributes,
    ChildWorkflowExecutionStarted,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionTimedOut,
)
from durable.core.replay.run_view import RunView
from durable.core.workflow_task import TaskInput, UpdateRequest, update_request_id

Token: TypeAlias = Any
"""Whatever the worker knows somebody by who waits for an answer."""

_MESSAGES: Final = (WorkflowExecutionSignaled, WorkflowExecutionCancelRequested)


def is_message(event: TaskInput) -> bool:
    """Whether an input is a signal or a request to stop."""
    return isinstance(event, _MESSAGES)


def key_of(event: TaskInput) -> str:
    """What tells an input from all others of its run; empty if nothing does."""
    if isinstance(event, CHILD_OUTCOMES):
        return f"child {event.initiated_event_id}"
    if isinstance(event, ChildWorkflowExecutionStarted):
        return f"start of child {event.initiated_event_id}"
    if isinstance(event, ACTIVITY_OUTCOMES):
        return f"activity {event.scheduled_event_id}"
    if isinstance(event, DELIVERY_OUTCOMES):
        return f"delivery {event.initiated_event_id}"
    if isinstance(event, UpdateRequest):
        return update_request_id(event.update_id)
    request_id: str = getattr(event, "request_id", "")
    return request_id


def is_recorded(run: RunView, event: TaskInput) -> bool:
    """Whether the history of a run that was caught up holds an input already."""
    key = key_of(event)
    if key and any(key_of(recorded) == key for recorded in run.unprocessed):
        return True
    if isinstance(event, CHILD_OUTCOMES):
        return run.pending_child(event.initiated_event_id) is None
    if isinstance(event, ChildWorkflowExecutionStarted):
        child = run.pending_child(event.initiated_event_id)
        return child is None or child.run_id is not None
    if isinstance(event, ACTIVITY_OUTCOMES):
        return run.find_activity(event.scheduled_event_id) is None
    if isinstance(event, DELIVERY_OUTCOMES):
        return all(
            sent.initiated_event_id != event.initiated_event_id
            for sent in run.pending_deliveries()
        )
    return run.knows_request(key)


class Item(msgspec.Struct, eq=False):
    """One input, and whom or what it concerns.

    Attributes:
        sequence: its number in the inbox, if it came that way.
        request: the request id under which the inbox has it, though it did not come
            that way.
        tokens: who waits until it is durable.
        is_local: it is the outcome of a local activity.
    """

    event: TaskInput
    sequence: int | None = None
    request: str | None = None
    tokens: tuple[Token, ...] = ()
    is_local: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether a message came from this process, and not by the inbox."""
        return self.sequence is None and isinstance(
            self.event, (*_MESSAGES, UpdateRequest)
        )


class Incoming(msgspec.Struct, eq=False):
    """The inputs of one run.

    Attributes:
        waiting: what no turn has taken, in the order in which it will.
        in_commit: what the turn has taken that is driven or being committed.
        updates: the inbox numbers of updates that are neither accepted nor refused.
        read: inbox numbers that were read; a late read may bring them again.
        stale: inbox numbers of what the run has had already; the next commit deletes
            them. Likewise `stale_requests`, by request id.
        held: what came from this process and must wait: until the inbox was read, since
            what lies in it was there before, or until a commit has ended.
        is_reading: the inbox is being read.
        has_more: messages were committed since that read began.
    """

    waiting: list[Item] = []
    in_commit: list[Item] | tuple[Item, ...] = ()
    updates: dict[str, int] = {}
    read: set[int] | None = None
    stale: tuple[int, ...] = ()
    stale_requests: tuple[str, ...] = ()
    stale_in_commit: tuple[tuple[int, ...], tuple[str, ...]] = ((), ())
    held: tuple[Any, ...] = ()
    is_reading: bool = False
    has_more: bool = False
    keys: dict[str, Item] | None = None
    """`waiting` by key; made when it is first searched."""

    def add(self, item: Item) -> None:
        """Let an input wait, behind all others."""
        self.waiting.append(item)
        if self.keys is not None:
            self.keys.setdefault(key_of(item.event), item)

    def find(self, key: str) -> Item | None:
        """What waits under a key."""
        if self.keys is None:
            self.keys = {}
            for item in self.waiting:
                self.keys.setdefault(key_of(item.event), item)
        return self.keys.get(key)

    def find_in_commit(self, key: str) -> Item | None:
        """What is being committed under a key."""
        return next((i for i in self.in_commit if key_of(i.event) == key), None)

    def put_mail_first(self) -> None:
        """Let messages of the inbox come before those that were handed in."""
        self.waiting.sort(key=lambda item: item.is_direct)

    # --- around a commit --------------------------------------------------------------

    def take(self) -> tuple[TaskInput, ...]:
        """Take all that waits into a turn, which is to be committed."""
        items, self.waiting, self.keys = self.waiting, [], None
        self.in_commit = items
        return tuple([item.event for item in items])

    def consume(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What the commit deletes from the inbox: by number, and by request id.

        Not updates: those stay until they are accepted or refused.
        """
        numbers, requests = self.stale, self.stale_requests
        self.stale_in_commit = numbers, requests
        self.stale, self.stale_requests = (), ()
        # Lists first: thousands may have come by the inbox.
        mailed: list[int] = []
        others: list[str] = []
        for item in self.in_commit:
            if item.sequence is not None and not isinstance(item.event, UpdateRequest):
                mailed.append(item.sequence)
            if item.request is not None:
                others.append(item.request)
        if mailed or others:
            return (*numbers, *mailed), (*requests, *others)
        return numbers, requests

    def take_back(self) -> None:
        """Put what was not committed back to where it waits.

        Whether the run's time is up is looked at again.
        """
        if self.in_commit:
            back = [
                item
                for item in self.in_commit
                if type(item.event) is not WorkflowExecutionTimedOut
            ]
            self.waiting[:0] = back
            self.keys = None
        numbers, requests = self.stale_in_commit
        self.stale, self.stale_requests = (
            numbers + self.stale,
            requests + self.stale_requests,
        )
        self.in_commit, self.stale_in_commit = (), ((), ())

    def settle(self) -> list[tuple[Token, bool]]:
        """What was in a commit is durable: return who is to hear of it."""
        told: list[tuple[Token, bool]] = []
        for item in self.in_commit:
            if item.tokens:
                told += [(token, True) for token in item.tokens]
        self.in_commit, self.stale_in_commit = (), ((), ())
        return told

    def keep_updates(self) -> None:
        """A turn failed, and updates are no events: they wait for the next try."""
        updates = [i for i in self.in_commit if isinstance(i.event, UpdateRequest)]
        if updates:
            self.in_commit = [
                i for i in self.in_commit if not isinstance(i.event, UpdateRequest)
            ]
            self.waiting[:0] = updates
            self.keys = None

    def keep(self) -> tuple[list[Attributes], list[Item]]:
        """Take inputs that are to be recorded for another worker.

        Messages from this process are not: there may be others in the inbox that came
        before, so their senders put them there. Neither are updates, which are no
        events yet and stay in the inbox if they are there.

        Returns:
            What is to be recorded, which is in the commit then; and what is not.
        """
        kept: list[Item] = []
        left: list[Item] = []
        for item in self.waiting:
            is_left = item.is_direct or isinstance(item.event, UpdateRequest)
            (left if is_left else kept).append(item)
        self.waiting, self.keys = [], None
        self.in_commit = kept
        return [item.event for item in kept], left  # type: ignore[misc]  # updates are left

    def drop(self, item: Item) -> None:
        """The run has had an input that waited; the next commit deletes its message."""
        if item.sequence is not None:
            self.stale += (item.sequence,)
        if item.request is not None:
            self.stale_requests += (item.request,)

    # --- the inbox --------------------------------------------------------------------

    def known(self) -> tuple[int, ...]:
        """The numbers of messages that it has, and that go on waiting."""
        if not (self.updates or self.stale or self.waiting):
            return ()
        numbers = {*self.updates.values(), *self.stale}
        numbers.update(i.sequence for i in self.waiting if i.sequence is not None)
        return tuple(numbers)

    def is_fresh(self, sequence: int) -> bool:
        """Whether a message was not read before; it counts as read now."""
        if self.read is None:
            self.read = set()
        if sequence in self.read:
            return False
        self.read.add(sequence)
        return True

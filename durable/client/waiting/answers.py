"""What this process knows about updates: who waits for which, and what came of it."""

from __future__ import annotations

import asyncio
import weakref
from typing import TypeAlias

import msgspec

from durable.client.waiting.tails import RunTail
from durable.core.history.events import (
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Failure

News: TypeAlias = (
    WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted | Failure | None
)
"""Accepted, answered, refused and why; None if its run could not take it."""


class UpdateOutcome(msgspec.Struct, eq=False, weakref=True):
    """What this process knows about one update; shared by its handles.

    Attributes:
        is_accepted: its acceptance is durable.
        answer: its answer, once that is durable.
        refusal: why it was refused.
        is_given_back: the run could not take it; the store must be asked.
    """

    is_accepted: bool = False
    is_given_back: bool = False
    answer: WorkflowExecutionUpdateCompleted | None = None
    refusal: Failure | None = None
    waiters: list[asyncio.Future[None]] = []

    def take(self, news: News) -> None:
        """Note what came of it, and let everybody who waits look."""
        if isinstance(news, WorkflowExecutionUpdateCompleted):
            self.is_accepted, self.answer = True, news
        elif isinstance(news, WorkflowExecutionUpdateAccepted):
            self.is_accepted = True
        elif isinstance(news, Failure):
            self.refusal = news
        else:
            self.is_given_back = True
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def changed(self) -> asyncio.Future[None]:
        """Done at the next news."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return waiter


class Answers:
    """The updates that somebody in this process waits for."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, str], UpdateOutcome] = (
            weakref.WeakValueDictionary()
        )
        self._tails: weakref.WeakValueDictionary[str, RunTail] = (
            weakref.WeakValueDictionary()
        )

    def of(self, run_id: str, update_id: str) -> UpdateOutcome:
        """The outcome of an update, made at first use."""
        outcome = self._known.get((run_id, update_id))
        if outcome is None:
            outcome = self._known[run_id, update_id] = UpdateOutcome()
        return outcome

    def tell(self, run_id: str, update_id: str, news: News) -> None:
        """Something became of an update."""
        outcome = self._known.get((run_id, update_id))
        if outcome is not None:
            outcome.take(news)

    def share(self, tail: RunTail) -> RunTail:
        """The tail of that run that all look at who have read as far as this one."""
        return self._tails.setdefault(tail.run_id, tail)

    def shared_tail(self, run_id: str) -> RunTail | None:
        """The tail that others look at."""
        return self._tails.get(run_id)

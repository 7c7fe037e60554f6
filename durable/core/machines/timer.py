"""Timers: started, then fired or cancelled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import ClassVar

import msgspec

from durable.core.history.commands import CancelTimer, StartTimer
from durable.core.history.events import Attributes, TimerStarted
from durable.core.machines.fact import FactEntry
from durable.core.machines.machine import (
    CREATED,
    PENDING,
    RECORD,
    RESOLVE,
    Entry,
    Machine,
    Move,
    Operations,
    State,
    Table,
)


class TimerMachine(Machine, Entry, msgspec.Struct, eq=False):
    """One timer of a run; also the entry of its own StartTimer."""

    timer_id: str
    delay: int
    fire: Callable[[], None]
    send: Callable[[Entry], None]
    summary: str | None
    source: Callable[[], str]
    state: State = CREATED
    is_withdrawn: bool = False
    due_at: int = 0
    started_event_id: int = 0
    event_type = TimerStarted
    table: ClassVar[Table] = {
        (State.CREATED, Move.RECORD): State.PENDING,
        (State.CREATED, Move.CANCEL): State.CLOSED,
        (State.PENDING, Move.CANCEL): State.CLOSED,
        (State.PENDING, Move.RESOLVE): State.CLOSED,
    }

    def command(self) -> StartTimer:
        """The command as data."""
        return StartTimer(
            timer_id=self.timer_id,
            start_to_fire_timeout=self.delay,
            summary=self.summary,
            source=self.source(),
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare the id only: a changed duration does not touch a running timer."""
        assert type(event) is TimerStarted  # noqa: S101 - by `event_type`
        return None if event.timer_id == self.timer_id else "the timer id"

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """Begin to count, by the duration that was recorded."""
        self.move(RECORD)
        self.started_event_id = event_id
        if type(event) is TimerStarted:
            self.delay = event.start_to_fire_timeout
        self.due_at = time + self.delay
        run.timers[event_id] = self
        if run.timer_heap is None:
            run.timer_heap = []
        heapq.heappush(run.timer_heap, (self.due_at, event_id))

    def cancel(self) -> None:
        """Drop the timer if it has not fired."""
        if self.state is CREATED:
            self.move(Move.CANCEL)
            self.is_withdrawn = True
        elif self.state is PENDING:
            self.move(Move.CANCEL)
            self.send(_CancelEntry(self))

    def resolve(self) -> None:
        """Fire."""
        self.move(RESOLVE)
        self.fire()


class _CancelEntry(FactEntry):
    """The entry of a CancelTimer."""

    __slots__ = ("_started_event_id",)

    def __init__(self, timer: TimerMachine) -> None:
        self._started_event_id = timer.started_event_id
        command = CancelTimer(timer.timer_id, timer.started_event_id)
        super().__init__(command, "timer_id", "the timer")

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """The run waits for it no more."""
        run.timers.pop(self._started_event_id, None)

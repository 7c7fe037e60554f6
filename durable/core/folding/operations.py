"""A part of the fold: what a run has begun, and what became of it.

Activities, timers, children and messages to other runs: one event begins each, and at
most one later event ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from durable.core.folding.run_state import (
    PendingActivity,
    PendingChild,
    PendingDelivery,
    PendingTimer,
    Violations,
)
from durable.core.history import events as of
from durable.core.history.events import HistoryEvent

T = TypeVar("T")
Taker: TypeAlias = Callable[[HistoryEvent, Any], None]
"""Takes an event, and its attributes."""

_SIGNAL_OUTCOMES: Final = (
    of.ExternalWorkflowExecutionSignaled,
    of.SignalExternalWorkflowExecutionFailed,
)


class Operations:
    """What a run has begun and what of it is open, while it is being folded."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._blame = violations.blame
        self.activities: dict[int, PendingActivity] = {}
        self.timers: dict[int, PendingTimer] = {}
        self.children: dict[int, PendingChild] = {}
        self.deliveries: dict[int, PendingDelivery] = {}
        # What is open no more, by the event that began it, and why.
        self._ended: dict[int, str] = {}
        self._open_activity_ids: set[str] = set()
        self._open_timer_ids: set[str] = set()

    def takers(self) -> dict[type[Any], Taker]:
        """What takes which event."""
        return {
            of.ActivityTaskScheduled: self._schedule,
            of.ActivityTaskCancelRequested: self._cancel_activity,
            **dict.fromkeys(of.ACTIVITY_OUTCOMES, self._close_activity),
            of.TimerStarted: self._start_timer,
            of.TimerFired: self._close_timer,
            of.TimerCanceled: self._close_timer,
            of.StartChildWorkflowExecutionInitiated: self._initiate_child,
            of.ChildWorkflowExecutionStarted: self._start_child,
            **dict.fromkeys(of.CHILD_OUTCOMES, self._close_child),
            of.SignalExternalWorkflowExecutionInitiated: self._send_signal,
            of.RequestCancelExternalWorkflowExecutionInitiated: self._send_cancel,
            **dict.fromkeys(of.DELIVERY_OUTCOMES, self._close_delivery),
        }

    def open(self) -> Iterator[str]:
        """Name everything that is open."""
        for activity in self.activities.values():
            yield f"activity {activity.activity_id!r}"
        for timer in self.timers.values():
            yield f"timer {timer.timer_id!r}"
        for child in self.children.values():
            yield f"child {child.workflow_id!r}"
        for delivery in self.deliveries.values():
            yield f"a message to {delivery.workflow_id!r}"

    def give_up(self, checkpoint: HistoryEvent) -> None:
        """Forget what is open: the code that begins anew knows nothing of it."""
        why = f"was given up by the checkpoint {checkpoint.event_id}"
        for pending in (self.activities, self.timers, self.children, self.deliveries):
            self._ended.update(dict.fromkeys(pending, why))
            pending.clear()
        self._open_activity_ids.clear()
        self._open_timer_ids.clear()

    def _close(
        self, pending: dict[int, T], event: HistoryEvent, what: str, begun_by: int
    ) -> T | None:
        """Take what an event ends out of what is open."""
        found = pending.pop(begun_by, None)
        if found is None:
            self._refuse(event, what, begun_by)
        else:
            self._ended[begun_by] = "has its outcome already"
        return found

    def _open(self, event: HistoryEvent, ids: set[str], own: str, what: str) -> None:
        if own in ids:
            self._blame("V4", event, f"{what} {own!r}, which is open already")
        ids.add(own)

    def _refuse(self, event: HistoryEvent, what: str, begun_by: int) -> None:
        why = self._ended.get(begun_by, f"began no {what}")
        name = type(event.attributes).__name__
        self._violations.note(
            "V4",
            event,
            f"event {event.event_id}, {name}, names event {begun_by}, which {why}",
        )

    def _compare(
        self, event: HistoryEvent, begun_by: int, what: str, ours: str, theirs: str
    ) -> None:
        if ours != theirs:
            self._blame(
                "V4",
                event,
                f"is about {what} {ours!r}, but event {begun_by} began {what}"
                f" {theirs!r}",
            )

    # --- activities -------------------------------------------------------------------

    def _schedule(
        self, event: HistoryEvent, scheduled: of.ActivityTaskScheduled
    ) -> None:
        own = scheduled.activity_id
        self._open(event, self._open_activity_ids, own, "schedules activity")
        self.activities[event.event_id] = PendingActivity(
            scheduled_event_id=event.event_id,
            activity_id=scheduled.activity_id,
            activity_type=scheduled.activity_type,
            scheduled_at=event.time,
            waits_in_doubt=scheduled.settings.waits_in_doubt,
        )

    def _cancel_activity(
        self, event: HistoryEvent, request: of.ActivityTaskCancelRequested
    ) -> None:
        activity = self.activities.get(request.scheduled_event_id)
        if activity is None:
            self._refuse(event, "activity", request.scheduled_event_id)
            return
        self.activities[request.scheduled_event_id] = msgspec.structs.replace(
            activity, is_cancel_requested=True
        )

    def _close_activity(self, event: HistoryEvent, outcome: of.ActivityOutcome) -> None:
        begun_by = outcome.scheduled_event_id
        activity = self._close(self.activities, event, "activity", begun_by)
        if activity is not None:
            self._open_activity_ids.discard(activity.activity_id)

    # --- timers -----------------------------------------------------------------------

    def _start_timer(self, event: HistoryEvent, started: of.TimerStarted) -> None:
        self._open(event, self._open_timer_ids, started.timer_id, "starts timer")
        self.timers[event.event_id] = PendingTimer(
            started_event_id=event.event_id,
            timer_id=started.timer_id,
            due_at=event.time + started.start_to_fire_timeout,
            summary=started.summary,
        )

    def _close_timer(
        self, event: HistoryEvent, outcome: of.TimerFired | of.TimerCanceled
    ) -> None:
        begun_by = outcome.started_event_id
        timer = self._close(self.timers, event, "timer", begun_by)
        if timer is None:
            return
        self._open_timer_ids.discard(timer.timer_id)
        self._compare(event, begun_by, "timer", outcome.timer_id, timer.timer_id)
        if isinstance(outcome, of.TimerFired) and event.time < timer.due_at:
            early = (timer.due_at - event.time) / 1_000_000
            self._blame("V7", event, f"fires {early:g} s before its time")

    # --- children ---------------------------------------------------------------------

    def _initiate_child(
        self, event: HistoryEvent, initiated: of.StartChildWorkflowExecutionInitiated
    ) -> None:
        self.children[event.event_id] = PendingChild(
            initiated_event_id=event.event_id,
            workflow_id=initiated.workflow_id,
            workflow_type=initiated.workflow_type,
            initiated_at=event.time,
            parent_close_policy=initiated.settings.parent_close_policy,
        )

    def _start_child(
        self, event: HistoryEvent, started: of.ChildWorkflowExecutionStarted
    ) -> None:
        begun_by = started.initiated_event_id
        child = self.children.get(begun_by)
        if child is None:
            self._refuse(event, "child", begun_by)
            return
        if child.run_id is not None:
            self._blame(
                "V4",
                event,
                f"starts the child {child.workflow_id!r} of event {begun_by} a second"
                " time",
            )
        self._compare(event, begun_by, "child", started.workflow_id, child.workflow_id)
        self.children[begun_by] = msgspec.structs.replace(child, run_id=started.run_id)

    def _close_child(self, event: HistoryEvent, outcome: of.ChildOutcome) -> None:
        begun_by = outcome.initiated_event_id
        child = self._close(self.children, event, "child", begun_by)
        if child is None:
            return
        self._compare(event, begun_by, "child", outcome.workflow_id, child.workflow_id)
        if child.run_id and isinstance(outcome, of.StartChildWorkflowExecutionFailed):
            self._blame(
                "V4",
                event,
                f"says that child {child.workflow_id!r} could not start, but it had"
                " started",
            )

    # --- messages to other runs -------------------------------------------------------

    def _send_signal(
        self, event: HistoryEvent, sent: of.SignalExternalWorkflowExecutionInitiated
    ) -> None:
        self.deliveries[event.event_id] = PendingDelivery(
            initiated_event_id=event.event_id,
            workflow_id=sent.workflow_id,
            run_id=sent.run_id,
            sent_at=event.time,
            signal_name=sent.signal_name,
        )

    def _send_cancel(
        self,
        event: HistoryEvent,
        sent: of.RequestCancelExternalWorkflowExecutionInitiated,
    ) -> None:
        self.deliveries[event.event_id] = PendingDelivery(
            initiated_event_id=event.event_id,
            workflow_id=sent.workflow_id,
            run_id=sent.run_id,
            sent_at=event.time,
        )
        for key, child in self.children.items():
            if child.workflow_id == sent.workflow_id:
                self.children[key] = msgspec.structs.replace(
                    child, is_cancel_requested=True
                )

    def _close_delivery(self, event: HistoryEvent, outcome: of.DeliveryOutcome) -> None:
        begun_by = outcome.initiated_event_id
        is_signal = isinstance(outcome, _SIGNAL_OUTCOMES)
        what = "signal to another run" if is_signal else "request to another run"
        delivery = self.deliveries.get(begun_by)
        if delivery is None or (delivery.signal_name is not None) != is_signal:
            self._refuse(event, what, begun_by)
            return
        self._close(self.deliveries, event, what, begun_by)
        self._compare(
            event, begun_by, "a message to", outcome.workflow_id, delivery.workflow_id
        )

"""Schedules as data: in which order the outside world answers a run.

A `Step` is one workflow task: which operations end in it and how, which messages come,
whether timers are due, whether a cancel arrives, whether the process dies afterwards.
`drive` plays a schedule against a workflow; what is left when it ends is answered in
order, so that every program comes to its end, or to where only a person could help.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from durable.api.workflows.workflow import WorkflowCall
from durable.core.history.events import Attributes
from durable.core.workflow_task import TaskInput, UpdateRequest
from durable.errors import ApplicationError
from durable.testing.driver import Driver
from durable.testing.pending import PendingActivity, PendingChild, PendingDelivery
from durable.testing.programs.conversation import CHANNELS, UPDATES
from durable.testing.programs.interpreter import program_call
from durable.testing.programs.programs import Node

_TURNS_MAX: Final = 200
_TICK: Final = 0.001

OUTCOMES: Final = ("complete", "fail", "time_out", "stop")
_Pending: TypeAlias = PendingActivity | PendingChild | PendingDelivery


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation ends: the n-th of those that are pending, one way or another.

    Operations are activities, then children, then messages to other runs. A child
    begins before it ends. What was not asked to stop completes where this says that it
    stops, and a message arrives or does not.
    """

    which: int = 0
    how: int = 0


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message comes: 0 a signal, 1 one that cannot be read, 2 an update.

    Attributes:
        key: tells an update from others; the same key again is the same update.
        place: behind as many answers.
    """

    kind: int = 0
    channel: int = 0
    value: int = 0
    key: int | None = None
    place: int = 0


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One workflow task.

    Attributes:
        answers: the operations that end, in order of arrival.
        messages: what comes besides.
        fire: the clock has moved to the next timer.
        cancel: a cancel request arrives, behind as many answers; None for none.
        keep: the inputs were recorded before the task, by a process that went away.
        crash: the live code is lost afterwards.
    """

    answers: tuple[Answer, ...] = ()
    messages: tuple[Message, ...] = ()
    fire: bool = False
    cancel: int | None = None
    keep: bool = False
    crash: bool = False


class Case(msgspec.Struct, frozen=True):
    """A program, and how the outside world treats its run."""

    program: Node
    steps: tuple[Step, ...] = ()


def drive_case(case: Case, *, run_id: str | None = None) -> Driver:
    """Play a case; see `drive`."""
    return drive(program_call(case.program), case.steps, run_id=run_id)


def drive(
    call: WorkflowCall[Any],
    steps: tuple[Step, ...] | list[Step] = (),
    *,
    run_id: str | None = None,
) -> Driver:
    """Play a schedule against a workflow; then let everything end in order.

    Raises whatever parks the run.
    """
    driver = Driver(call) if run_id is None else Driver(call, run_id=run_id)
    driver.start()
    updates: set[str] = set()
    for step in steps:
        if driver.is_closed:
            break
        _play(driver, step, updates)
    finish(driver)
    return driver


def finish(driver: Driver) -> None:
    """Let everything that a run waits for end in order."""
    for _ in range(_TURNS_MAX):
        if driver.is_closed or not _go_on(driver):
            break


def _play(driver: Driver, step: Step, updates: set[str]) -> None:
    inputs: list[TaskInput] = [*_answers(driver, step.answers)]
    for message in step.messages:
        came = _message(driver, message, updates)
        if came is not None:
            inputs.insert(message.place % (len(inputs) + 1), came)
    if step.cancel is not None:
        inputs.insert(step.cancel % (len(inputs) + 1), driver.cancel_requested("why"))
    due_at = driver.next_timer_at if step.fire else None
    if due_at is not None:
        driver.clock.advance_to(due_at)
    else:
        driver.clock.advance(_TICK)
    if step.keep:
        kept = [event for event in inputs if not isinstance(event, UpdateRequest)]
        if kept:
            driver.record(*kept)
            driver.turn()
            inputs = [event for event in inputs if isinstance(event, UpdateRequest)]
            due_at = None
    if (inputs or due_at is not None) and not driver.is_closed:
        driver.turn(*inputs)
    if step.crash:
        driver.crash()


# --- what comes in --------------------------------------------------------------------


def _pending(driver: Driver) -> list[_Pending]:
    return [*driver.pending, *driver.children, *driver.deliveries]


def _answers(driver: Driver, answers: tuple[Answer, ...]) -> list[Attributes]:
    pending = _pending(driver)
    inputs: list[Attributes] = []
    for answer in answers:
        if not pending:
            break
        one = pending.pop(answer.which % len(pending))
        inputs.append(_outcome(driver, one, OUTCOMES[answer.how % 4]))
    return inputs


def _outcome(driver: Driver, pending: _Pending, how: str) -> Attributes:
    if isinstance(pending, PendingChild):
        return _outcome_of_child(pending, how)
    if isinstance(pending, PendingDelivery):
        if how == "complete":
            return pending.delivered()
        return pending.refused(is_closed=how == "fail")
    if how == "fail":
        return driver.failed(pending, ApplicationError("no", type="Declined"))
    if how == "time_out":
        return driver.timed_out(pending)
    if how == "stop" and pending.is_cancel_requested:
        return driver.cancelled(pending)
    return driver.completed(pending, pending.scheduled_event_id % 10)


def _outcome_of_child(child: PendingChild, how: str) -> Attributes:
    if child.run_id is None:
        return child.refused() if how == "fail" else child.started()
    if how == "fail":
        return child.failed(ApplicationError("no", type="Declined"))
    if how == "time_out":
        return child.timed_out() if child.initiated_event_id % 2 else child.terminated()
    if how == "stop" and child.is_cancel_requested:
        return child.cancelled()
    return child.completed(child.initiated_event_id % 10)


def _message(driver: Driver, message: Message, updates: set[str]) -> TaskInput | None:
    """What comes; None for an update that the run has had already."""
    channel = message.channel % 3
    if message.kind % 3 == 0:
        return driver.signalled(CHANNELS[channel](message.value))
    if message.kind % 3 == 1:
        return driver.signalled(CHANNELS[channel].name, "no number")
    request = driver.requested(
        UPDATES[channel],
        message.value,
        update_id=None if message.key is None else f"update {message.key}",
    )
    # A worker gives a run each update once.
    if request.update_id in updates:
        return None
    updates.add(request.update_id)
    return request


# --- the end --------------------------------------------------------------------------


def _go_on(driver: Driver) -> bool:
    """Answer the oldest operation, else fire the next timer; False if there is none."""
    pending = _pending(driver)
    if pending:
        driver.clock.advance(_TICK)
        driver.turn(_outcome(driver, pending[0], "complete"))
    elif driver.next_timer_at is not None:
        driver.fire_next_timer()
    else:
        return False
    return True

"""Schedules as data: in which order the outside world answers a run.

A `Step` is one workflow task: which pending activities end in it and how, whether
timers are due, whether a cancel arrives, whether the process dies afterwards. `drive`
plays a schedule against a workflow; what is left when it ends is answered in order, so
that every program comes to its end, or to where only a person could help.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from durable.api.workflow import WorkflowCall
from durable.core.events import Attributes
from durable.errors import ApplicationError
from durable.testing.driver import Driver, PendingActivity
from durable.testing.programs import Node, program_call

_TURNS_MAX: Final = 200
_TICK: Final = 0.001

OUTCOMES: Final = ("complete", "fail", "time_out", "stop")


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One activity ends: the n-th of those that are pending, one way or another.

    An activity that was not asked to stop completes where this says that it stops.
    """

    which: int = 0
    how: int = 0


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One workflow task.

    Attributes:
        answers: the activities that end, in order of arrival.
        fire: the clock has moved to the next timer.
        cancel: a cancel request arrives, behind as many answers; None for none.
        keep: the inputs were recorded before the task, by a process that went away.
        crash: the live code is lost afterwards.
    """

    answers: tuple[Answer, ...] = ()
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
    for step in steps:
        if driver.is_closed:
            break
        _play(driver, step)
    for _ in range(_TURNS_MAX):
        if driver.is_closed or not _go_on(driver):
            break
    return driver


def _play(driver: Driver, step: Step) -> None:
    inputs = _answers(driver, step.answers)
    if step.cancel is not None:
        inputs.insert(step.cancel % (len(inputs) + 1), driver.cancel_requested("why"))
    due_at = driver.next_timer_at if step.fire else None
    if due_at is not None:
        driver.clock.advance_to(due_at)
    else:
        driver.clock.advance(_TICK)
    if inputs and step.keep:
        driver.record(*inputs)
        inputs = []
        driver.turn()
    elif inputs or due_at is not None:
        driver.turn(*inputs)
    if step.crash:
        driver.crash()


def _answers(driver: Driver, answers: tuple[Answer, ...]) -> list[Attributes]:
    pending = driver.pending
    inputs: list[Attributes] = []
    for answer in answers:
        if not pending:
            break
        activity = pending.pop(answer.which % len(pending))
        inputs.append(_outcome(driver, activity, OUTCOMES[answer.how % 4]))
    return inputs


def _outcome(driver: Driver, activity: PendingActivity, how: str) -> Attributes:
    if how == "fail":
        return driver.failed(activity, ApplicationError("no", type="Declined"))
    if how == "time_out":
        return driver.timed_out(activity)
    if how == "stop" and activity.is_cancel_requested:
        return driver.cancelled(activity)
    return driver.completed(activity, activity.scheduled_event_id % 10)


def _go_on(driver: Driver) -> bool:
    """Answer the oldest activity, else fire the next timer; False if there is none."""
    pending = driver.pending
    if pending:
        driver.clock.advance(_TICK)
        driver.turn(_outcome(driver, pending[0], "complete"))
    elif driver.next_timer_at is not None:
        driver.fire_next_timer()
    else:
        return False
    return True

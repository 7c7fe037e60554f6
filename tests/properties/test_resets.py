"""A run that was reset goes on as any run of its code: at each event, of any program.

Random programs meet a random outside world; then their history is cut at each of its
events. What is kept replays, and what follows keeps every rule of histories.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from durable.core.folding.fold import fold
from durable.core.history.events import (
    CLOSING,
    HistoryEvent,
    WorkflowExecutionReset,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
)
from durable.core.resetting import Cut, cut_at, cut_before_failure, history_of
from durable.core.workflow_task import TaskInput, UpdateRequest
from durable.errors import InvalidResetError
from durable.testing.driver import Driver
from durable.testing.programs.interpreter import program_call
from durable.testing.programs.schedules import Case, drive_case, finish
from durable.testing.replaying import replay_at_every_prefix
from durable.testing.strategies import cases
from tests.sizes import examples

SECOND = 1_000_000
NEW = "01942000-0000-7000-8000-0000000000ff"
# So many of a case's resets are replayed at every prefix of what they became.
REPLAYED = 8
many = settings(
    max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)


def go_on(case: Case, cut: Cut, history: list[HistoryEvent], run_id: str) -> Driver:
    """Drive on from a cut, with the messages that are applied again."""
    started = history[0].attributes
    assert isinstance(started, WorkflowExecutionStarted)
    original = started.original_run_id or started.run_id
    begun = msgspec.structs.replace(
        started,
        run_id=run_id,
        original_run_id=msgspec.UNSET if cut.is_from_start else original,
    )
    at = history[-1].time + SECOND
    reset = WorkflowExecutionReset(run_id=run_id, base_run_id="base", reset_at=at)
    driver = Driver(program_call(case.program), run_id=run_id)
    driver.history = history_of(cut, begun, reset)
    driver.clock.advance_to(at)
    driver.turn(*[to_input(event.attributes) for event in cut.messages])
    finish(driver)
    return driver


def to_input(what: Any) -> TaskInput:
    if isinstance(what, WorkflowExecutionUpdateAccepted):
        return UpdateRequest(what.update_id, what.update_name, what.input)
    message: TaskInput = what
    return message


def check(driver: Driver) -> None:
    assert fold(driver.history).violations == ()
    replay_at_every_prefix(driver.history)


@many
@given(cases(max_leaves=8, max_steps=5))
def test_a_run_can_be_reset_at_each_event(case: Case) -> None:
    history = drive_case(case).history
    # Every prefix of every one would take the cube of its length.
    stride = len(history) // REPLAYED + 1
    for event in history:
        cut = cut_at(history, event.event_id)

        driver = go_on(case, cut, history, NEW)

        assert cut.kept == history[: len(cut.kept)]
        assert len(cut.kept) < event.event_id
        assert fold(driver.history).violations == ()
        if event.event_id % stride == 0:
            replay_at_every_prefix(driver.history)


@many
@given(cases(max_leaves=8, max_steps=5))
def test_a_run_that_was_reset_can_be_reset_again(case: Case) -> None:
    history = drive_case(case).history
    middle = (len(history) + 1) // 2
    driver = go_on(case, cut_at(history, middle), history, NEW)

    for point in ("first_task", "last_task", len(driver.history) // 2 + 1):
        cut = cut_at(driver.history, point)
        check(go_on(case, cut, driver.history, NEW.replace("ff", "fe")))


@many
@given(cases(max_leaves=8, max_steps=5))
def test_a_run_that_failed_goes_on_from_before_that(case: Case) -> None:
    history = drive_case(case).history
    try:
        cut = cut_before_failure(history)
    except InvalidResetError:
        return

    assert all(type(event.attributes) not in CLOSING for event in cut.kept)
    check(go_on(case, cut, history, NEW))


@many
@given(cases(max_leaves=8, max_steps=5))
def test_what_is_kept_and_what_is_undone_is_all_there_was(case: Case) -> None:
    history = drive_case(case).history
    for point in range(1, len(history) + 1):
        cut = cut_at(history, point)
        there = {
            e.event_id for part in (cut.kept, cut.inputs, cut.undone) for e in part
        }
        there |= {event.event_id for event in cut.messages}
        assert there == {event.event_id for event in history}


def test_a_history_without_a_start_is_refused() -> None:
    with pytest.raises(InvalidResetError, match="no history"):
        cut_at([], 1)

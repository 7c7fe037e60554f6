"""The tables of the machine: whole, told in the docs, and kept to."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from durable.errors import InternalError
from durable.runs import inputs, machine
from durable.runs.states import OVER, Phase, State
from durable.runs.transitions import PHASES, TRANSITIONS
from tests import machine_tables
from tests.draw_machine import COMMAND, PAGE, redrawn
from tests.obeyer import letter
from tests.run_world import RunWorld


def test_the_design_note_has_the_tables_of_the_code() -> None:
    page = PAGE.read_text("utf-8")
    assert page == redrawn(page), f"Draw them again: {COMMAND}"
    assert COMMAND in page


def test_every_state_and_input_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)
    known = set(typing.get_args(inputs.AnyInput))
    assert set().union(*TRANSITIONS.values()) == known
    assert set(TRANSITIONS[State.GONE]) == known
    assert all(there for row in TRANSITIONS.values() for there in row.values())


def test_only_what_was_asked_for_does_not_come_at_any_time() -> None:
    answers = {inputs.Driven, inputs.Settled, inputs.Refused, inputs.Loaded}
    at_any_time = set(typing.get_args(inputs.AnyInput)) - answers
    for state, row in TRANSITIONS.items():
        # Nothing has begun of a run that is not created.
        assert (set(row) >= at_any_time) == (state is not State.CREATING)


def test_no_run_comes_back() -> None:
    assert set().union(*TRANSITIONS[State.GONE].values()) == {State.GONE}
    assert set().union(*PHASES[OVER].values()) == {OVER}
    assert set(PHASES) == set(Phase)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.CREATING, State.UNREAD}
    for _ in State:
        for state in [*reached]:
            reached |= set().union(*TRANSITIONS[state].values())
    assert reached == set(State)


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
def test_what_may_not_come_is_refused(state: State) -> None:
    world = RunWorld()
    run = world.at_rest()
    run.state = state
    for kind in set(typing.get_args(inputs.AnyInput)) - set(TRANSITIONS[state]):
        given = kind(*(None for _ in kind.__struct_fields__))
        with pytest.raises(InternalError, match=f"{state.value}, and was given"):
            machine.handle(run, given, world.now)
    run.state = State.AT_REST


def test_a_step_that_is_not_in_the_table_fails_its_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = RunWorld()
    world.at_rest()
    row: dict[type[Any], set[State]] = {inputs.Told: {State.AT_REST}}
    monkeypatch.setitem(TRANSITIONS, State.AT_REST, row)
    try:
        with pytest.raises(AssertionError, match=r"AT_REST to State\.DRIVING"):
            world.tell(letter("signal"))
        assert len(machine_tables.violations) == 1
    finally:
        machine_tables.violations.clear()

"""What is said of state machines that cannot work, all at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from durable import StateMachine
from durable.api.registry import REGISTRY
from durable.errors import (
    DefinitionError,
    InvalidDurationError,
    InvalidOptionError,
)


@dataclasses.dataclass
class Data:
    number: int = 0


def guard(data: Data) -> bool:
    return True


def other_guard(data: Data) -> bool:
    return True


async def async_guard(data: Data) -> bool:
    return True


def takes_count(data: Data, count: int) -> bool:
    return True


def takes_text(data: Data, count: str) -> None: ...
def takes_colour(data: Data, colour: str) -> None: ...
def counted(data: Data, count: int) -> None: ...
def takes_both(data: Data, count: int, colour: str = "red") -> None: ...
def takes_all(data: Data, **rest: int) -> None: ...


Define = Callable[[StateMachine[Data]], Any]


def problems_of(define: Define, final: set[str] | None = None) -> list[str]:
    REGISTRY.workflows.pop("graph.machine", None)
    machine = StateMachine(
        "graph.machine",
        data=Data,
        initial="a",
        final={"z"} if final is None else final,
    )
    define(machine)
    try:
        machine(Data())
    except DefinitionError as error:
        first, *found = error.message.split("\n- ")
        assert first == "<state machine 'graph.machine'> cannot work:"
        return found
    return []


def add(machine: StateMachine[Data], *edges: str, **options: Any) -> None:
    """Add transitions like "a>b", and the states that they name."""
    for edge in edges:
        source, target = edge.split(">")
        for state in (source, target):
            machine.add_state(state)
        machine.add_transition(source, target, **options)


# --- sound machines -------------------------------------------------------------------


def sound(machine: StateMachine[Data]) -> None:
    add(machine, "a>b", "b>a", "b>z", on="go", guard=guard)
    add(machine, "a>z", on="go")
    add(machine, "b>z", guard=other_guard)
    add(machine, "b>b", after=5, guard=guard)
    add(machine, "b>z", after=10)
    machine.add_transition("a", "b", on="with", guard=takes_count, action=takes_both)
    machine.add_transition("b", "b", on="with", action=counted)


def test_a_sound_machine_has_no_problems() -> None:
    assert problems_of(sound) == []


def test_a_machine_without_final_states_may_go_on_for_ever() -> None:
    assert problems_of(lambda m: add(m, "a>b", "b>a", on="go"), final=set()) == []


# --- one problem ----------------------------------------------------------------------


def misspelt(machine: StateMachine[Data]) -> None:
    machine.add_transition("a", "y", on="go")
    machine.add_transition("c", "z", after=3)


def out_of_final(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", "z>a", on="go")


def island(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", "b>z", on="go")


def trap(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", on="go")
    add(machine, "a>b", "b>c", "c>b", on="fall")


def twice(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", "a>a", on="go")


def too_late(machine: StateMachine[Data]) -> None:
    add(machine, "a>a", after=5)
    add(machine, "a>z", after=6)
    add(machine, "a>z", on="go")


def overtaken(machine: StateMachine[Data]) -> None:
    add(machine, "a>z")
    add(machine, "a>z", on="go")


def hidden(machine: StateMachine[Data]) -> None:
    """Only a transition that is never taken leads to b."""
    add(machine, "a>z", "a>b", on="go")
    add(machine, "b>z", on="go")


def spinning(machine: StateMachine[Data]) -> None:
    add(machine, "a>b", "b>c", "c>b")


def slow_guard(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", on="go", guard=async_guard)


def nobody_brings(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", after=5, guard=takes_count)
    add(machine, "a>z", after=6)


def other_type(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", on="go", guard=takes_count, action=takes_text)


def other_name(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", on="go", guard=takes_count, action=takes_colour)


def no_positions(machine: StateMachine[Data]) -> None:
    add(machine, "a>z", on="go", action=takes_all)


@pytest.mark.parametrize(
    ("define", "problems"),
    [
        (
            misspelt,
            [
                "The transition 'a' -> 'y' on 'go' names 'y', which is no state; there"
                " are 'a', 'z'.",
                "The transition 'c' -> 'z' after 3s names 'c', which is no state;"
                " there are 'a', 'z'.",
            ],
        ),
        (
            out_of_final,
            ["The transition 'z' -> 'a' on 'go' leads out of a final state."],
        ),
        (island, ["The state 'b' can never be reached."]),
        (
            trap,
            [
                "From the state 'b' no final state can be reached.",
                "From the state 'c' no final state can be reached.",
            ],
        ),
        (
            twice,
            [
                "The transition 'a' -> 'a' on 'go' can never be taken: another one,"
                " without a guard, always is."
            ],
        ),
        (
            too_late,
            [
                "The transition 'a' -> 'z' after 6s can never be taken: another one,"
                " without a guard, always is."
            ],
        ),
        (
            overtaken,
            [
                "The transition 'a' -> 'z' on 'go' can never be taken: another one,"
                " without a guard, always is."
            ],
        ),
        (
            hidden,
            [
                "The state 'b' can never be reached.",
                "The transition 'a' -> 'b' on 'go' can never be taken: another one,"
                " without a guard, always is.",
            ],
        ),
        (
            slow_guard,
            [
                "The guard of the transition 'a' -> 'z' on 'go' is async; it only looks"
                " at the data, so write a plain def."
            ],
        ),
        (
            nobody_brings,
            [
                "'takes_count' of the transition 'a' -> 'z' after 5s takes 'count',"
                " but there is no event to bring it."
            ],
        ),
        (
            other_type,
            [
                "'takes_text' and 'takes_count' take different arguments of the event"
                " 'go': 'count' is str in the one and int in the other."
            ],
        ),
        (
            other_name,
            [
                "'takes_colour' and 'takes_count' take different arguments of the event"
                " 'go': 'colour' is str in the one and missing in the other."
            ],
        ),
        (
            no_positions,
            ["'go' takes **rest, which has no fixed positions to record."],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_problem_is_named(define: Define, problems: list[str]) -> None:
    assert problems_of(define) == problems


def test_circles_without_waiting_are_named() -> None:
    found = problems_of(spinning, final=set())
    assert found == [
        "The machine goes round for ever without waiting: 'b' -> 'c' -> 'b'."
    ]


def test_all_problems_are_named_at_once() -> None:
    def several(machine: StateMachine[Data]) -> None:
        island(machine)
        twice(machine)
        slow_guard(machine)

    found = "\n".join(problems_of(several))
    for part in ("'b' can never be reached", "can never be taken", "is async"):
        assert part in found


def test_an_initial_state_that_is_final_is_a_problem() -> None:
    found = problems_of(lambda _: None, final={"a"})
    assert found == ["The initial state 'a' is a final one too."]


# --- wrong at the call ----------------------------------------------------------------


def refused(define: Define) -> Exception:
    REGISTRY.workflows.pop("graph.machine", None)
    machine = StateMachine("graph.machine", data=Data, initial="a", final="z")
    with pytest.raises((DefinitionError, InvalidOptionError)) as caught:
        define(machine)
    return caught.value


@pytest.mark.parametrize(
    ("define", "text"),
    [
        (lambda m: m.add_transition("a", "z", on="go", after=3), "exclude each other"),
        (lambda m: m.add_transition("a", "z", after=0), "after of the transition 'a'"),
        (lambda m: m.add_transition("a", "z", guard=5), "the guard of the transition"),
        (lambda m: m.add_transition("a", "z", action="go"), "which cannot be called"),
        (lambda m: m.add_transition(5, "z"), "the name of a state or event is 5"),
        (lambda m: m.add_state(""), "is empty"),
        (lambda m: m.add_state("b", on_enter=5), "on_enter of state 'b' is 5"),
        (
            lambda m: [m.add_state("b", on_enter=guard) for _ in range(2)],
            "has an on_enter already",
        ),
    ],
)
def test_wrong_values_are_refused_at_once(define: Define, text: str) -> None:
    assert text in str(refused(define))


def test_a_duration_is_checked_at_once() -> None:
    REGISTRY.workflows.pop("graph.machine", None)
    machine = StateMachine("graph.machine", data=Data, initial="a", final="z")
    with pytest.raises(InvalidDurationError, match="after of the transition"):
        machine.add_transition("a", "z", after="soon")


def test_data_is_a_type_and_no_text() -> None:
    with pytest.raises(DefinitionError, match="is the text 'Data'"):
        StateMachine("graph.text", data="Data", initial="a")


# --- names ----------------------------------------------------------------------------


def test_machines_of_one_name_in_two_places_are_refused() -> None:
    source = (
        "from durable import StateMachine\n"
        "machine = StateMachine('graph.shared', data=int, initial='a')\n"
    )
    try:
        exec(source, {"__name__": "one"})  # noqa: S102 - two modules of one program
        with pytest.raises(DefinitionError, match="Two definitions are registered"):
            exec(source, {"__name__": "two"})  # noqa: S102 - as above
    finally:
        REGISTRY.workflows.pop("graph.shared", None)


def test_a_machine_can_be_made_with_its_type_in_brackets() -> None:
    machine = StateMachine[int]("graph.brackets", data=int, initial="a")
    assert machine.origin.__module__ == __name__
    assert "<locals>" in machine.origin.__qualname__

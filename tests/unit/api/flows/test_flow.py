"""`seq`, `par`, `choice` and small flows: what they run, and what their check says."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

import pytest

from durable import (
    CompensationFailed,
    Flow,
    Saga,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    choice,
    fail,
    need,
    never,
    par,
    provide,
    seq,
    skip,
    sleep,
    workflow,
)
from durable.api.flows.flow_graph import STATES_MAX
from durable.core.history.events import StartChildWorkflowExecutionInitiated
from durable.errors import DefinitionError, InvalidCallError, InvalidIdError
from tests.unit.api.sagas.sagas import Declined, Story, book, charge, debit, plain

_flows: list[Any] = []


@workflow(name="flow.any")
async def any_flow(value: str) -> Any:
    return await _flows[0](value)


def begin(flow: Any, value: str = "rome") -> Story:
    """Start a run of this flow, or of code that takes a value."""
    _flows[:] = [flow]
    story = Story(any_flow(value))
    story.start()
    return story


def failure_of(story: Story) -> BaseException:
    with pytest.raises(WorkflowFailedError) as caught:
        story.end()
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


@activity(name="saga.text")
async def text(value: object) -> str:
    return f"{value}"


@activity(name="saga.cents")
async def cents(value: str) -> int:
    return len(value)


@activity(name="saga.sum")
async def sum_up(numbers: tuple[int, int]) -> int:
    return sum(numbers)


async def wait_a_day(value: str) -> str:
    await sleep("1d")
    return value


@workflow(name="flow.child")
async def child(value: str) -> int:
    return len(value)


# --- what they run --------------------------------------------------------------------


def test_seq_gives_each_part_the_result_of_the_one_before() -> None:
    story = begin(seq(cents, charge, text))
    assert story.waiting == ["cents('rome',)"]
    story.finish("cents", 4)
    assert story.waiting == ["charge(4,)"]
    story.finish("charge", "r-4")
    story.finish("text", "done")
    assert story.end() == "done"


def test_par_gives_all_parts_the_same_value_and_a_tuple_of_results() -> None:
    story = begin(seq(par(cents, book), sum_up))
    assert story.waiting == ["cents('rome',)", "book('rome',)"]
    story.finish("book", 9)
    story.finish("cents", 4)
    assert story.waiting == ["sum([4, 9],)"]


def test_a_part_may_be_a_workflow_or_a_function() -> None:
    story = begin(par(child, functools.partial(wait_a_day), lambda value: cents(value)))
    child_started = [
        event.attributes
        for event in story.history
        if isinstance(event.attributes, StartChildWorkflowExecutionInitiated)
    ]
    assert [started.workflow_type for started in child_started] == ["flow.child"]
    assert story.waiting == ["cents('rome',)"]
    assert story.next_timer_at is not None


def test_the_first_to_end_wins_and_the_others_are_stopped() -> None:
    story = begin(choice(seq(cents, text), book, wait_a_day))
    story.finish("cents", 4)
    story.finish("book", 9)
    assert story.end() == 9
    assert story.called == ["cents", "book", "text"]


def test_the_first_to_end_wins_by_an_error_too() -> None:
    story = begin(choice(cents, book))
    story.break_("cents", "no")
    assert str(failure_of(story)) == "no"


def test_of_two_that_end_in_one_turn_one_wins_and_it_is_the_same_on_replay() -> None:
    story = begin(choice(cents, book))
    first, second = story.pending
    story.turn(story.completed(second, 9), story.completed(first, 4))
    assert story.end() == 9


def test_a_failing_part_of_par_stops_the_others_and_its_error_goes_on() -> None:
    stopped: list[str] = []

    async def slow(value: str) -> None:
        try:
            await sleep("1d")
        finally:
            stopped.append(value)
            await plain()

    story = begin(par(cents, slow))
    story.break_("cents", "first")
    assert stopped[-1] == "rome"
    assert not story.is_closed
    story.break_("plain", "second")
    assert str(failure_of(story)) == "first"
    assert story.unhandled == []


@pytest.mark.parametrize("combine", [par, choice])
def test_a_cancellation_reaches_all_parts(combine: Any) -> None:
    second = seq(need("x"), cents)
    third = seq(cents, provide("x"), text)
    story = begin(combine(wait_a_day, second, third))
    story.cancel()
    with pytest.raises(WorkflowCancelledError):
        story.end()
    assert story.unhandled == []


def test_what_is_needed_waits_for_what_provides_it() -> None:
    flow = par(seq(cents, provide("cents"), charge), seq(need("cents"), book))
    story = begin(flow)
    assert story.waiting == ["cents('rome',)"]
    story.finish("cents", 4)
    # Both go on with the value that they had.
    assert story.waiting == ["charge(4,)", "book('rome',)"]


def test_each_run_of_a_flow_has_its_own_tokens() -> None:
    flow = par(seq(need("x"), cents), seq(text, provide("x")))

    async def twice(value: str) -> None:
        await flow(value)
        await flow(value)

    story = begin(twice)
    story.finish("text", "t")
    story.finish("cents", 4)
    assert story.waiting == ["text('rome',)"]


def test_fail_makes_its_error_from_the_value() -> None:
    story = begin(seq(cents, fail(lambda value: Declined(f"{value} cents"))))
    story.finish("cents", 4)
    assert str(failure_of(story)) == "4 cents"


def test_never_waits_until_it_is_cancelled() -> None:
    story = begin(choice(never(), wait_a_day))
    story.advance("1d")
    assert story.end() == "rome"


def test_empty_flows_do_nothing() -> None:
    nothing: list[Any] = []
    flow = par(seq(*nothing), skip(), par(*nothing))

    async def listed(value: str) -> list[Any]:
        first, second, third = await flow(value)
        return [first, second, list(third)]

    assert begin(listed).end() == ["rome", "rome", []]


async def test_flows_run_outside_of_workflows_too() -> None:
    flow = seq(par(cents, text), choice(seq(text, fail(Declined)), text))
    with contextlib.suppress(Declined):
        assert await flow("ab") == "(2, 'ab')"


# --- sagas ----------------------------------------------------------------------------


def in_a_saga(flow: Flow[str, Any]) -> Any:
    async def body(value: str) -> Any:
        async with Saga():
            await flow(value)
            await plain()

    return body


def test_what_a_losing_branch_has_finished_is_undone_at_once() -> None:
    story = begin(in_a_saga(choice(seq(book, text), wait_a_day)))
    story.finish("book", 9)
    story.advance("1d")
    assert story.stopping == ["text"]
    story.finish("release")
    story.finish("plain")
    assert story.end() is None


def test_a_branch_that_ends_too_late_is_undone_too() -> None:
    story = begin(in_a_saga(choice(book, debit_one)))
    first, second = story.pending
    story.turn(story.completed(second), story.completed(first, 9))
    assert story.waiting == ["release(9,)"]


async def debit_one(value: str) -> None:
    await debit(value, 1)


def test_what_the_winner_finished_is_undone_if_the_saga_fails_later() -> None:
    story = begin(in_a_saga(choice(book, wait_a_day)))
    story.finish("book", 9)
    story.break_("plain")
    story.finish("release")
    failure_of(story)


def test_a_losing_branch_that_cannot_be_undone_is_an_error() -> None:
    story = begin(in_a_saga(choice(seq(book, text), wait_a_day)))
    story.finish("book", 9)
    story.advance("1d")
    story.break_("release", "no seat")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert list(map(str, error.errors)) == ["no seat"]


def test_outside_of_a_saga_a_losing_branch_is_only_stopped() -> None:
    story = begin(choice(seq(book, text), wait_a_day))
    story.finish("book", 9)
    story.advance("1d")
    assert story.end() == "rome"
    assert story.called == ["book", "text"]


# --- what the check says --------------------------------------------------------------


async def f(value: Any) -> Any:
    return value


async def g(value: Any) -> Any:
    return value


async def h(value: Any) -> Any:
    return value


def problems_of(flow: Flow[Any, Any]) -> list[str]:
    try:
        flow.check()
    except DefinitionError as error:
        first, *problems = error.message.split("\n- ")
        assert first == f"The flow {flow!r} cannot work:"
        return problems
    return []


@pytest.mark.parametrize(
    "flow",
    [
        seq(f, par(g, h), choice(f, g)),
        par(seq(f, provide("a")), seq(need("a"), g)),
        choice(f, never()),
        choice(seq(need("a"), f), seq(g, provide("a"), h)),
        seq(choice(f, seq(g, fail(Declined))), h),
        # Begun together with the other branch, it has always provided in time.
        par(choice(f, seq(provide("a"), g)), need("a")),
        par(choice(seq(f, provide("a")), seq(g, provide("a"))), need("a")),
        seq(f, fail(Declined)),
        # Both end at once, and who wins is not for the check to say.
        par(choice(need("a"), need("a")), seq(f, provide("a"))),
    ],
    ids=repr,
)
def test_a_sound_flow_has_no_problems(flow: Flow[Any, Any]) -> None:
    assert problems_of(flow) == []


@pytest.mark.parametrize(
    ("flow", "problems"),
    [
        (
            seq(f, fail(Declined), g),
            ["'g' can never run: fail(), before it, never goes on."],
        ),
        (
            seq(choice(fail(Declined), fail(Declined)), par(g, h)),
            [
                "par('g', 'h') can never run: choice(fail(), fail()), before it, never"
                " goes on."
            ],
        ),
        (
            seq(par(f, seq(g, fail(Declined))), h),
            [
                "'h' can never run: par('f', seq('g', fail())), before it, never goes"
                " on."
            ],
        ),
        (
            choice(skip(), seq(f, g)),
            ["seq('f', 'g') can never win in choice(skip(), seq('f', 'g'))."],
        ),
        (
            choice(f, need("q")),
            ["need('q') can never win in choice('f', need('q'))."],
        ),
        (
            seq(f, need("q"), g),
            ["The flow can wait for ever: need('q') needs what nothing provides."],
        ),
        (
            par(f, never()),
            ["The flow can wait for ever: nothing but never() is left of it."],
        ),
        (
            seq(f, need("a"), provide("a")),
            [
                "The flow can wait for ever: need('a') waits for provide('a'), which"
                " comes after need('a')."
            ],
        ),
        (
            par(
                seq(need("money"), f, provide("stock")),
                seq(g, need("stock"), provide("money")),
            ),
            [
                "The flow can wait for ever: need('money') waits for provide('money'),"
                " which comes after need('stock'); need('stock') waits for"
                " provide('stock'), which comes after need('money')."
            ],
        ),
        (
            par(choice(f, seq(g, provide("a"))), need("a")),
            [
                "The flow can wait for ever: need('a') waits for provide('a'), which is"
                " in a branch of a choice that can lose."
            ],
        ),
        (
            # Only if the first branch wins, but after the other has come half way.
            par(
                choice(
                    seq(need("x"), f),
                    seq(g, provide("x"), h, provide("y")),
                ),
                need("y"),
            ),
            [
                "The flow can wait for ever: need('y') waits for provide('y'), which is"
                " in a branch of a choice that can lose."
            ],
        ),
        (
            par(seq(f, fail(Declined), g), seq(need("q"), h)),
            [
                "'h' can never run: need('q'), before it, never comes so far.",
                "'g' can never run: fail(), before it, never goes on.",
            ],
        ),
        (
            seq(never(), f),
            [
                "The flow can wait for ever: nothing but never() is left of it.",
                "'f' can never run: never(), before it, never goes on.",
            ],
        ),
    ],
    ids=repr,
)
def test_a_problem_is_named(flow: Flow[Any, Any], problems: list[str]) -> None:
    assert sorted(problems_of(flow)) == sorted(problems)


def many_choices(last: Any) -> Flow[Any, Any]:
    """More orders than the check will try."""
    branches = [choice(seq(f, provide(f"t{n}")), seq(g, skip())) for n in range(9)]
    return seq(par(*branches), last)


def test_of_very_many_orders_only_what_goes_wrong_in_each_is_found() -> None:
    assert STATES_MAX < 3**9
    assert problems_of(many_choices(h)) == []
    assert problems_of(many_choices(need("t1"))) == []  # it could be, but is not tried
    assert problems_of(many_choices(need("t9"))) == [
        "The flow can wait for ever: need('t9') needs what nothing provides."
    ]


def test_a_flow_is_checked_before_its_first_run() -> None:
    with pytest.raises(DefinitionError, match="needs what nothing provides"):
        begin(need("x"))


# --- wrong use ------------------------------------------------------------------------


def test_parts_are_functions_and_no_calls() -> None:
    call: Any = f(1)
    with pytest.raises(InvalidCallError, match=r"A part of seq\(\) is <coroutine"):
        seq(call)
    wrong: Any = 5
    with pytest.raises(InvalidCallError, match=r"A part of par\(\) is 5"):
        par(f, wrong)
    with pytest.raises(InvalidCallError, match="nothing to choose from"):
        choice()
    with pytest.raises(InvalidCallError, match=r"fail\(\) got 5"):
        fail(wrong)
    with pytest.raises(InvalidIdError, match="what is needed is empty"):
        need("")


def test_a_flow_is_named_by_what_it_is_made_of() -> None:
    flow = seq(cents, functools.partial(f), par(child, skip()), choice(f, never()))
    assert repr(flow) == (
        "seq('saga.cents', 'f', par('flow.child', skip()), choice('f', never()))"
    )


async def test_outside_of_workflows_the_losers_are_stopped_too() -> None:
    stopped = asyncio.Event()

    async def slow(value: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return value

    assert await choice(slow, f)("x") == "x"
    assert stopped.is_set()

"""Sagas: what is undone, in which order, and what nothing can interrupt."""
# size: all ways of leaving one block, with one cast of activities, belong together.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import (
    CompensationFailed,
    Saga,
    WorkflowFailedError,
    workflow,
)
from durable.core.history.events import (
    StartChildWorkflowExecutionInitiated,
)
from tests.unit.api.sagas.sagas import (
    Declined,
    Story,
    Trip,
    book,
    charge,
    debit,
    load,
    plain,
    refund,
    release,
)

Body = Callable[[], Awaitable[Any]]
_body: list[Body] = []


@workflow(name="saga.any", fail_on=(RuntimeError,))
async def any_saga() -> Any:
    return await _body[0]()


def begin(body: Body) -> Story:
    """Start a run of this code."""
    _body[:] = [body]
    story = Story(any_saga())
    story.start()
    return story


def failure_of(story: Story) -> BaseException:
    with pytest.raises(WorkflowFailedError) as caught:
        story.end()
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


# --- what is undone -------------------------------------------------------------------


def test_finished_steps_are_undone_in_reverse_and_the_error_goes_on() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            await charge(500, fee=7)
            await plain()

    story = begin(body)
    story.finish("book", 4)
    story.finish("charge", "r-500")
    story.break_("plain", "closed")
    assert story.waiting == ["refund('r-500', 500, 7)"]
    story.finish("refund")
    assert story.waiting == ["release(4,)"]
    story.finish("release")
    error = failure_of(story)
    assert isinstance(error, Declined)
    assert str(error) == "closed"


def test_a_block_that_ends_well_undoes_nothing() -> None:
    async def body() -> str:
        async with Saga():
            return await charge(1)

    story = begin(body)
    story.finish("charge", "paid")
    assert story.end() == "paid"
    assert story.called == ["charge"]


def test_a_step_that_failed_is_not_undone_and_what_comes_after_never_runs() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            await charge(500)
            await debit("ada", 1)

    story = begin(body)
    story.finish("book", 4)
    story.break_("charge")
    story.finish("release")
    assert isinstance(failure_of(story), Declined)
    assert story.called == ["book", "charge", "release"]


def test_an_error_that_the_block_handles_undoes_nothing() -> None:
    async def body() -> str:
        async with Saga():
            await book("rome")
            with contextlib.suppress(Declined):
                await charge(500)
        return "walked"

    story = begin(body)
    story.finish("book", 4)
    story.break_("charge")
    assert story.end() == "walked"


def test_undone_the_run_may_go_on() -> None:
    async def body() -> str:
        try:
            async with Saga():
                await book("rome")
                await charge(500)
        except Declined as error:
            await debit("ada", 1)
            return f"declined: {error}"
        return "paid"

    story = begin(body)
    story.finish("book", 4)
    story.break_("charge", "no money")
    story.finish("release")
    story.finish("debit")
    assert story.end() == "declined: no money"


def test_the_order_is_that_of_finishing() -> None:
    async def body() -> None:
        async with Saga():
            await asyncio.gather(book("rome"), charge(500), debit("ada", 1))
            raise Declined

    story = begin(body)
    story.finish("debit")
    story.finish("book", 4)
    story.finish("charge", "r")
    for undo in ("refund", "release", "credit"):
        assert len(story.waiting) == 1
        story.finish(undo)
    assert isinstance(failure_of(story), Declined)


def test_parallel_undoes_all_at_once_and_waits_for_all() -> None:
    async def body() -> None:
        async with Saga(parallel=True):
            await book("rome")
            await debit("ada", 1)
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    assert story.waiting == ["credit('ada', 1)", "release(4,)"]
    story.finish("release")
    assert not story.is_closed
    story.finish("credit")
    assert isinstance(failure_of(story), Declined)


def test_what_code_does_to_the_values_later_does_not_show() -> None:
    async def body() -> None:
        trip = Trip("rome", ["ada"])
        async with Saga():
            loaded = await load(trip)
            loaded.clear()
            trip.guests.append("grace")
            trip.to = "oslo"
            raise Declined

    story = begin(body)
    story.finish("load", ["ada's bag"])
    assert story.waiting == [
        "unload([\"ada's bag\"], {'to': 'rome', 'guests': ['ada']})"
    ]


def test_without_a_block_nothing_is_undone() -> None:
    async def body() -> None:
        await book("rome")
        async with Saga():
            pass
        await debit("ada", 1)
        raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    failure_of(story)
    assert story.called == ["book", "debit"]


def test_what_undoes_is_itself_no_step() -> None:
    async def body() -> None:
        async with Saga(), Saga() as inner:
            inner.add_compensation(debit, "ada", 1)
            raise Declined

    story = begin(body)
    story.finish("debit")
    failure_of(story)
    assert story.called == ["debit"]


def test_options_keep_the_compensation_and_the_label_says_what_is_undone() -> None:
    async def body() -> None:
        async with Saga():
            await book.options(summary="a seat", retry=None)("rome")
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    scheduled: Any = story.history[-1].attributes
    assert scheduled.summary == "undoes saga.book"


# --- choices --------------------------------------------------------------------------


def test_what_came_before_the_point_of_no_return_is_kept() -> None:
    async def body() -> None:
        async with Saga() as saga:
            await book("rome")
            saga.point_of_no_return()
            await debit("ada", 1)
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    story.finish("credit")
    failure_of(story)
    assert story.called == ["book", "debit", "credit"]


@workflow(name="saga.cancel_trip")
async def cancel_trip(trip: str, *, reason: str) -> None: ...


def test_calls_can_be_added() -> None:
    undone: list[str] = []

    async def by_code(what: str) -> None:
        undone.append(what)

    async def body() -> list[str]:
        with contextlib.suppress(Declined):
            async with Saga() as saga:
                saga.add_compensation(by_code, "first")
                saga.add_compensation(release, 5)
                saga.add_compensation(cancel_trip, "rome", reason="rain")
                raise Declined
        return undone

    story = begin(body)
    child = story.history[-1].attributes
    assert isinstance(child, StartChildWorkflowExecutionInitiated)
    assert child.workflow_type == "saga.cancel_trip"


def test_nested_blocks_hand_their_steps_on_when_they_end_well() -> None:
    async def body() -> None:
        async with Saga():
            await debit("ada", 1)
            async with Saga():
                await book("rome")
            with contextlib.suppress(Declined):
                async with Saga():
                    await charge(500)
                    raise Declined
            raise Declined

    story = begin(body)
    story.finish("debit")
    story.finish("book", 4)
    story.finish("charge", "r")
    story.finish("refund")  # the inner block failed: its own step is undone now
    story.finish("release")  # the other inner block ended well: undone by the outer
    story.finish("credit")
    failure_of(story)


# --- undoing that fails ---------------------------------------------------------------


def test_every_step_is_tried_and_every_error_is_told() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            await debit("ada", 1)
            await charge(500)
            raise Declined("at first")

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    story.finish("charge", "r")
    story.break_("refund", "no bank")
    story.finish("credit")
    story.break_("release", "no seat")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert [(type(e), str(e)) for e in error.errors] == [
        (Declined, "no bank"),
        (Declined, "no seat"),
    ]
    assert repr(error.__cause__) == "Declined('at first')"
    assert error.message == (
        "2 of 3 finished steps of a saga could not be undone: activity 'saga.refund':"
        " Declined: no bank; activity 'saga.release': Declined: no seat. They were"
        " undone because of Declined: at first"
    )


def test_parallel_errors_come_in_the_order_of_undoing() -> None:
    async def body() -> None:
        async with Saga(parallel=True):
            await book("rome")
            await charge(500)
            raise Declined("at first")

    story = begin(body)
    story.finish("book", 4)
    story.finish("charge", "r")
    story.break_("release", "no seat")
    story.break_("refund", "no bank")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert list(map(str, error.errors)) == ["no bank", "no seat"]


def test_errors_of_nested_blocks_are_told_together() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            async with Saga():
                await charge(500)
                raise Declined("at first")

    story = begin(body)
    story.finish("book", 4)
    story.finish("charge", "r")
    story.break_("refund", "no bank")
    story.break_("release", "no seat")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert list(map(str, error.errors)) == ["no bank", "no seat"]
    assert repr(error.__cause__) == "Declined('at first')"


def test_an_undo_that_is_cancelled_by_itself_has_failed() -> None:
    async def by_code() -> None:
        raise asyncio.CancelledError("not now")

    async def body() -> None:
        async with Saga() as saga:
            await book("rome")
            saga.add_compensation(by_code)
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert isinstance(error.errors[0], asyncio.CancelledError)


# --- a saga as a list of steps --------------------------------------------------------


def add_three(saga: Saga) -> Saga:
    return (
        saga.add_step(lambda: book("rome"), lambda seat: refund(f"seat {seat}", 1))
        .add_step(lambda: debit("ada", 1))
        .add_step(lambda: plain(), lambda _: release(99))
    )


def test_added_steps_give_their_results_in_order() -> None:
    async def body() -> list[Any]:
        return await add_three(Saga()).execute()

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    story.finish("plain")
    assert story.end() == [4, None, None]


def test_when_the_third_step_fails_the_second_and_then_the_first_are_undone() -> None:
    async def body() -> list[Any]:
        return await add_three(Saga()).execute()

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    story.break_("plain", "closed")
    story.break_("credit", "no ledger")
    # What is given to add_step replaces what the activity declares.
    assert story.waiting == ["refund('seat 4', 1)"]
    story.break_("refund", "no bank")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert list(map(str, error.errors)) == ["no ledger", "no bank"]
    assert repr(error.__cause__) == "Declined('closed')"


def test_a_step_that_fails_half_way_undoes_its_half_first() -> None:
    async def composite() -> None:
        await book("rome")
        await charge(1)

    async def body() -> list[Any]:
        saga = Saga().add_step(lambda: debit("ada", 1))
        return await saga.add_step(composite, lambda _: plain()).execute()

    story = begin(body)
    story.finish("debit")
    story.finish("book", 4)
    story.break_("charge")
    story.finish("release")
    story.finish("credit")
    failure_of(story)


def test_an_untyped_undo_may_be_a_plain_function() -> None:
    undone: list[int] = []
    undo: Any = undone.append

    async def body() -> list[int]:
        with contextlib.suppress(Declined):
            saga = Saga().add_step(lambda: book("rome"), undo)
            await saga.add_step(lambda: charge(1)).execute()
        return undone

    story = begin(body)
    story.finish("book", 4)
    story.break_("charge")
    assert undone[-1] == 4

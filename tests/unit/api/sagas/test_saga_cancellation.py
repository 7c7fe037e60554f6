"""Sagas and cancellation, and steps that are still running when their block fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

from durable import (
    CompensationFailed,
    Saga,
    WorkflowCancelledError,
    WorkflowFailedError,
    set_update_handler,
    sleep,
    wait_condition,
    workflow,
)
from durable.api.messages.messages import update_call
from durable.converter import json
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import NULL
from durable.core.workflow_task import UpdateRequest
from durable.errors import WorkflowTaskError
from tests.unit.api.one_run import OneRun
from tests.unit.api.sagas.sagas import (
    Declined,
    Story,
    abandoned_book,
    book,
    charge,
    debit,
    plain,
    waited_book,
)

_body: list[Any] = []


@workflow(name="saga.cancelled")
async def cancelled_saga() -> Any:
    return await _body[0]()


def begin(body: Any, *, dies: bool = True) -> Story:
    """Start a run of this code."""
    _body[:] = [body]
    story = Story(cancelled_saga())
    story.dies = dies
    story.start()
    return story


def failure_of(story: Story) -> BaseException:
    with pytest.raises(WorkflowFailedError) as caught:
        story.end()
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


# --- cancellation ---------------------------------------------------------------------


def test_a_cancelled_run_undoes_and_ends_as_cancelled() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            await sleep("1d")

    story = begin(body)
    story.finish("book", 4)
    story.cancel()
    story.finish("release")
    with pytest.raises(WorkflowCancelledError):
        story.end()


def test_on_cancel_false_leaves_finished_steps_alone() -> None:
    async def body() -> None:
        async with Saga():
            await debit("ada", 1)
            async with Saga(on_cancel=False):
                await book("rome")
                await sleep("1d")

    story = begin(body)
    story.finish("debit")
    story.finish("book", 4)
    story.cancel()
    story.finish("credit")
    with pytest.raises(WorkflowCancelledError):
        story.end()
    assert story.called == ["debit", "book", "credit"]


def test_on_cancel_false_undoes_for_errors_all_the_same() -> None:
    async def body() -> None:
        async with Saga(on_cancel=False):
            await book("rome")
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    assert isinstance(failure_of(story), Declined)


def test_a_timeout_around_the_block_undoes_and_is_still_a_timeout() -> None:
    async def body() -> str:
        try:
            async with asyncio.timeout(60):
                async with Saga():
                    await book("rome")
                    await sleep("1d")
        except TimeoutError:
            await plain()
            return "too late"
        return "in time"

    story = begin(body)
    story.finish("book", 4)
    story.advance(60)
    story.finish("release")
    story.finish("plain")
    assert story.end() == "too late"


def test_a_timeout_does_not_interrupt_undoing() -> None:
    async def body() -> str:
        async with asyncio.timeout(60):
            async with Saga():
                await book("rome")
                raise Declined("first")
        return "in time"

    story = begin(body)
    story.finish("book", 4)
    story.advance(60)
    assert story.waiting == ["release(4,)"]
    assert story.stopping == []
    story.finish("release")
    assert str(failure_of(story)) == "first"


def test_a_cancel_does_not_interrupt_undoing_and_is_not_lost() -> None:
    async def body() -> str:
        with contextlib.suppress(Declined):
            async with Saga():
                await debit("ada", 1)
                await book("rome")
                raise Declined
        await plain()
        return "went on"

    story = begin(body)
    story.finish("debit")
    story.finish("book", 4)
    story.cancel()
    assert (story.waiting, story.stopping) == (["release(4,)"], [])
    story.finish("release")
    story.finish("credit")
    with pytest.raises(WorkflowCancelledError):
        story.end()
    assert "plain" not in story.called


def test_a_timeout_that_passed_while_undoing_is_over_after_its_block() -> None:
    async def body() -> str:
        with contextlib.suppress(Declined):
            async with asyncio.timeout(60):
                async with Saga():
                    await book("rome")
                    raise Declined
        await plain()
        return "went on"

    story = begin(body)
    story.finish("book", 4)
    story.advance(60)
    story.finish("release")
    story.finish("plain")
    assert story.end() == "went on"


def test_undoing_for_a_cancel_can_fail_too() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            await sleep("1d")

    story = begin(body)
    story.finish("book", 4)
    story.cancel()
    story.break_("release", "no seat")
    error = failure_of(story)
    assert isinstance(error, CompensationFailed)
    assert isinstance(error.__cause__, asyncio.CancelledError)


# --- a step whose wait is cancelled ---------------------------------------------------


async def cancelled_in_a_step() -> None:
    async with Saga():
        await debit("ada", 1)
        await book("rome")


def test_a_step_that_is_asked_to_stop_and_finishes_is_undone() -> None:
    story = begin(cancelled_in_a_step)
    story.finish("debit")
    story.cancel()
    assert story.stopping == ["book"]
    story.finish("book", 4)
    story.finish("release")
    story.finish("credit")
    with pytest.raises(WorkflowCancelledError):
        story.end()


@pytest.mark.parametrize("how", ["stops", "fails"])
def test_a_step_that_is_asked_to_stop_and_does_is_not_undone(how: str) -> None:
    story = begin(cancelled_in_a_step)
    story.finish("debit")
    story.cancel()
    if how == "stops":
        story.stop("book")
    else:
        story.break_("book")
    story.finish("credit")
    with pytest.raises(WorkflowCancelledError):
        story.end()
    assert story.called == ["debit", "book", "credit"]


def test_the_error_of_a_step_that_was_asked_to_stop_is_not_reported() -> None:
    async def body() -> None:
        async with Saga():
            with contextlib.suppress(asyncio.CancelledError):
                await book("rome")
        # asyncio reports an error that nobody asked for when its task is dropped.
        for _ in range(100):
            await asyncio.create_task(asyncio.sleep(0))
        gc.collect()

    story = begin(body, dies=False)
    story.cancel()
    story.break_("book")
    assert story.unhandled == []
    assert story.end() is None


def test_the_outcome_that_options_want_replaces_the_cancellation() -> None:
    async def body() -> list[int]:
        async with Saga():
            seat = await waited_book("rome")
        return [seat]

    story = begin(body)
    story.cancel()
    story.finish("book", 4)
    assert story.end() == [4]


def test_the_cancellation_that_an_outcome_replaced_is_raised_by_the_next_wait() -> None:
    async def body() -> list[int]:
        async with Saga():
            seat = await waited_book("rome")
            await debit("mine", seat)
        return [seat]

    story = begin(body)
    story.cancel()
    story.finish("book", 4)
    story.finish("release")
    with pytest.raises(WorkflowCancelledError):
        story.end()
    assert story.called == ["book", "release"]


def test_an_abandoned_step_is_not_waited_for() -> None:
    async def body() -> None:
        async with Saga():
            await debit("ada", 1)
            await abandoned_book("rome")

    story = begin(body)
    story.finish("debit")
    story.cancel()
    assert story.stopping == []
    story.finish("credit")
    with pytest.raises(WorkflowCancelledError):
        story.end()


def test_outside_of_a_block_a_cancelled_wait_ends_at_once() -> None:
    async def body() -> None:
        await book("rome")

    story = begin(body)
    story.cancel()
    with pytest.raises(WorkflowCancelledError):
        story.end()


# --- steps that run beside ------------------------------------------------------------


def test_a_step_that_a_task_group_cancels_is_undone_if_it_finishes() -> None:
    async def body() -> None:
        async with Saga(), asyncio.TaskGroup() as group:
            group.create_task(book("rome"))
            group.create_task(charge(500))

    story = begin(body)
    story.break_("charge", "no money")
    assert story.stopping == ["book"]
    story.finish("book", 4)
    story.finish("release")
    error = failure_of(story)
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error.exceptions[0], Declined)


async def left_over() -> None:
    """Leave the block while the tasks of `gather` still run."""
    async with Saga():
        await debit("ada", 1)
        await asyncio.gather(book("rome"), charge(500))


def test_what_still_runs_is_asked_to_stop_and_undone_if_it_finishes() -> None:
    story = begin(left_over)
    story.finish("debit")
    story.break_("charge", "no money")
    assert (story.waiting, story.stopping) == (["book('rome',)"], ["book"])
    story.finish("book", 4)
    story.finish("release")
    story.finish("credit")
    assert str(failure_of(story)) == "no money"


@pytest.mark.parametrize("how", ["stops", "fails"])
def test_what_still_runs_and_does_not_finish_is_not_undone(how: str) -> None:
    story = begin(left_over)
    story.finish("debit")
    story.break_("charge", "no money")
    if how == "stops":
        story.stop("book")
    else:
        story.break_("book")
    story.finish("credit")
    assert str(failure_of(story)) == "no money"


def test_a_cancel_does_not_end_the_wait_for_what_still_runs() -> None:
    story = begin(left_over)
    story.finish("debit")
    story.break_("charge", "no money")
    story.cancel()
    assert not story.is_closed
    story.finish("book", 4)
    story.finish("release")
    story.finish("credit")
    assert str(failure_of(story)) == "no money"


def test_a_task_that_outlives_its_failed_block_begins_no_step() -> None:
    async def later() -> str:
        await plain()
        try:
            await debit("ada", 1)
        except WorkflowTaskError as error:
            return error.message
        return "not refused"

    async def body() -> str:
        with contextlib.suppress(Declined):
            async with Saga():
                task = asyncio.create_task(later())
                await book("rome")
                raise Declined
        return await task

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    story.finish("plain")
    assert story.end().startswith(
        "Activity 'saga.debit' was called by a task of a saga"
    )
    assert "debit" not in story.called


def test_a_step_that_outlives_a_block_which_ended_well_belongs_to_the_outer() -> None:
    async def body() -> None:
        async with Saga():
            async with Saga():
                task = asyncio.create_task(book("rome"))
                await asyncio.sleep(0)
            await task
            raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    failure_of(story)


def test_what_still_runs_from_a_block_within_is_waited_for_too() -> None:
    async def body() -> None:
        async with Saga():
            async with Saga():
                asyncio.create_task(book("rome"))  # noqa: RUF006 - that is the test
                await plain()
            raise Declined

    story = begin(body)
    story.finish("plain")
    assert story.stopping == ["book"]
    story.finish("book", 4)
    story.finish("release")
    failure_of(story)


def test_a_step_that_outlives_all_blocks_is_nobodys() -> None:
    async def body() -> None:
        async with Saga():
            task = asyncio.create_task(book("rome"))
            await asyncio.sleep(0)
        await task
        await debit("ada", 1)
        raise Declined

    story = begin(body)
    story.finish("book", 4)
    story.finish("debit")
    failure_of(story)
    assert story.called == ["book", "debit"]


# --- handlers -------------------------------------------------------------------------


@workflow(name="saga.with_handler")
async def with_handler() -> None:
    async def add(fails: bool) -> int:
        async with Saga():
            seat = await book("rome")
            if fails:
                raise Declined
            return seat

    set_update_handler("add", add)
    async with Saga():
        await wait_condition(lambda: False)


def test_the_block_of_a_handler_is_its_own() -> None:
    run = OneRun(with_handler())
    run.start()
    call = update_call("add", (True,))
    run.turn(UpdateRequest("u", call.name, call.input))
    for result in (json.encode(4, int, "the seat"), NULL):
        event_id = run.event_id(ActivityTaskScheduled)
        run.turn(ActivityTaskCompleted(event_id, result, attempt=1, started_at=0))
    (answer,) = run.events(WorkflowExecutionUpdateCompleted)
    assert answer.failure is not None
    assert answer.failure.type == "Declined"
    names = [e.activity_type for e in run.events(ActivityTaskScheduled)]
    assert names == ["saga.book", "saga.release"]

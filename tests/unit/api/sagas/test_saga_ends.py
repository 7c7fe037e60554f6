"""How sagas end: bugs, other ways out of a block, wrong use."""
# size: all ways of leaving one block, with one cast of activities, belong together.

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Saga,
    checkpoint,
    continue_as_new,
    in_workflow,
    workflow,
)
from durable.api.sagas.ledger import closing_blocks
from durable.core.history.events import (
    CheckpointRecorded,
    WorkflowExecutionContinuedAsNew,
)
from durable.errors import InvalidCallError, NotInWorkflowError, WorkflowTaskError
from tests.unit.api.sagas.sagas import (
    Declined,
    Story,
    book,
    debit,
    plain,
    release,
)
from tests.unit.api.sagas.test_saga import Body, begin, failure_of

# --- errors that speak of a bug -------------------------------------------------------


def test_a_bug_parks_the_run_with_its_steps_as_they_are() -> None:
    deployed: dict[str, bool] = {}

    async def body() -> str:
        try:
            async with Saga():
                await book("rome")
                if not deployed["mended"]:
                    raise Declined
        except Exception:  # noqa: BLE001 - whoever catches all must not hide a bug
            await plain()
        return "mended"

    story = begin(body)
    with pytest.raises(LookupError, match="mended"):
        story.finish("book", 4)
    assert story.called == ["book"]
    deployed["mended"] = True
    story.turn()
    assert story.end() == "mended"


def test_an_error_that_is_named_in_fail_on_is_no_bug() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            raise RuntimeError("an outcome")

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    assert isinstance(failure_of(story), RuntimeError)


def test_a_bug_in_what_undoes_parks_the_run_until_it_is_mended() -> None:
    undoing: dict[str, Body] = {}

    async def body() -> None:
        async with Saga() as saga:
            saga.add_compensation(release, 5)
            saga.add_compensation(lambda: undoing["mended"]())
            await plain()

    story = begin(body)
    with pytest.raises(LookupError, match="mended"):
        story.break_("plain", "closed")
    undoing["mended"] = plain
    story.turn()
    story.finish("plain")
    story.finish("release")
    assert isinstance(failure_of(story), Declined)


# --- other ways out of a block --------------------------------------------------------


@workflow(name="saga.looping", checkpoint_every=1)
async def looping(count: int) -> int:
    async with Saga():
        await debit("ada", count)
        checkpoint(looping(100))
    checkpoint(looping(count + 1))
    return count


def test_no_checkpoint_is_taken_while_there_is_something_to_undo() -> None:
    story = Story(looping(0))
    story.start()
    story.finish("debit")
    taken = [e for e in story.history if isinstance(e.attributes, CheckpointRecorded)]
    assert len(taken) == 1
    assert story.waiting == ["debit('ada', 1)"]


async def roll_on(count: int) -> None:
    continue_as_new(rolling(count + 1))


@workflow(name="saga.rolling")
async def rolling(count: int, in_group: bool = False) -> int:
    async with Saga():
        await debit("ada", count)
        if in_group:
            async with asyncio.TaskGroup() as group:
                group.create_task(roll_on(count))
        await roll_on(count)
    return count


@pytest.mark.parametrize("in_group", [False, True])
def test_continuing_as_new_keeps_the_steps(in_group: bool) -> None:
    story = Story(rolling(0, in_group))
    story.start()
    story.finish("debit")
    last = story.history[-1].attributes
    assert isinstance(last, WorkflowExecutionContinuedAsNew)
    assert story.called == ["debit"]


@workflow(name="saga.leaving_another")
async def leaving_another() -> None:
    async def other() -> None:
        async with Saga():
            await debit("eve", 5)
            await asyncio.sleep(60)

    async with Saga():
        await debit("ada", 3)
        standing = asyncio.create_task(other())
        await asyncio.sleep(1)
        assert not standing.done()
        continue_as_new(rolling(1))


def test_continuing_as_new_undoes_a_block_that_another_task_is_still_in() -> None:
    story = Story(leaving_another())
    story.start()
    story.finish("debit")
    story.finish("debit")
    story.advance(1)
    assert story.waiting == ["credit('eve', 5)"]
    story.finish("credit")
    last = story.history[-1].attributes
    assert isinstance(last, WorkflowExecutionContinuedAsNew)


def test_code_that_is_collected_where_no_loop_runs_ends_in_silence() -> None:
    class Wait:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def waiting() -> None:
        await Wait()

    code = closing_blocks(waiting())
    code.send(None)
    code.close()


# --- wrong use ------------------------------------------------------------------------


async def test_outside_of_a_workflow_there_are_no_sagas() -> None:
    assert not in_workflow()
    with pytest.raises(NotInWorkflowError, match="Saga was called outside"):
        async with Saga():
            pass
    assert await book("rome") == 4


def test_a_saga_has_one_block() -> None:
    async def body() -> None:
        saga = Saga()
        with pytest.raises(WorkflowTaskError, match="has not begun"):
            saga.point_of_no_return()
        async with saga:
            pass
        with pytest.raises(WorkflowTaskError, match="has ended"):
            saga.add_compensation(plain)
        with pytest.raises(WorkflowTaskError, match="entered a second time"):
            await saga.execute()

    assert begin(body).end() is None


@pytest.mark.parametrize("what", ["do", "undo"])
def test_a_call_is_no_function(what: str) -> None:
    async def body() -> None:
        call: Any = plain()
        do, undo = (call, None) if what == "do" else (plain, call)
        with pytest.raises(InvalidCallError, match=f"{what} of a saga's step"):
            Saga().add_step(do, undo)

    assert begin(body).end() is None


def test_an_application_error_is_undone_for_like_any_other() -> None:
    async def body() -> None:
        async with Saga():
            await book("rome")
            raise ApplicationError("closed", non_retryable=True)

    story = begin(body)
    story.finish("book", 4)
    story.finish("release")
    assert isinstance(failure_of(story), ApplicationError)

"""An exception from an activity, through child and parent, to whoever waits."""

import json
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Engine,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    workflow,
)

calls: list[str] = []
ALWAYS = RetryPolicy(max_attempts=5, initial_interval=0.01)


@activity(name="on_their_way.parse", retry=None)
async def parse(text: str) -> None:
    json.loads(text)


@activity(name="on_their_way.pay", retry=ALWAYS)
async def pay(kind: str) -> None:
    calls.append(kind)
    problem: Any = OSError(5, "connection lost")
    error = ApplicationError("x", non_retryable=True)
    if kind == "message":
        error = ApplicationError(problem, non_retryable=True)
    elif kind == "type":
        error.type = "a\ud800"
    elif kind == "notes":
        error.__notes__ = [Unprintable()]  # type: ignore[list-item]  # the fault under test
    else:
        error.value = Unprintable()  # type: ignore[attr-defined]  # as programs do
    raise error


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@workflow(name="on_their_way.child")
async def child(text: str) -> str:
    try:
        await parse(text)
    except json.JSONDecodeError as error:
        error.add_note(f"of {len(text)} characters")
        raise error from LookupError("the row was bad")
    return "parsed"


@workflow(name="on_their_way.parent")
async def parent(text: str) -> str:
    try:
        return await child(text)
    except ValueError as error:
        error.add_note("while reading orders")
        raise


@workflow(name="on_their_way.paying")
async def paying(kind: str) -> None:
    await pay(kind)


async def test_exception_keeps_its_class_its_parts_and_what_each_station_added(
    database: str,
) -> None:
    async with Engine(database) as engine:
        with pytest.raises(WorkflowFailedError) as caught:
            await engine.execute(parent("{"), id="p")
    error = caught.value.__cause__
    assert isinstance(error, json.JSONDecodeError)
    assert (error.pos, error.lineno, error.doc) == (1, 1, "{")
    assert isinstance(error.__cause__, LookupError)
    notes = [note.partition(",")[0] for note in error.__notes__]
    assert notes == [
        "raised by activity 'on_their_way.parse' (id 1)",
        "of 1 characters",
        notes[2],
        "while reading orders",
    ]
    assert notes[2].startswith("raised by child workflow 'on_their_way.child'")


@pytest.mark.parametrize("kind", ["message", "type", "notes", "attribute"])
async def test_failure_is_recorded_whatever_is_wrong_with_the_exception(
    database: str, kind: str
) -> None:
    calls.clear()
    async with Engine(database) as engine:
        with pytest.raises(WorkflowFailedError) as caught:
            await engine.execute(paying(kind))
    assert isinstance(caught.value.__cause__, ApplicationError)
    assert calls == [kind]

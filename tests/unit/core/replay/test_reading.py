"""Queries and validators look, and change nothing, however they try."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

import durable
from durable import (
    Signal,
    checkpoint,
    continue_as_new,
    patched,
    query,
    set_query_handler,
    set_state,
    update,
    workflow,
)
from durable.core.workflow_task import UpdateRequest, WorkflowTask
from durable.errors import ReadOnlyError
from tests.unit.api.one_run import OneRun

words = Signal("words", str)


@workflow(name="reading.Watched")
class Watched:
    """Waits for an event; its query and its validator do what a test says."""

    attempt: Callable[["Watched"], Any] = staticmethod(lambda _: None)

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.count = 0

    @durable.run
    async def run(self) -> str:
        """Wait for the event."""
        await self.event.wait()
        return "woken"

    @query
    def look(self) -> int:
        """Try."""
        type(self).attempt(self)
        return self.count

    @update
    def raise_count(self) -> int:
        """Count up."""
        self.count += 1
        return self.count

    @raise_count.validator
    def check(self) -> None:
        """Try."""
        type(self).attempt(self)

    @update
    def wake(self) -> None:
        """Set the event."""
        self.event.set()


def _swallow(attempt: Callable[[Watched], Any]) -> Callable[[Watched], None]:
    def swallowing(watched: Watched) -> None:
        with contextlib.suppress(Exception):
            attempt(watched)

    return swallowing


def _raise_another(watched: Watched) -> None:
    try:
        watched.event.set()
    except ReadOnlyError:
        raise ValueError("as if nothing had happened") from None


ATTEMPTS: dict[str, Callable[[Watched], Any]] = {
    "an attribute": lambda watched: setattr(watched, "count", 5),
    "a new attribute": lambda watched: setattr(watched, "other", 5),
    "a deleted attribute": lambda watched: delattr(watched, "count"),
    "an event": lambda watched: watched.event.set(),
    "a swallowed refusal": _swallow(lambda watched: watched.event.set()),
    "another error after a refusal": _raise_another,
    "a task": lambda _: asyncio.ensure_future(asyncio.sleep(0)),
    "a timer": lambda _: asyncio.get_running_loop().call_later(5, print),
    "a future": lambda _: asyncio.get_running_loop().call_soon(print),
    "a state": lambda _: set_state("other"),
    "a patch": lambda _: patched("some patch"),
    "randomness": lambda _: durable.random().random(),
    "a uuid": lambda _: durable.uuid4(),
    "a handler": lambda _: set_query_handler("other", lambda: 5),
    "a signal": lambda _: words.receive_nowait(),
    "a checkpoint": lambda _: checkpoint(),
    "continuing as new": lambda _: continue_as_new(),
    "continuing as new, swallowed": _swallow(lambda _: continue_as_new()),
}


@pytest.fixture(params=ATTEMPTS)
def attempt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "attempt", staticmethod(ATTEMPTS[request.param]))


def begun() -> OneRun:
    one = OneRun(Watched.run())
    one.start()
    one.signal(words("kept"))
    return one


@pytest.mark.usefixtures("attempt")
def test_query_that_changes_something_is_refused() -> None:
    one = begun()
    with pytest.raises(ReadOnlyError, match="query 'look'"):
        one.query(Watched.look())
    assert one.replayer.is_harmed


def test_query_that_only_looks_harms_nothing() -> None:
    one = begun()
    assert one.query(Watched.look()) == 0
    assert not one.replayer.is_harmed


@pytest.mark.usefixtures("attempt")
def test_attributes_are_put_back_when_a_query_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = begun()
    with pytest.raises(ReadOnlyError):
        one.query(Watched.look())
    monkeypatch.setattr(Watched, "attempt", staticmethod(lambda _: None))
    assert one.query(Watched.look()) == 0
    assert one.update(Watched.raise_count()) == 1


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.usefixtures("attempt")
def test_validator_that_changes_something_fails_the_turn(is_alone: bool) -> None:
    """Alone in its turn an update is validated before the turn, else within it."""
    one = begun()
    asked = UpdateRequest("u", "raise_count", ())
    inputs = (asked,) if is_alone else (one.signalled(words("more")), asked)
    done = one.replayer.process(WorkflowTask(one.now, inputs))
    assert done.failure is not None
    assert isinstance(done.failure.error, ReadOnlyError)
    assert all("Update" not in type(e.attributes).__name__ for e in done.events)


# --- slots ----------------------------------------------------------------------------


@workflow(name="reading.Slotted")
class Slotted:
    """Keeps its attributes in slots, one of them private."""

    __slots__ = ("__secret", "count", "unset")

    def __init__(self) -> None:
        self.count = 1
        self.__secret = 1

    @durable.run
    async def run(self) -> None:
        """Wait for ever."""
        await words.receive()

    @query
    def look(self) -> list[int]:
        """Look."""
        return [self.count, self.__secret]

    @query
    def change(self, what: str) -> None:
        """Change a slot."""
        if what == "count":
            self.count = 2
        elif what == "secret":
            self.__secret = 2
        elif what == "unset":
            self.unset = 2
        else:
            del self.count


@pytest.mark.parametrize("what", ["count", "secret", "unset", "deleted"])
def test_slots_are_watched_and_put_back(what: str) -> None:
    one = OneRun(Slotted.run())
    one.start()
    assert one.query(Slotted.look()) == [1, 1]
    with pytest.raises(ReadOnlyError, match="attribute"):
        one.query(Slotted.change(what))
    assert one.query(Slotted.look()) == [1, 1]

"""A workflow that does what letters say, for the machine of runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

import durable
from durable import (
    RetryPolicy,
    Signal,
    activity,
    external,
    query,
    start_child,
    update,
    workflow,
)
from durable.core.history.events import WorkflowExecutionSignaled
from durable.core.history.payload import Payload
from durable.core.workflow_task import UpdateRequest


@dataclass
class Letter:
    """What the code is to do."""

    do: str = ""


letters: Final = Signal("letters", Letter)
BROKEN: Final = [False]
"""Whether the code has a bug at present."""


@activity(name="machine.act", retry=RetryPolicy(max_attempts=3, initial_interval=1.0))
async def act() -> int:
    """Is never called: what becomes of its attempts is told by the test."""
    return 1


@activity(name="machine.act_once", retry=None, effect="once")
async def act_once() -> int:
    """The same, at most once."""
    return 1


@activity(
    name="machine.act_local",
    local=True,
    retry=RetryPolicy(max_attempts=3, initial_interval=1.0),
)
async def act_local(step: int) -> int:
    """The same, recorded with what comes later."""
    return step


@workflow(name="machine.Obeyer")
class Obeyer:
    """Obeys letters."""

    def __init__(self) -> None:
        self.acts: list[asyncio.Task[int]] = []
        self.count = 0

    @durable.run
    async def run(self) -> int:
        """Obey until one says that it is over."""
        while True:
            letter = await letters.receive()
            self.count += 1
            match letter.do:
                case "act":
                    self.acts.append(asyncio.ensure_future(act()))
                case "act once":
                    self.acts.append(asyncio.ensure_future(act_once()))
                case "local":
                    self.acts.append(asyncio.ensure_future(self.act_in_turn()))
                case "cancel":
                    for one in self.acts:
                        one.cancel()
                    self.acts.clear()
                case "child":
                    self.acts.append(asyncio.ensure_future(self.raise_child()))
                case "send":
                    await external("other").signal(letters(Letter()))
                case "sleep":
                    await asyncio.sleep(2)
                case "bug" if BROKEN[0]:
                    raise NameError("a bug")
                case "end":
                    return self.count
                case _:
                    pass

    async def act_in_turn(self) -> int:
        """Act locally, one after the other; then send what came of it."""
        found = [await act_local(step) for step in range(5)]
        await external("other").signal(letters(Letter()))
        return sum(found)

    async def raise_child(self) -> int:
        """Start a child and wait for it."""
        child = await start_child(Obeyer.run.options(id="kid")())
        return await child

    @query
    def counted(self) -> int:
        """How many letters were received."""
        return self.count

    @update
    def add(self, number: int) -> int:
        """Accept a number."""
        return number

    @add.validator
    def check(self, number: int) -> None:
        if number < 0:
            raise ValueError("no such number")


def payload(number: int) -> Payload:
    """A number as it is recorded."""
    return Payload(json=msgspec.Raw(f"{number}".encode()))


def letter(request_id: str, do: str = "") -> WorkflowExecutionSignaled:
    """A signal."""
    made = letters(Letter(do))
    return WorkflowExecutionSignaled("letters", made.input, request_id=request_id)


def addition(update_id: str, number: int = 1) -> UpdateRequest:
    """An update; a negative number is refused."""
    return UpdateRequest(update_id, "add", (payload(number),))

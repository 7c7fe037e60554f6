"""A workflow that writes down what happens to it, for the tests of semantics."""

from typing import Any

import durable
from durable import (
    Signal,
    activity,
    query,
    signal,
    update,
    wait_condition,
    workflow,
)
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.testing import Driver, replay_at_every_prefix

words = Signal("words", str)
numbers = Signal("numbers", int)


@activity(name="messages.ship", retry=None)
async def ship(item: str) -> str:
    return item


def kinds(completion: WorkflowTaskCompletion | None) -> list[type]:
    assert completion is not None
    return [type(command) for command in completion.commands]


@workflow(name="messages.Log")
class Log:
    """Writes down what happens, and in which order."""

    def __init__(self, name: str) -> None:
        self.seen = [f"made {name}"]
        self.is_over = False

    @durable.run
    async def run(self, name: str) -> list[str]:
        """Wait until it is over."""
        self.seen.append("run begins")
        await wait_condition(lambda: self.is_over)
        return self.seen

    @signal
    def add(self, what: str) -> None:
        """Write it down."""
        self.seen.append(what)

    @signal
    async def ship(self, what: str) -> None:
        """Write it down before and after an activity."""
        self.seen.append(f"{what} begins")
        await ship(what)
        self.seen.append(f"{what} ends")

    @signal
    def close(self) -> None:
        """It is over."""
        self.is_over = True

    @update
    async def store(self, what: str) -> int:
        """Write it down after an activity; say at which place."""
        await ship(what)
        self.seen.append(what)
        return len(self.seen)

    @update
    def change(self, items: list[str]) -> list[str]:
        """Take items; the validator has spoiled its own copy of them."""
        self.seen += items
        return items

    @change.validator
    def check(self, items: list[str]) -> None:
        if not items:
            raise ValueError("nothing to change")
        items.clear()

    @query
    def read(self) -> list[str]:
        """What was written down."""
        return self.seen


def finished(driver: Driver) -> Any:
    """The result, once a replay of every prefix agrees."""
    replay_at_every_prefix(driver.history)
    return driver.result()

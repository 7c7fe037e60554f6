"""A run of a saga in the hands of a test. It dies after each of its workflow tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from durable import ActivityCancellationType, activity
from durable.core.history.events import ActivityTaskScheduled
from durable.core.history.payload import Payloads
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.testing import Driver, replay_at_every_prefix
from durable.testing.pending import PendingActivity


@dataclasses.dataclass
class Trip:
    to: str
    guests: list[str] = dataclasses.field(default_factory=list)


class Declined(Exception):
    """The error that the tests undo for."""


@activity(name="saga.release")
async def release(seat: int) -> None: ...


@activity(name="saga.book", compensate=release)
async def book(trip: str) -> int:
    return len(trip)


@activity(name="saga.refund")
async def refund(receipt: str, cents: int, *, fee: int = 0) -> None: ...


@activity(name="saga.charge", compensate=refund)
async def charge(cents: int, *, fee: int = 0) -> str:
    return f"{cents}"


@activity(name="saga.credit")
async def credit(account: str, cents: int) -> None: ...


@activity(name="saga.debit", compensate=credit)
async def debit(account: str, cents: int) -> None: ...


@activity(name="saga.unload")
async def unload(load: list[str], trip: Trip) -> None: ...


@activity(name="saga.load", compensate=unload)
async def load(trip: Trip) -> list[str]:
    return [*trip.guests]


@activity(name="saga.plain")
async def plain() -> None: ...


waited_book = book.options(
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
)
abandoned_book = book.options(cancellation_type=ActivityCancellationType.ABANDON)


def values(input: Payloads) -> tuple[Any, ...]:
    return tuple(msgspec.json.decode(payload.json) for payload in input)


class Story(Driver):
    dies = True

    def turn(self, *inputs: Any) -> WorkflowTaskCompletion:
        done = super().turn(*inputs)
        if self.dies:
            self.crash()
        return done

    def find(self, name: str) -> PendingActivity:
        (found,) = (p for p in self.pending if p.activity_type == f"saga.{name}")
        return found

    def finish(self, name: str, value: Any = None) -> None:
        """Complete the pending activity of that name, in a task of its own."""
        self.complete(self.find(name), value)

    def break_(self, name: str, text: str = "no") -> None:
        """Let the pending activity of that name fail."""
        self.fail(self.find(name), Declined(text))

    def stop(self, name: str) -> None:
        """Let the pending activity of that name stop, as it was asked to."""
        found = self.find(name)
        assert found.is_cancel_requested
        self.turn(self.cancelled(found))

    @property
    def waiting(self) -> list[str]:
        """What runs, and with which arguments."""
        return [
            f"{p.activity_type.removeprefix('saga.')}{values(p.arguments)}"
            for p in self.pending
        ]

    @property
    def stopping(self) -> list[str]:
        return [
            p.activity_type.removeprefix("saga.")
            for p in self.pending
            if p.is_cancel_requested
        ]

    @property
    def called(self) -> list[str]:
        """All that was ever scheduled."""
        return [
            e.attributes.activity_type.removeprefix("saga.")
            for e in self.history
            if isinstance(e.attributes, ActivityTaskScheduled)
        ]

    def end(self) -> Any:
        """The result, once each prefix of the history has been replayed."""
        assert self.is_closed, self.waiting
        replay_at_every_prefix(self.history)
        return self.result()

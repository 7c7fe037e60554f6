"""What all operation machines share: a state, a table of legal moves, an entry.

An *entry* is one command in the order in which a turn issued it. It can be withdrawn
in the turn that issued it, and is then neither recorded nor expected on replay.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from durable.core.history.commands import Command
from durable.core.history.events import Attributes, event_of
from durable.errors import InternalError

T = TypeVar("T")


class State(enum.IntEnum):
    """Where an operation stands; each machine uses the states it has a use for.

    An IntEnum, because the tables hash it on the hot path and Enum hashes in Python.
    """

    CREATED = 0
    """Asked for in this turn; not recorded yet."""
    PENDING = 1
    """Recorded; its outcome is awaited."""
    CANCEL_REQUESTED = 2
    """Recorded, and asked to stop; its outcome is awaited."""
    CLOSED = 3
    """Its outcome is known, or it was dropped."""


class Move(enum.IntEnum):
    """What happens to an operation."""

    RECORD = 0
    """Its command became an event."""
    CANCEL = 1
    """Workflow code gave it up."""
    RESOLVE = 2
    """An event brought its outcome."""


# For every run: on Python 3.11 reading a member of an enum is a call.
CREATED: Final = State.CREATED
PENDING: Final = State.PENDING
RECORD: Final = Move.RECORD
RESOLVE: Final = Move.RESOLVE

Table = Mapping[tuple[State, Move], State]
STOPPABLE: Final[Table] = {
    (State.CREATED, Move.RECORD): State.PENDING,
    (State.CREATED, Move.CANCEL): State.CLOSED,
    (State.PENDING, Move.CANCEL): State.CANCEL_REQUESTED,
    (State.PENDING, Move.RESOLVE): State.CLOSED,
    (State.CANCEL_REQUESTED, Move.RESOLVE): State.CLOSED,
}
"""The moves of what may be asked to stop and closes by an outcome of its own."""


class Machine:
    """One operation of one run."""

    __slots__ = ()
    table: ClassVar[Table] = {}
    state: State

    def move(self, move: Move) -> State:
        """Go to the next state and return it.

        Raises:
            InternalError: the table has no such move.
        """
        try:
            self.state = self.table[self.state, move]  # type: ignore[misc]  # a slot of each machine
        except KeyError:
            raise InternalError(
                f"{type(self).__name__} cannot {move.name} while {self.state.name}."
            ) from None
        return self.state


class Outcome(Generic[T]):
    """What an operation comes to, for any number of waiters.

    Unlike a future it is not cancelled with a task that waits for it.
    """

    __slots__ = ("_loop", "_waiters", "value")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.value: T | None = None
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []

    def set(self, value: T) -> None:
        """Take the value, once, and wake whoever waits."""
        if self.value is None:
            self.value = value
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self) -> T:
        """Wait for the value."""
        if self.value is None:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
            assert self.value is not None  # noqa: S101 - it woke us
        return self.value


class Operations(Protocol):
    """What a run has open: operations that are recorded and have no outcome.

    By the event that recorded them. `timer_heap` is by due time, with the event.
    """

    activities: dict[int, Any]
    timers: dict[int, Any]
    timer_heap: list[tuple[int, int]] | None
    children: dict[int, Any]
    deliveries: dict[int, Any]


class Entry:
    """One command in the order of its turn."""

    __slots__ = ()
    event_type: type[Attributes]
    is_withdrawn: bool

    def command(self) -> Command:
        """The command as data."""
        raise InternalError(f"{type(self).__name__} has no command.")

    def event(self) -> Attributes:
        """The event that records the command."""
        return event_of(self.command())

    def differs(self, event: Attributes) -> str | None:
        """How the recorded event differs from this command, or None.

        Only called with an event of `event_type`.
        """
        raise InternalError(f"{type(self).__name__} cannot be matched.")

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """Take note that the command is event `event_id` of the run now."""

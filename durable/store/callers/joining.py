"""Rows that are written in a caller's transaction, once that is known to lead here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from durable.store.callers.connections import (
    AsyncDriverCaller,
    Caller,
    Nudge,
    SqlalchemyCaller,
    find_async,
    find_caller,
)
from durable.store.callers.places import Place, find_place
from durable.store.callers.steps import WITHIN, Find, check, insert
from durable.store.sql.salvage import OUTBOX_FIELDS

if TYPE_CHECKING:
    from durable.store.callers.steps import Steps
    from durable.store.records import OutboxRecord
    from durable.store.store import Store

_NAMES: Final = [name for name in OUTBOX_FIELDS if name not in ("sequence", "failure")]


class Gate:
    """Knows where a store's database is, once somebody has asked."""

    def __init__(self, store: Store) -> None:
        """Ask nothing yet."""
        self._store = store
        self._place: Place | None = None

    def find(self, *, again: bool = False) -> Place:
        """Return where it is; any thread may ask.

        Raises: as `find_place`.
        """
        if again or self._place is None:
            place = find_place(self._store)
            self._place = place
            return place
        return self._place

    async def find_async(self) -> Place:
        """Return the same, without keeping the loop from its work."""
        if self._place is None:
            return await asyncio.to_thread(self.find)
        return self._place


class Joined:
    """A caller's transaction, to be written in on the thread that is in it."""

    def __init__(self, gate: Gate, caller: Caller, given: str = WITHIN) -> None:
        """Write nothing yet; errors call the connection what is `given`."""
        self._gate, self._caller, self._given = gate, caller, given
        self._checked: object = None

    def write(self, row: OutboxRecord, nudge: Nudge) -> None:
        """Write a row; `nudge` is called about when it is committed, if that is told.

        Raises:
            WrongDatabaseError: the connection leads elsewhere; nothing was written.
            Exception: the driver's.
        """
        self.check()
        self._carry_out(insert(_values_of(row)))
        self._caller.tell_commit(nudge)

    def check(self) -> None:
        """Return if the connection leads to the engine's database.

        Raises:
            WrongDatabaseError: it leads elsewhere.
        """
        connection, dialect = self._caller.find_connection()
        if connection is not self._checked:
            self._carry_out(check(dialect, self._given))
            self._checked = connection

    def _carry_out(self, steps: Steps) -> None:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            if isinstance(step, Find):
                answer = self._gate.find(again=step.again)
            else:
                answer = self._caller.ask(step)


class AsyncJoined:
    """The same of a connection whose methods must be awaited."""

    def __init__(self, gate: Gate, given: Any) -> None:
        """Write nothing yet."""
        self._gate, self._given = gate, given
        self._joined: Joined | None = None
        self._is_checked = False

    async def write(self, row: OutboxRecord, nudge: Nudge) -> None:
        """Write a row; see `Joined.write`."""
        await self._gate.find_async()
        given = self._given
        if isinstance(given, AsyncDriverCaller):
            if not self._is_checked:
                await self._carry_out(given, check(None))
                self._is_checked = True
            await self._carry_out(given, insert(_values_of(row)))
            return
        await given.run_sync(self._write, row, nudge)

    def _write(self, connection: Any, row: OutboxRecord, nudge: Nudge) -> None:
        if self._joined is None:
            self._joined = Joined(self._gate, SqlalchemyCaller(connection))
        self._joined.write(row, nudge)

    async def _carry_out(self, caller: AsyncDriverCaller, steps: Steps) -> None:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            if isinstance(step, Find):
                find = self._gate.find
                answer = await asyncio.to_thread(find, again=step.again)
            else:
                answer = await caller.ask_async(step)


def join(gate: Gate, given: object) -> Joined | AsyncJoined:
    """Take part in the transaction of a caller's connection.

    Raises:
        InvalidCallError: it is none.
    """
    waiting = find_async(given)
    if waiting is not None:
        return AsyncJoined(gate, waiting)
    return Joined(gate, find_caller(given))


def _values_of(row: OutboxRecord) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _NAMES}

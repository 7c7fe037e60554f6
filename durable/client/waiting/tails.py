"""Reads what is new in a run's history once for all who wait for its updates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from durable.core.history.codec import decode_rows
from durable.core.history.events import (
    TERMINAL_EVENTS,
    Attributes,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import RunRecord
from durable.store.store import Store

UpdateEvent: TypeAlias = (
    WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted
)


class RunTail:
    """The end of one run's history, which tells all its updates what came of them.

    Attributes:
        run_id: the run.
        terminal: how it ended, if it has.
        started: how it began, if that was read.
        record: its row as it was read last.
        seen: the last event that was read.
    """

    def __init__(
        self,
        store: Store,
        where: tuple[str, str, str],
        seen: int,
        tell: Callable[[str, str, UpdateEvent], None],
    ) -> None:
        """Begin after the event `seen`.

        Args:
            store: is open.
            where: namespace, workflow id and run id.
            seen: the newest event that is known.
            tell: takes run id, update id, and an event about that update.
        """
        self.run_id = where[2]
        self.terminal: Attributes | None = None
        self.started: WorkflowExecutionStarted | None = None
        self.record: RunRecord | None = None
        self._store = store
        self._where = where
        self._tell = tell
        self.seen = seen
        self._reading: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Read what was committed before this call, alone or together with others.

        Raises:
            StoreError: the database cannot be read.
        """
        # A read that is under way may have begun before that commit.
        if self._next is None:
            self._next = asyncio.ensure_future(self._read_after(self._reading))
            self._next.add_done_callback(_note_error)
        await asyncio.shield(self._next)

    async def _read_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        self._reading, self._next = self._next, None
        rows = await self._store.read(ReadHistory(self.run_id, self.seen))
        for event in decode_rows(rows):
            what = event.attributes
            self.seen = event.event_id
            if isinstance(
                what, WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted
            ):
                self._tell(self.run_id, what.update_id, what)
            elif isinstance(what, TERMINAL_EVENTS):
                self.terminal = what
            elif isinstance(what, WorkflowExecutionStarted):
                self.started = what
        self.record = await self._store.read(FindRun(*self._where))


def _note_error(reading: asyncio.Task[None]) -> None:
    """Should all who wait have gone, nobody else looks at it."""
    if not reading.cancelled():
        reading.exception()

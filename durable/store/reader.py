"""The reader thread: answers reads one after the other, on a connection of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durable.errors import DurableError, StoreError
from durable.store.forking import Gate
from durable.store.submission import deliver

if TYPE_CHECKING:
    import asyncio

    from durable.store.database import Database, Session
    from durable.store.store import Outcome

Read = Callable[["Session"], Any]


class Reader:
    """Reads a database on a thread that starts with the first read."""

    def __init__(self, database: Database, *, loop: asyncio.AbstractEventLoop) -> None:
        """Answer on `loop`."""
        self._database = database
        self._loop = loop
        self._queue: queue.SimpleQueue[tuple[Read, Outcome] | None] = (
            queue.SimpleQueue()
        )
        self._session: Session | None = None
        self._gate = Gate(self)
        # A daemon, as the writer is: a program that forgets to close must end as well.
        self._thread = threading.Thread(
            target=self._run, name=f"durable reader of {database.name}", daemon=True
        )
        self._is_started = False

    def submit(self, read: Read, done: Outcome) -> None:
        """Queue a read."""
        self._queue.put((read, done))
        if not self._is_started:
            self._is_started = True
            self._thread.start()

    def end(self) -> None:
        """Answer what was submitted, and disconnect. Not for the event loop."""
        self._queue.put(None)
        if self._is_started:
            self._thread.join()

    # --- on the thread ----------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            read, done = item
            with self._gate:
                result, error = self._answer(read)
            # If the loop was closed, then so was everybody who could want an answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(
                    deliver, self._loop, [(done, result, error)]
                )
        with self._gate:
            self.disconnect()

    def _answer(self, read: Read) -> tuple[Any, BaseException | None]:
        try:
            if self._session is None:
                self._session = self._database.open_reader()
            if self._session is None:
                return NO_READER, None
            result = read_explained(self._database, self._session, read)
            if not self._session.is_in_place():
                # A new connection could believe in whatever it finds there.
                return None, self._database.not_in_place()
            return result, None
        except Exception as error:  # noqa: BLE001 - who reads gets it
            self.disconnect()
            return None, error

    def disconnect(self) -> None:
        """Close the connection; the next read makes a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    disconnect_for_fork = disconnect


NO_READER = object()
"""The answer if only the writer's connection sees the data."""


def read_explained(database: Database, session: Session, read: Read) -> Any:
    """Read; raise what goes wrong as the library's own errors."""
    try:
        return read(session)
    except Exception as error:
        explained = database.explain(error)
        if explained is not None:
            raise explained from error
        if isinstance(error, DurableError):
            raise
        raise StoreError(
            f"{database.name} cannot be read: {type(error).__name__}."
        ) from error

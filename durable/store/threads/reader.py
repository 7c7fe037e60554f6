"""The reader thread: answers queries group by group, on a connection of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from durable.errors import DurableError, StoreError
from durable.store.database import Blame
from durable.store.sql import reads
from durable.store.submission import deliver
from durable.store.threads.forking import Gate
from durable.store.threads.patience import Outage, Patience

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from durable.store.database import Database, Session
    from durable.store.sql.reads import Question
    from durable.store.store import Outcome

    _Asked: TypeAlias = tuple[Question, Outcome]


# All answers of a group wait for its last one.
_GROUP_MAX: Final = 1_000


class Reader:
    """Reads a database on a thread that starts with the first read."""

    def __init__(
        self, database: Database, *, loop: asyncio.AbstractEventLoop, outage: Outage
    ) -> None:
        """Answer on `loop`; tell `outage` if the database is away."""
        self._database = database
        self._outage = outage
        self._loop = loop
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._session: Session | None = None
        self._gate = Gate(self)
        # A daemon, as the writer is: a program that forgets to close must end as well.
        self._thread = threading.Thread(
            target=self._run, name=f"durable reader of {database.name}", daemon=True
        )
        self._is_started = False

    def submit(self, question: Question, done: Outcome) -> None:
        """Queue a question; what is asked while others are answered shares a group."""
        self._queue.put((question, done))
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
        while group := self._take_group():
            by_kind: dict[type[object], list[_Asked]] = {}
            for asked in group:
                query: object = asked[0].query
                by_kind.setdefault(type(query), []).append(asked)
            with self._gate:
                answers = [a for part in by_kind.values() for a in self._answer(part)]
            # If the loop was closed, then so was everybody who could want an answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(
                    deliver,
                    self._loop,
                    [done for done, _ in answers],
                    [outcome for _, outcome in answers],
                )
        with self._gate:
            self.disconnect()

    def _take_group(self) -> list[_Asked]:
        """Take all that was asked meanwhile; wait for something. Empty at the end."""
        group: list[_Asked] = []
        while (asked := self._queue.get()) is not None:
            group.append(asked)
            if self._queue.empty() or len(group) == _GROUP_MAX:
                return group
        if group:
            self._queue.put(None)  # the end comes after them
        return group

    def _answer(self, part: list[_Asked]) -> list[tuple[Outcome, tuple[Any, Any]]]:
        try:
            answers = self._read_patiently([question for question, _ in part])
        except Exception as error:  # noqa: BLE001 - who reads gets it
            if len(part) == 1 or self._database.is_lost(error):
                return [(done, (None, error)) for _, done in part]
            # What is wrong with one of them harms no other.
            return [answer for asked in part for answer in self._answer([asked])]
        return [(part[i][1], (answer, None)) for i, answer in enumerate(answers)]

    def _read_patiently(self, questions: list[Question]) -> Sequence[Any]:
        patience = Patience()
        while True:
            try:
                answers = self._read(questions)
            except Exception as error:
                is_lost = self._database.is_lost(error)
                blame = self._database.judge(error.__cause__ or error)
                is_again = blame in (Blame.AGAIN, Blame.LOCKED)
                if (is_lost or is_again) and patience.waits(is_lost=is_lost):
                    continue
                if is_lost and isinstance(error, StoreError):
                    self._outage.met(error)
                raise
            self._outage.over()
            return answers

    def _read(self, questions: list[Question]) -> Sequence[Any]:
        try:
            if self._session is None:
                self._session = self._database.open_reader()
            if self._session is None:
                return [NO_READER] * len(questions)
            answers = read_explained(self._database, self._session, questions)
            is_in_place = self._session.is_in_place()
        except Exception:
            self.disconnect()
            raise
        if not is_in_place:
            # A new connection could believe in whatever it finds there.
            raise self._database.not_in_place()
        return answers

    def disconnect(self) -> None:
        """Close the connection; the next read makes a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    disconnect_for_fork = disconnect


NO_READER = object()
"""The answer if only the writer's connection sees the data."""


def read_explained(
    database: Database, session: Session, questions: Sequence[Question]
) -> list[Any]:
    """Answer questions; raise what goes wrong as the library's own errors."""
    try:
        return reads.answer(session, questions)
    except Exception as error:
        explained = database.explain(error)
        if explained is not None:
            raise explained from error
        if isinstance(error, DurableError):
            raise
        raise StoreError(
            f"{database.name} cannot be read: {type(error).__name__}."
        ) from error

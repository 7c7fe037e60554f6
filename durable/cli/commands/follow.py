"""What `durable show --follow` does: prints a timeline as it grows, until it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from durable.cli.commands.result import pointing_to
from durable.cli.connection import Connection, open_client
from durable.cli.output import is_colored, width_of, write_json, write_line
from durable.cli.session import Session
from durable.cli.timeline import COLORED, PLAIN, Columns, describe, header, paint
from durable.client.descriptions.description import paused_note
from durable.core.folding.fold import fold
from durable.core.history.codec import decode_rows
from durable.core.history.events import HistoryEvent, next_run_id
from durable.errors import WorkflowNotFoundError
from durable.store.queries import FindRun, ReadAttempts, ReadHistory
from durable.store.records import RunRecord, RunStatus
from durable.telling.escaping import escape
from durable.telling.events import Moment, Telling
from durable.telling.pieces import Line, Piece, decode_failure, failure_text

# However much others write: how soon it looks again. And how late, whatever it heard.
_PAUSE_SECONDS: Final = 0.1
_QUIET_SECONDS: Final = 5.0


async def follow(
    session: Session,
    workflow_id: str,
    run_id: str | None,
    *,
    last: int | None,
    payloads: bool,
) -> None:
    """Print what a run did and does, and each run that it continues as.

    Args:
        session: where it is, and how to print.
        workflow_id: whose.
        run_id: which run of it; None for the newest.
        last: how many lines of what has happened to begin with; None for all.
        payloads: whether recorded values are shown, and not only their sizes.

    Raises:
        WorkflowFailedError: the run failed, or ended in another way without a result.
        WorkflowNotFoundError: there is no such run, or it was removed meanwhile.
        BrokenPipeError: whoever read what is printed has gone.
    """
    async with open_client(session) as connection:
        changed = asyncio.Event()
        connection.store.watch(changed.set)
        handle = await connection.engine.get(workflow_id, run_id=run_id)
        following: str | None = handle.run_id
        with _hearing_of_a_closed_pipe(changed.set) as is_closed:
            while following is not None:
                run = _Followed(session, connection, workflow_id, following)
                following = await run.print_all(
                    changed, is_closed, last=last, payloads=payloads
                )
                last = None
                if following is not None and not session.is_json:
                    write_line("")


class _Followed:
    """One run, and what was printed of it."""

    def __init__(
        self, session: Session, connection: Connection, workflow_id: str, run_id: str
    ) -> None:
        self._session = session
        self._connection = connection
        self._ids = {"workflow_id": workflow_id, "run_id": run_id}
        self._run_id = run_id
        self._telling = Telling()
        self._columns: Columns | None = None
        self._start = 0
        self._seen = 0
        self._attempts: set[tuple[int, int, str]] = set()
        self._stuck: str | None = None

    async def print_all(
        self,
        changed: asyncio.Event,
        is_closed: Callable[[], bool],
        *,
        last: int | None,
        payloads: bool,
    ) -> str | None:
        """Print until the run ends; give the run that it continues as."""
        workflow_id = self._ids["workflow_id"]
        while True:
            changed.clear()
            record, events, moments = await self._look()
            if self._columns is None:
                self._begin(record, events, payloads=payloads)
                moments = self._without_first(moments, last)
            self._print(moments, payloads=payloads)
            if record.status is not RunStatus.RUNNING:
                break
            if not is_closed():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await changed.wait()
            if is_closed():
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            await asyncio.sleep(_PAUSE_SECONDS)
        for event in reversed(events):
            following = next_run_id(event.attributes)
            if following is not None:
                return following
        engine = self._connection.engine
        handle = await engine.get(workflow_id, run_id=self._run_id)
        with pointing_to(workflow_id):
            await handle.result()
        return None

    async def _look(self) -> tuple[RunRecord, list[HistoryEvent], list[Moment]]:
        """Read what is new; in this order, so that an end comes with all its events."""
        store, ids = self._connection.store, self._ids
        record = await store.read(FindRun(self._session.namespace, **ids))
        if record is None:
            raise WorkflowNotFoundError(
                f"Run {ids['workflow_id']!r} ({self._run_id}) has just been removed."
            )
        attempts = await store.read(ReadAttempts(self._run_id))
        events = decode_rows(await store.read(ReadHistory(self._run_id, self._seen)))
        if events:
            self._seen = events[-1].event_id
        new = [
            row
            for row in attempts
            if (row.scheduled_event_id, row.attempt, row.state.value)
            not in self._attempts
        ]
        self._attempts.update(
            (row.scheduled_event_id, row.attempt, row.state.value) for row in new
        )
        moments = list(self._telling.tell(events, new))
        if record.stuck is not None and record.stuck != self._stuck:
            note = paused_note(record)
            why = note or failure_text(decode_failure(record.stuck))
            line: Line = [Piece("parked", "bad"), Piece(f": {why}")]
            until = "until its code is mended; nothing is lost"
            if note is not None:
                line = [Piece("paused", "warn"), Piece(escape(f": {note}"))]
                until = "until it is resumed"
            moments.append(Moment(store.now(), None, line, until))
        self._stuck = record.stuck
        return record, events, moments

    # --- printing ---------------------------------------------------------------------

    def _begin(
        self, record: RunRecord, events: Sequence[HistoryEvent], *, payloads: bool
    ) -> None:
        self._start = events[0].time if events else record.started_at
        self._columns = Columns(self._start)
        if not self._session.is_json:
            now = self._connection.store.now()
            for line in header(record, fold(events), now, payloads=payloads):
                self._write(line)
            self._write([])

    def _without_first(self, moments: list[Moment], last: int | None) -> list[Moment]:
        if last is None or len(moments) <= last:
            return moments
        if not self._session.is_json:
            count = len(moments) - last
            self._write([Piece(f"        ({count} lines above)", "dim")])
        return moments[-last:]

    def _print(self, moments: Sequence[Moment], *, payloads: bool) -> None:
        assert self._columns is not None  # noqa: S101 - printing begins with a header
        self._columns.fit(moments)
        for moment in moments:
            if self._session.is_json:
                told = describe(moment, self._start, payloads=payloads)
                write_json({**self._ids, **told})
                continue
            for line in self._columns.lines(moment, payloads=payloads):
                self._write(line)

    def _write(self, line: Line) -> None:
        style = COLORED if is_colored(sys.stdout) else PLAIN
        write_line(paint(line, width_of(sys.stdout), style))


@contextmanager
def _hearing_of_a_closed_pipe(
    tell: Callable[[], None],
) -> Generator[Callable[[], bool]]:
    """Call `tell` when nobody reads stdout any more, before anything is written to it.

    `durable show --follow ID | head` would wait for the next event otherwise. Where
    the system or its event loop cannot say it, writing finds out.
    """
    is_closed = False
    loop = asyncio.get_running_loop()
    descriptor = -1

    def hear() -> None:
        nonlocal is_closed
        is_closed = True
        loop.remove_reader(descriptor)
        tell()

    with suppress(OSError, ValueError, NotImplementedError):
        descriptor = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            loop.add_reader(descriptor, hear)
    try:
        yield lambda: is_closed
    finally:
        with suppress(OSError, ValueError, NotImplementedError):
            loop.remove_reader(descriptor)

"""Hears what other processes have committed, once for all who wait here."""

from __future__ import annotations

import asyncio
from typing import Final

from durable.client.waiting.outcomes import Outcomes
from durable.core.history.codec import decode_rows
from durable.core.history.events import TERMINAL_EVENTS, Attributes
from durable.errors import CorruptHistoryError, DurableError
from durable.store.queries import ReadNews, RunNews
from durable.store.store import Store

# After the news of many were read, those that follow are gathered for some times as
# long: reading at each commit of others would slow them down.
_PAUSE_TIMES: Final = 4
_PAUSE_SECONDS_MAX: Final = 0.05


class Listener:
    """Reads the news of all runs that somebody waits for, in one go."""

    def __init__(self, store: Store, outcomes: Outcomes) -> None:
        self._store = store
        self._outcomes = outcomes
        self._reading: asyncio.Task[None] | None = None
        self._must_read_again = False

    def changed(self) -> None:
        """Another process has committed something."""
        self._outcomes.changes += 1
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        else:  # it may have begun before that commit
            self._must_read_again = True

    def stop(self) -> None:
        """Read nothing more."""
        reading, self._reading = self._reading, None
        if reading is not None and not reading.get_loop().is_closed():
            reading.cancel()

    async def _read(self) -> None:
        time = asyncio.get_running_loop().time
        try:
            while True:
                self._must_read_again = False
                awaited, began = self._outcomes.awaited(), time()
                await self._hear(awaited)
                if len(awaited) > 1:
                    pause = _PAUSE_TIMES * (time() - began)
                    await asyncio.sleep(min(pause, _PAUSE_SECONDS_MAX))
                if not self._must_read_again:
                    return
        finally:
            self._reading = None

    async def _hear(self, run_ids: list[str]) -> None:
        if not run_ids:
            return
        try:
            news = await self._store.read(ReadNews(run_ids))
        except DurableError:
            self._outcomes.nudge_all()  # each will meet it by itself
            return
        for one in news:
            self._outcomes.hear(one, terminal_of(one))
        for run_id in set(run_ids).difference(one.run_id for one in news):
            self._outcomes.nudge(run_id)


def terminal_of(news: RunNews) -> Attributes | None:
    """The event that ended a run; None if it is open or the row cannot be read."""
    if news.last_row is None:
        return None
    try:
        last = decode_rows([news.last_row])[0].attributes
    except CorruptHistoryError:
        return None
    return last if isinstance(last, TERMINAL_EVENTS) else None

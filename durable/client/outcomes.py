"""Who waits for which run, so that waiting costs nothing until something happens."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from durable.core.events import Attributes
from durable.store.records import RunNews


@asynccontextmanager
async def listening(
    news: Coroutine[Any, Any, None],
) -> AsyncGenerator[asyncio.Future[None]]:
    """Listen before looking, or a change in between would go unheard."""
    heard = asyncio.ensure_future(news)
    try:
        await asyncio.sleep(0)
        yield heard
    finally:
        heard.cancel()


_Waiters: TypeAlias = dict[asyncio.Future[None], None]


class RunOutcome:
    """What this process knows about how one run ended; shared by its handles.

    Attributes:
        terminal: the terminal event, once this process has seen it committed.
        is_fresh: the run was created here a moment ago, so there is no need to ask
            the store whether it is open.
    """

    __slots__ = (
        "__weakref__",
        "_end_waiters",
        "_seen",
        "_waiters",
        "is_fresh",
        "terminal",
    )

    def __init__(self) -> None:
        self.terminal: Attributes | None = None
        self.is_fresh = False
        self._waiters: _Waiters = {}
        self._end_waiters: _Waiters = {}
        self._seen = 0

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters or self._end_waiters)

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        self.is_fresh = False
        if self._end_waiters:
            _wake(self._end_waiters)
        if self._waiters:
            _wake(self._waiters)

    def hear(self, news: RunNews, terminal: Attributes | None) -> None:
        """Take what the store says; let those look again to whom it may be new."""
        if not news.is_open:
            self.terminal = self.terminal or terminal
        if not news.is_open or news.is_stuck:
            self.nudge()
            return
        # A reply that waits may be another than the one of its name that was taken.
        if news.replies or news.last_event_id != self._seen:
            self._seen = news.last_event_id
            _wake(self._waiters)

    def changed(self) -> Coroutine[Any, Any, None]:
        """Wait until there may be an event, a reply or an end that is new."""
        return self._wait_in(self._waiters)

    def ended(self) -> Coroutine[Any, Any, None]:
        """Wait until the run may have closed or parked."""
        return self._wait_in(self._end_waiters)

    async def _wait_in(self, waiters: _Waiters) -> None:
        # A method, so that whoever waits keeps this from being forgotten.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters[waiter] = None
        try:
            await waiter
        finally:
            waiters.pop(waiter, None)


def _wake(waiters: _Waiters) -> None:
    woken = list(waiters)
    waiters.clear()
    for waiter in woken:
        if not waiter.done():
            waiter.set_result(None)


class Outcomes:
    """The outcomes that somebody holds a handle to, by run id."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[str, RunOutcome] = (
            weakref.WeakValueDictionary()
        )

    def of(self, run_id: str) -> RunOutcome:
        """The outcome of a run, made at first use."""
        outcome = self._known.get(run_id)
        if outcome is None:
            outcome = self._known[run_id] = RunOutcome()
        return outcome

    def closed(self, run_id: str, terminal: Attributes | None) -> None:
        """A run has closed; `terminal` is None if only the store knows how."""
        outcome = self._known.get(run_id)
        if outcome is not None:
            outcome.terminal = terminal
            outcome.nudge()

    def nudge(self, run_id: str) -> None:
        """Something about a run has changed."""
        outcome = self._known.get(run_id)
        if outcome is not None:
            outcome.nudge()

    def awaited(self) -> list[str]:
        """The runs that somebody waits for."""
        return [i for i, outcome in list(self._known.items()) if outcome.is_awaited]

    def hear(self, news: RunNews, terminal: Attributes | None) -> None:
        """What the store says of a run."""
        outcome = self._known.get(news.run_id)
        if outcome is not None:
            outcome.hear(news, terminal)

    def nudge_all(self) -> None:
        """Something in the store has changed, nobody knows what."""
        for outcome in list(self._known.values()):
            outcome.nudge()

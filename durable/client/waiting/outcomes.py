"""Who waits for which run, so that waiting costs nothing until something happens."""

from __future__ import annotations

import asyncio
import weakref
from typing import TypeAlias

import msgspec

from durable.core.history.events import Attributes
from durable.store.queries import RunNews

_Waiters: TypeAlias = dict[asyncio.Future[None], None]


class RunOutcome(msgspec.Struct, eq=False, weakref=True):
    """What this process knows about how one run ended; shared by its handles.

    Attributes:
        terminal: the terminal event, once this process has seen it committed.
        fresh_at: how much others had changed when the run was created here: until they
            change more, there is no need to ask the store whether it is open.
        known: where it has an entry, which goes with it.
    """

    run_id: str
    known: dict[str, weakref.ref[RunOutcome]]
    terminal: Attributes | None = None
    fresh_at: int = -1
    waiters: _Waiters = {}
    end_waiters: _Waiters = {}
    seen: int = 0

    def __del__(self) -> None:
        known = self.known.get(self.run_id)
        if known is not None and known() in (None, self):  # else that of a later one
            del self.known[self.run_id]

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self.waiters or self.end_waiters)

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        self.fresh_at = -1
        if self.end_waiters:
            _wake(self.end_waiters)
        if self.waiters:
            _wake(self.waiters)

    def hear(self, news: RunNews, terminal: Attributes | None) -> None:
        """Take what the store says; let those look again to whom it may be new."""
        if not news.is_open:
            self.terminal = self.terminal or terminal
        if not news.is_open or news.is_stuck:
            self.nudge()
            return
        # A reply that waits may be another than the one of its name that was taken.
        if news.replies or news.last_event_id != self.seen:
            self.seen = news.last_event_id
            _wake(self.waiters)

    def changed(self) -> asyncio.Future[None]:
        """Listen, from now on, for an event, a reply or an end that may be new.

        Whoever waits holds this object meanwhile, and says `forget` afterwards.
        """
        return _listen_in(self.waiters)

    def ended(self) -> asyncio.Future[None]:
        """Listen, as for `changed`, until the run may have closed or parked."""
        return _listen_in(self.end_waiters)

    def forget(self, waiter: asyncio.Future[None]) -> None:
        """Nobody waits for that any more."""
        self.waiters.pop(waiter, None)
        self.end_waiters.pop(waiter, None)


def _listen_in(waiters: _Waiters) -> asyncio.Future[None]:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters[waiter] = None
    return waiter


def _wake(waiters: _Waiters) -> None:
    woken = list(waiters)
    waiters.clear()
    for waiter in woken:
        if not waiter.done():
            waiter.set_result(None)


class Outcomes:
    """The outcomes that somebody holds a handle to, by run id.

    Attributes:
        changes: how often others have changed something in the store.
    """

    def __init__(self) -> None:
        self.changes = 0
        # A dictionary of weak values takes ten calls to keep and to drop one.
        self._known: dict[str, weakref.ref[RunOutcome]] = {}

    def _find(self, run_id: str) -> RunOutcome | None:
        known = self._known.get(run_id)
        return None if known is None else known()

    def _all(self) -> list[tuple[str, RunOutcome]]:
        known = [(run_id, known()) for run_id, known in list(self._known.items())]
        return [(run_id, outcome) for run_id, outcome in known if outcome is not None]

    def of(self, run_id: str) -> RunOutcome:
        """The outcome of a run, made at first use."""
        outcome = self._find(run_id)
        if outcome is None:
            outcome = RunOutcome(run_id, self._known)
            self._known[run_id] = weakref.ref(outcome)
        return outcome

    def closed(self, run_id: str, terminal: Attributes | None) -> None:
        """A run has closed; `terminal` is None if only the store knows how."""
        outcome = self._find(run_id)
        if outcome is not None:
            outcome.terminal = terminal
            outcome.nudge()

    def nudge(self, run_id: str) -> None:
        """Something about a run has changed."""
        outcome = self._find(run_id)
        if outcome is not None:
            outcome.nudge()

    def awaited(self) -> list[str]:
        """The runs that somebody waits for."""
        return [run_id for run_id, outcome in self._all() if outcome.is_awaited]

    def hear(self, news: RunNews, terminal: Attributes | None) -> None:
        """What the store says of a run."""
        outcome = self._find(news.run_id)
        if outcome is not None:
            outcome.hear(news, terminal)

    def nudge_all(self) -> None:
        """Something in the store has changed, nobody knows what."""
        for _, outcome in self._all():
            outcome.nudge()

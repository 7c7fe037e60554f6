"""Who waits for which run, so that waiting costs nothing until something happens."""

from __future__ import annotations

import asyncio
import weakref

from durable.core.events import Attributes


class RunOutcome:
    """What this process knows about how one run ended; shared by its handles.

    Attributes:
        terminal: the terminal event, once this process has seen it committed.
        is_fresh: the run was created here a moment ago, so there is no need to ask
            the store whether it is open.
    """

    __slots__ = ("__weakref__", "_waiters", "is_fresh", "terminal")

    def __init__(self) -> None:
        self.terminal: Attributes | None = None
        self.is_fresh = False
        self._waiters: list[asyncio.Future[None]] = []

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        self.is_fresh = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Wait for the next nudge."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


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

    def nudge_all(self) -> None:
        """Something in the store has changed, nobody knows what."""
        for outcome in list(self._known.values()):
            outcome.nudge()

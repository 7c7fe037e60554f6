"""How often news of runs elsewhere are read: counted, on a clock of its own."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable
from typing import Any, cast

import pytest

from durable.client.waiting.listening import Listener
from durable.client.waiting.outcomes import Outcomes
from durable.store.queries import ReadNews, RunNews
from durable.store.store import Store

READ_SECONDS = 0.002
COMMITS = 1_000


class LeapingSelector(selectors.DefaultSelector):
    """Waits for nothing: the time that somebody means to wait has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


class SlowStore:
    """Answers that all runs are open, after a while."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.seconds = READ_SECONDS

    async def read(self, query: ReadNews) -> list[RunNews]:
        self.begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        return [
            RunNews(
                run_id=run_id,
                is_open=True,
                is_stuck=False,
                last_event_id=1,
                replies=(),
                last_row=None,
            )
            for run_id in query.run_ids
        ]


class Listening:
    """Somebody who waits for so many runs, as others commit."""

    def __init__(self, awaited: int) -> None:
        self.store, outcomes = SlowStore(), Outcomes()
        self.listener = Listener(cast("Store", self.store), outcomes)
        self._held = [outcomes.of(f"r{number}") for number in range(awaited)]
        for outcome in self._held:
            outcome.ended()

    async def hear(self, commits: int, apart: float) -> None:
        for _ in range(commits):
            self.listener.changed()
            await asyncio.sleep(apart)


def on_leaping_clock(body: Callable[[], Any]) -> None:
    selector = LeapingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]  # the test's own loop
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())


@pytest.mark.parametrize(("awaited", "least", "most"), [(1, 490, 501), (200, 95, 105)])
def test_commits_of_others_are_read_together_by_who_waits_for_many(
    awaited: int, least: int, most: int
) -> None:
    async def body() -> None:
        listening = Listening(awaited)
        await listening.hear(COMMITS, apart=READ_SECONDS / 2)
        assert least <= len(listening.store.begun) <= most

    on_leaping_clock(body)


@pytest.mark.parametrize(("awaited", "reads"), [(1, 3), (200, 2)])
def test_the_first_news_are_read_at_once_and_the_last_in_any_case(
    awaited: int, reads: int
) -> None:
    async def body() -> None:
        listening, time = Listening(awaited), asyncio.get_running_loop().time
        for _ in range(3):
            began = time()
            await listening.hear(7, apart=READ_SECONDS / 4)
            last = time() - READ_SECONDS / 4
            await asyncio.sleep(1)
            times = [at for at in listening.store.begun if at >= began]
            assert times[0] == began
            assert last <= times[-1] <= last + 0.05
            assert len(times) == reads

    on_leaping_clock(body)


def test_however_long_a_read_takes_the_next_one_is_not_put_off_for_long() -> None:
    async def body() -> None:
        listening = Listening(200)
        listening.store.seconds = 1.0
        await listening.hear(40, apart=0.1)
        begun = listening.store.begun
        pauses = [b - a - 1.0 for a, b in itertools.pairwise(begun)]
        assert len(pauses) >= 3
        assert max(pauses) <= 0.05 + 1e-6

    on_leaping_clock(body)

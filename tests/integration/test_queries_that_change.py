"""A query that tries to change its run is refused, and the run goes on unharmed."""

import asyncio

import pytest

import durable
from durable import QueryFailedError, RunStatus, query, signal, update, workflow
from durable.errors import ReadOnlyError
from durable.testing import TestEnvironment


@workflow(name="meddling.Sleeper")
class Sleeper:
    """Sleeps until it is woken."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.nudges = 0

    @durable.run
    async def run(self) -> int:
        """Sleep."""
        await self.woken.wait()
        return self.nudges

    @signal
    def nudge(self) -> None:
        """Count."""
        self.nudges += 1

    @query
    def meddle(self) -> int:
        """Try to wake it, and hide that."""
        try:
            self.woken.set()
        except ReadOnlyError:
            return -1
        return self.nudges

    @query
    def count(self) -> int:
        """Look."""
        return self.nudges

    @update
    def wake(self) -> bool:
        """Wake it; say whether it slept."""
        slept = not self.woken.is_set()
        self.woken.set()
        return slept


@pytest.mark.parametrize("cached", [1, 1_000])
async def test_run_is_not_woken_by_a_query_and_can_be_woken_later(cached: int) -> None:
    async with TestEnvironment(max_cached_runs=cached) as env:
        run = await env.start(Sleeper.run(), id="sleeper")
        await env.start(Sleeper.run(), id="another")  # one of them is cached at most
        await run.signal(Sleeper.nudge())
        for _ in range(3):
            with pytest.raises(QueryFailedError) as caught:
                await run.query(Sleeper.meddle())
            assert isinstance(caught.value.__cause__, ReadOnlyError)
        await run.signal(Sleeper.nudge())
        await env.settle()
        assert (await run.describe()).status is RunStatus.RUNNING
        assert await run.query(Sleeper.count()) == 2
        assert await run.update(Sleeper.wake())
        assert await run.result() == 2


async def test_others_who_ask_at_the_same_time_see_the_run_as_it_is() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Sleeper.run(), id="sleeper")
        answers = await asyncio.gather(
            run.query(Sleeper.count()),
            run.query(Sleeper.meddle()),
            run.query(Sleeper.count()),
            run.signal(Sleeper.nudge()),
            return_exceptions=True,
        )
        assert answers[0] in (0, 1)
        assert answers[2] in (0, 1)
        assert isinstance(answers[1], QueryFailedError)
        assert await run.update(Sleeper.wake()) is True
        assert await run.result() == 1

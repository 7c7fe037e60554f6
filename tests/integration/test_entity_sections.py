"""Critical sections on an engine: nobody comes between, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    Entity,
    EntityDeadlockError,
    NoAnswerError,
    Signal,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowFailedError,
    activity,
    continue_as_new,
    entity,
    exclusive,
    locked,
    shared,
    sleep,
    workflow,
)
from durable.testing.environment import TestEnvironment
from tests.sizes import examples

BALANCE = 100
release = Signal("release", None)


class Overdrawn(Exception):
    """There is not so much money."""


@activity(name="sections.post")
async def post(n: int) -> int:
    await asyncio.sleep(0.1)
    return n


@entity(name="sections.Account")
class Account(Entity):
    money: int = BALANCE

    @exclusive
    async def withdraw(self, n: int) -> None:
        self.money -= await post(n)
        if self.money < 0:
            raise Overdrawn

    @exclusive
    async def deposit(self, n: int) -> None:
        self.money += await post(n)

    @exclusive
    def peek(self) -> int:
        return self.money

    @shared
    def balance(self) -> int:
        return self.money


@workflow(name="sections.holding")
async def holding(keys: str, how: str = "") -> str:
    async with locked(*[Account[key] for key in keys]):
        await Account[keys[0]].deposit(1)
        if how == "raise":
            raise Overdrawn
        if how == "continue":
            continue_as_new("z")
        await release.receive()
        await Account[keys[0]].deposit(1)
    return "done"


@workflow(name="sections.disorderly")
async def disorderly(how: str) -> None:
    async with locked(Account["b"]):
        if how == "order":
            async with locked(Account["a"]):
                pass
        else:
            await Account["a"].deposit(1)


def elapsed(env: TestEnvironment, begun: int) -> float:
    return (env.clock.now() - begun) / 1_000_000


async def test_others_wait_while_a_key_is_held_and_readers_do_not(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(holding("ab"), id="w")
        await env.sleep(1)
        with pytest.raises(NoAnswerError):
            await env.call(Account["b"].peek(), timeout="10s", update_id="peek")
        assert await env.call(Account["a"].balance()) == BALANCE + 1
        assert await env.call(Account["c"].peek()) == BALANCE
        waiting = await env.start(holding("bc"), id="v")
        await env.sleep("1m")
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=holding)
        waiting = await env.get("v", workflow=holding)
        await waiting.signal(release())
        peeked = asyncio.create_task(env.call(Account["b"].peek(), update_id="peek"))
        await env.sleep("10m")
        assert not peeked.done()
        await run.signal(release())
        assert await run.result() == "done"
        # Those who wait get their turns in order of arrival.
        assert await peeked == BALANCE
        assert await waiting.result() == "done"
        assert await env.call(Account["a"].peek()) == BALANCE + 2
        assert await env.call(Account["b"].peek()) == BALANCE + 2


@pytest.mark.parametrize("how", ["raise", "continue", "cancel"])
async def test_keys_are_let_go_however_the_block_is_left(how: str) -> None:
    async with TestEnvironment() as env:
        run = await env.start(holding("ab", how), id="w")
        await env.sleep(1)
        if how == "cancel":
            await run.cancel()
            with pytest.raises(WorkflowCancelledError):
                await run.result()
        elif how == "raise":
            with pytest.raises(WorkflowFailedError):
                await run.result()
        begun = env.clock.now()
        for key in "ab":
            assert await env.call(Account[key].peek()) >= BALANCE
        assert elapsed(env, begun) < 1


@pytest.mark.parametrize("key", ["a", "b"])
async def test_key_of_a_terminated_run_is_free_within_a_minute(key: str) -> None:
    async with TestEnvironment() as env:
        run = await env.start(holding("ab"), id="w")
        await env.sleep(1)
        waiting = asyncio.create_task(env.call(Account[key].peek()))
        await env.sleep(10)
        await run.terminate()
        begun = env.clock.now()
        assert await waiting >= BALANCE
        assert elapsed(env, begun) < 60


async def test_waiting_run_gets_the_keys_of_a_terminated_one() -> None:
    async with TestEnvironment() as env:
        first = await env.start(holding("ab"), id="w")
        await env.sleep(1)
        runs = [await env.start(holding(keys)) for keys in ("ba", "ac", "cb")]
        for run in runs:
            await run.signal(release())
        await env.sleep("3h")
        await first.terminate()
        begun = env.clock.now()
        assert [await run.result() for run in runs] == ["done"] * 3
        assert elapsed(env, begun) < 3_700


async def test_holder_is_watched_although_one_of_those_who_waited_gives_up() -> None:
    async with TestEnvironment() as env:
        first = await env.start(holding("a"))
        await env.sleep(1)
        second = await env.start(holding("a"))
        waiting = asyncio.create_task(env.call(Account["a"].peek()))
        await env.sleep(1)
        await second.cancel()
        await first.terminate()
        begun = env.clock.now()
        assert await waiting == BALANCE + 1
        assert elapsed(env, begun) < 60


async def test_keys_pass_at_once_over_those_that_ended_while_they_waited() -> None:
    async with TestEnvironment() as env:
        runs = [await env.start(holding("a")) for _ in range(5)]
        last = await env.start(holding("a"))
        await last.signal(release())
        await env.sleep(1)
        for run in runs:
            await run.terminate()
        begun = env.clock.now()
        assert await last.result() == "done"
        assert elapsed(env, begun) < 62


async def test_watching_a_holder_for_long_costs_little() -> None:
    async with TestEnvironment() as env:
        await env.start(holding("ab"), id="w")
        await env.sleep(1)
        with pytest.raises(NoAnswerError):
            await env.call(Account["a"].peek(), timeout="2d")
        run = await env.get("entity:sections.Account:a")
        assert len(await run.history()) < 400


@pytest.mark.parametrize("how", ["order", "call"])
async def test_what_could_wait_for_ever_is_refused(how: str) -> None:
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(disorderly(how))
        assert isinstance(caught.value.__cause__, EntityDeadlockError)
        assert await env.call(Account["b"].peek()) == BALANCE


# --- many of them ---------------------------------------------------------------------


@dataclass
class Plan:
    """What one run does, and what is done to it."""

    sources: list[str]
    target: str
    n: int
    begins_after: float
    stays: float
    is_nested: bool
    cancelled_after: float | None
    is_terminated: bool


keys = st.sampled_from("abcd")
plans = st.lists(
    st.builds(
        Plan,
        sources=st.lists(keys, min_size=1, max_size=3, unique=True),
        target=keys,
        n=st.integers(1, 80),
        begins_after=st.sampled_from([0, 0, 0, 0.1, 0.5, 3]),
        stays=st.sampled_from([0, 0, 1, 100]),
        is_nested=st.booleans(),
        cancelled_after=st.none() | st.sampled_from([0, 0.05, 0.15, 0.3, 1, 5]),
        is_terminated=st.booleans(),
    ),
    min_size=2,
    max_size=8,
)


@workflow(name="sections.collect")
async def collect(plan: Plan) -> int:
    """Take from many, give to one; give back what cannot be had from all."""
    await sleep(plan.begins_after)
    wanted = [*plan.sources, plan.target]
    if plan.is_nested:
        first = locked(Account[min(wanted)])
        async with first, locked(*[Account[key] for key in wanted]):
            return await move(plan)
    async with locked(*[Account[key] for key in wanted]):
        return await move(plan)


async def move(plan: Plan) -> int:
    before = await asyncio.gather(*[Account[key].balance() for key in plan.sources])
    done: list[str] = []
    try:
        for key in plan.sources:
            await Account[key].withdraw(plan.n)
            done.append(key)
        if plan.stays:
            await sleep(plan.stays)
        after = [await Account[key].peek() for key in plan.sources]
        assert after == [money - plan.n for money in before], "somebody came between"
    except Overdrawn:
        for key in done:
            await Account[key].deposit(plan.n)
        return 0
    await Account[plan.target].deposit(plan.n * len(done))
    return plan.n * len(done)


async def play(plans: list[Plan], cached_runs: int) -> None:
    async with TestEnvironment(max_cached_runs=cached_runs) as env:
        runs = [await env.start(collect(plan)) for plan in plans]
        disturbing = [
            asyncio.create_task(disturb(run, plan))
            for run, plan in zip(runs, plans, strict=True)
            if plan.cancelled_after is not None
        ]
        deposits = [env.call(Account[key].deposit(7)) for key in "abcd"]
        await asyncio.gather(*deposits)
        is_whole = True
        for run in runs:
            try:
                await run.result(timeout="2h")
            except WorkflowFailedError as error:
                cause = error.__cause__
                assert not isinstance(cause, AssertionError | EntityDeadlockError), (
                    cause
                )
                is_whole = False  # what was withdrawn was not given back
        await asyncio.gather(*disturbing)
        begun = env.clock.now()
        left = await asyncio.gather(*[env.call(Account[key].peek()) for key in "abcd"])
        assert elapsed(env, begun) < 62  # a method may be under way first
        assert all(money >= 0 for money in left)
        if is_whole:
            assert sum(left) == 4 * (BALANCE + 7)


async def disturb(run: Any, plan: Plan) -> None:
    await asyncio.sleep(plan.cancelled_after or 0)
    with contextlib.suppress(WorkflowClosedError):
        if plan.is_terminated:
            await run.terminate()
        else:
            await run.cancel()


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=examples(60))
@given(plans=plans, cached_runs=st.sampled_from([1, 1_000]))
def test_transfers_conserve_money_and_never_deadlock(
    plans: list[Plan], cached_runs: int
) -> None:
    asyncio.run(play(plans, cached_runs))

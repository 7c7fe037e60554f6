"""What a crash must not spoil between runs: the second scenario of `crash_sweep.py`.

One household of runs does everything that takes more than one run: it starts children,
tells others and is told by them, continues as new with signals that nobody has read,
cancels through a tree, answers an update late, and leaves children behind, one for each
parent close policy. A client sends what people would send, each with a key of its own,
and does so again after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import durable
from durable import (
    ChildCancellationType,
    Engine,
    Handle,
    IdConflictPolicy,
    ParentClosePolicy,
    RetryPolicy,
    Signal,
    WorkflowClosedError,
    WorkflowFailedError,
    activity,
    all_handlers_finished,
    continue_as_new,
    external,
    start_child,
    update,
    wait_condition,
    workflow,
)

POLICY = RetryPolicy(max_attempts=20, initial_interval="1ms", max_interval="1ms")
letters = Signal("letters", str)
endings = Signal("endings", str)
note: Callable[[str], None] = print
"""Tells the outside world that an activity has begun; set by the sweep."""


@activity(name="crash.work", retry=POLICY)
async def work(what: str) -> str:
    """Do one recorded thing."""
    note(f"crash.work {what}")
    return what


@workflow(name="crash.grown")
async def grown(name: str) -> str:
    """A child that ends by itself."""
    return await work(f"{name} grows up")


@workflow(name="crash.relay")
async def relay(round: int, seen: list[str]) -> list[str]:
    """Read one letter in each run of its chain; leave the others unread."""
    seen.append(await letters.receive())
    if round < 3:
        continue_as_new(relay(round + 1, seen))
    await external("household").signal(letters("relay is done"))
    return seen


@workflow(name="crash.branch")
async def branch(name: str) -> None:
    """Wait until it is cancelled, then clean up."""
    try:
        await letters.receive()
    finally:
        await work(f"{name} cleans up")


@workflow(name="crash.trunk")
async def trunk() -> None:
    """Wait for two branches."""
    # With exceptions returned, a cancelled gather waits for all of them.
    await asyncio.gather(
        *(branch.options(id=f"branch-{side}")(side) for side in ("left", "right")),
        return_exceptions=True,
    )


@workflow(name="crash.heir")
async def heir() -> str:
    """Outlives its parent, until a letter comes."""
    return await letters.receive()


@workflow(name="crash.Household")
class Household:
    """The parent of all."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @durable.run
    async def run(self) -> list[str]:
        """Do everything in turn, and some of it at once."""
        log = self.log
        log += await asyncio.gather(
            *(grown.options(id=f"grown-{n}")(f"grown-{n}") for n in range(2))
        )
        for policy in ParentClosePolicy:
            call = branch.options(id=policy.value, parent_close_policy=policy)
            if policy is ParentClosePolicy.ABANDON:
                await start_child(heir.options(id="heir", parent_close_policy=policy)())
            else:
                await start_child(call(policy.value))
        relaying = await start_child(
            relay.options(id="relay", parent_close_policy=ParentClosePolicy.ABANDON)(
                1, []
            )
        )
        for number in range(3):
            await relaying.signal(letters(f"letter {number}"))
        log.append(await letters.receive())
        log += await relaying
        await self.cancel_a_tree()
        log.append(await endings.receive())
        await wait_condition(all_handlers_finished)
        return log

    async def cancel_a_tree(self) -> None:
        """Ask the trunk to stop; its branches clean up first."""
        call = trunk.options(
            id="trunk",
            cancellation_type=ChildCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        standing = await start_child(call())
        await work("an axe is found")
        await standing.cancel("it is felled")
        try:
            await standing
        except asyncio.CancelledError:
            self.log.append("felled")

    @update
    async def ask(self, what: str) -> str:
        """Answer once the household has been told to end."""
        await wait_condition(lambda: "felled" in self.log)
        return await work(what)


EXPECTED_LOG = [
    "grown-0 grows up",
    "grown-1 grows up",
    "relay is done",
    "letter 0",
    "letter 1",
    "letter 2",
    "felled",
    "the end",
]
EXPECTED_RUNS = {
    "branch-left": ["cancelled"],
    "branch-right": ["cancelled"],
    "grown-0": ["completed"],
    "grown-1": ["completed"],
    "heir": ["completed"],
    "household": ["completed"],
    "relay": ["completed", "continued_as_new", "continued_as_new"],
    "request_cancel": ["cancelled"],
    "terminate": ["terminated"],
    "trunk": ["cancelled"],
}
EXPECTED: dict[str, object] = {
    "result": EXPECTED_LOG,
    "answer": "a question",
    "heir": "at last",
    "runs": EXPECTED_RUNS,
}


async def live(engine: Engine) -> dict[str, object]:
    """Send what people would send, and wait for everything to end."""
    household = await engine.start(
        Household.run(),
        id="household",
        request_id="household",
        on_conflict=IdConflictPolicy.USE_EXISTING,
    )
    asking = asyncio.ensure_future(
        household.update(Household.ask("a question"), update_id="question")
    )
    await _send(household.signal(endings("the end"), request_id="the end"))
    result = await household.result(timeout="50s")
    heir_run: Handle[str] = await engine.get("heir", workflow=heir)
    await _send(heir_run.signal(letters("at last"), request_id="at last"))
    await heir_run.result(timeout="50s")
    for workflow_id in EXPECTED_RUNS:
        with contextlib.suppress(WorkflowFailedError):
            await (await engine.get(workflow_id)).result(timeout="50s")
    return {
        "result": result,
        "answer": await asking,
        "heir": await heir_run.result(),
        "runs": await _statuses(engine),
    }


async def _send(sending: Awaitable[None]) -> None:
    """Send; after a crash its receiver may have ended with it already."""
    with contextlib.suppress(WorkflowClosedError):
        await sending


async def _statuses(engine: Engine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in await engine.list(limit=1_000):
        found.setdefault(run.workflow_id, []).append(run.status.value)

    return {workflow_id: sorted(found[workflow_id]) for workflow_id in sorted(found)}

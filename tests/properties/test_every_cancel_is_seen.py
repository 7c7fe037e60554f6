"""Whatever a run waits for, it sees a request to stop exactly once.

Random programs of operations, tasks and groups that swallow no cancel meet a random
outside world, and the task that the request is for counts the CancelledErrors that
reach it.
"""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable import sleep, workflow
from durable.core.history.events import WorkflowExecutionCancelRequested
from durable.testing.programs import programs as p
from durable.testing.programs.interpreter import Interpreter
from durable.testing.programs.schedules import Step, drive
from durable.testing.replaying import replay_at_every_prefix
from durable.testing.strategies import schedules
from tests.sizes import examples

many = settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.too_slow],
)


class Witness(Interpreter):
    """Counts the cancels that reach the workflow's own task."""

    def __init__(self, program: p.Node) -> None:
        super().__init__(program, 0)
        self.task = asyncio.current_task()
        self.cancels: list[BaseException] = []

    async def run(self, node: p.Node) -> int:
        try:
            return await super().run(node)
        except asyncio.CancelledError as cancel:
            self.witness(cancel)
            raise

    def witness(self, cancel: BaseException) -> None:
        is_known = any(cancel is known for known in self.cancels)
        if asyncio.current_task() is self.task and not is_known:
            self.cancels.append(cancel)


@workflow(name="properties.witness")
async def witness(program: p.Node) -> int:
    """Walk a program, whatever it raises; then wait some more."""
    interpreter = Witness(program)
    try:
        await interpreter.run(program)
    except asyncio.CancelledError:
        pass
    except Exception:  # noqa: BLE001, S110 - only cancels count
        pass
    for _ in range(3):
        try:
            await sleep(1)
        except asyncio.CancelledError as cancel:
            interpreter.witness(cancel)
    return len(interpreter.cancels)


def _leaves(raises: st.SearchStrategy[bool]) -> st.SearchStrategy[p.Node]:
    child = st.builds(
        p.Raise,
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 2),
        st.none(),
        raises,
    )
    act = st.builds(p.Act, st.integers(0, 2), st.integers(0, 9), raises)
    return st.one_of(child, act, child, act, st.builds(p.Sleep, st.integers(0, 2)))


def _composed(children: st.SearchStrategy[p.Node]) -> st.SearchStrategy[p.Node]:
    several = st.lists(children, min_size=1, max_size=3).map(tuple)
    # A failure would take the place of the cancel that it cleans up after.
    cleanup = st.lists(_leaves(st.just(False)), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(p.Seq, several),
        st.builds(p.Gather, several, st.booleans()),
        st.builds(p.Group, several),
        st.builds(p.Shield, children),
        st.builds(p.Cleanup, children, st.builds(p.Seq, cleanup)),
        st.builds(p.Bag, several),
        st.builds(p.Limited, children),
    )


def _can_get_on(program: p.Node) -> bool:
    """Whether no part of it waits for places of the semaphore that it holds itself."""
    return str(program).count("Limited(") <= 1


programs: st.SearchStrategy[Any] = st.recursive(
    _leaves(st.booleans()), _composed, max_leaves=6
).filter(_can_get_on)


@many
@given(programs, schedules())
def test_a_request_is_seen_exactly_once(
    program: p.Node, steps: tuple[Step, ...]
) -> None:
    driver = drive(witness(program), steps)
    replay_at_every_prefix(driver.history)
    is_asked = any(
        isinstance(event.attributes, WorkflowExecutionCancelRequested)
        for event in driver.history
    )
    assert driver.result() == int(is_asked)

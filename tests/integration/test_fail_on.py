"""Library errors that `fail_on` names fail a run instead of parking it."""

from __future__ import annotations

from typing import Any

import pytest

from durable import (
    Engine,
    NondeterminismError,
    RunStatus,
    Signal,
    WorkflowFailedError,
    activity,
    workflow,
)
from durable.core.history.events import WorkflowExecutionSignaled
from durable.errors import UndecodableError, WorkflowStuckError
from durable.testing import TestEnvironment

go = Signal("go", int)
edited: list[str] = []


@activity(name="fail_on.first")
async def first() -> str:
    return "first"


@activity(name="fail_on.second")
async def second() -> str:
    return "second"


async def _changing() -> list[str]:
    seen = [await (second() if edited else first())]
    return [*seen, str(await go.receive())]


changing = workflow(name="fail_on.changing")(_changing)
failing = workflow(name="fail_on.failing", fail_on=(NondeterminismError,))(_changing)


@workflow(name="fail_on.typed")
async def typed(number: int) -> int:
    return number


@pytest.fixture(autouse=True)
def original_code() -> Any:
    edited.clear()
    yield
    edited.clear()


@pytest.mark.parametrize("by_engine", [False, True])
async def test_a_run_fails_of_nondeterminism_if_fail_on_names_it(
    database: str, *, by_engine: bool
) -> None:
    options: dict[str, Any] = {"fail_on": (NondeterminismError,)} if by_engine else {}
    target = changing if by_engine else failing
    async with TestEnvironment(database, **options) as env:
        await env.start(target(), id="run")
        await env.settle()
    edited.append("now")
    async with TestEnvironment(database, worker=False) as env:
        handle = await env.get("run")
        await handle.signal(go(1))
    async with TestEnvironment(database, **options) as env:
        handle = await env.get("run")
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
        assert isinstance(caught.value.__cause__, NondeterminismError)
        assert (await handle.describe()).status is RunStatus.FAILED
        # The signal was acknowledged, so the history has it.
        kinds = [type(event.attributes) for event in await handle.history()]
        assert WorkflowExecutionSignaled in kinds
        other = await env.start(target(), id="run", id_reuse="new_run")
        await other.terminate()


async def test_a_run_without_fail_on_parks_as_ever(database: str) -> None:
    async with TestEnvironment(database) as env:
        await env.start(changing(), id="run")
        await env.settle()
    edited.append("now")
    async with TestEnvironment(database) as env:
        handle = await env.get("run")
        await handle.signal(go(1))
        with pytest.raises(WorkflowStuckError):
            await handle.result()
    edited.clear()
    async with TestEnvironment(database) as env:
        handle = await env.get("run")
        assert await handle.result() == ["first", "1"]


async def test_a_run_fails_of_an_input_that_does_not_fit_if_its_engine_says_so(
    database: str,
) -> None:
    async with TestEnvironment(database, fail_on=(UndecodableError,)) as env:
        handle = await env.start("fail_on.typed", "no number", id="run")
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
        assert isinstance(caught.value.__cause__, UndecodableError)
    async with Engine(database) as engine:
        # What failed there stays so for an engine that would have parked it.
        assert (await engine.list(status=RunStatus.FAILED))[0].workflow_id == "run"

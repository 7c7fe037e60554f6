"""What is handled around a run is none of its own: no replay would find it."""

from __future__ import annotations

import asyncio

import pytest

from durable import (
    ApplicationError,
    Engine,
    Handle,
    Signal,
    WorkflowFailedError,
    workflow,
)
from durable.testing import replay

told = Signal("told", str)


@workflow(name="contexts.fail")
async def fail(how: str) -> None:
    if how == "later":
        await told.receive()
    raise ApplicationError("alone")


@workflow(name="contexts.handle")
async def handle() -> None:
    try:
        raise KeyError("inner")
    except KeyError:
        raise ApplicationError("outer")  # noqa: B904 - its context is what is looked at


async def chain_of(run: Handle[None]) -> list[str]:
    """The recorded failure and its causes."""
    with pytest.raises(WorkflowFailedError) as caught:
        await run.result()
    texts: list[str] = []
    error = caught.value.__cause__
    while error is not None:
        if type(error).__name__ != "RemoteTraceback":
            texts.append(str(error.args[0]))
        error = error.__cause__
    replay(await run.history(), [fail, handle])
    return texts


async def test_what_a_client_handles_is_no_cause_of_what_its_run_raises() -> None:
    async with Engine("memory://") as engine:
        try:
            raise OSError("the client's own")
        except OSError:
            at_once = await engine.start(fail("at once"))
            later = await engine.start(fail("later"))
            await later.signal(told("now"))
            own = await engine.start(handle())
            await asyncio.sleep(0)
        assert await chain_of(at_once) == ["alone"]
        assert await chain_of(later) == ["alone"]
        assert await chain_of(own) == ["outer", "inner"]

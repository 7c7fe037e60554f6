"""The facade for programs without an event loop."""

from __future__ import annotations

import inspect
import threading
import typing
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import (
    Engine,
    Handle,
    ResultTimeoutError,
    RunStatus,
    SyncEngine,
    WorkflowCancelledError,
    activity,
    sleep,
    workflow,
)
from durable.api.messages.messages import update_call
from durable.client.updates import UpdateHandle
from durable.errors import EngineClosedError
from durable.sync import SyncHandle, SyncUpdateHandle


@activity(name="sync.add")
def add(a: int, b: int) -> int:
    return a + b


@workflow(name="sync.total")
async def total(numbers: list[int]) -> int:
    result = 0
    for number in numbers:
        result = await add(result, number)
    return result


@workflow(name="sync.Adding")
class Adding:
    def __init__(self, start: int) -> None:
        self.start = start

    @durable.run
    async def run(self, start: int) -> None:
        await sleep("1d")

    @durable.update
    async def add(self, a: int, b: int) -> int:
        return self.start + a + b


@workflow(name="sync.wait")
async def wait() -> None:
    await sleep("1d")


def test_a_script_starts_finds_and_stops_runs(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path / 'runs.db'}") as engine:
        assert engine.execute(total([1, 2, 3]), id="sum") == 6
        found = engine.get("sum", workflow=total)
        assert found.result() == 6
        assert found.describe().status is RunStatus.COMPLETED
        assert len(found.history()) == 8
        run = engine.start(wait(), id="wait")
        with pytest.raises(ResultTimeoutError):
            run.result(timeout="10ms")
        run.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            run.result()
        assert [r.workflow_id for r in engine.list()] == ["wait", "sum"]


def test_several_threads_share_one_engine() -> None:
    results: list[int] = []
    with SyncEngine("memory://") as engine:
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(engine.execute(total([n, n])))
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [2 * n for n in range(8)]


def test_use_before_open_and_after_close_is_refused() -> None:
    engine = SyncEngine("memory://")
    with pytest.raises(EngineClosedError, match="not open"):
        engine.list()
    engine.open()
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.list()


async def test_the_async_engine_refuses_use_after_close_too() -> None:
    engine = Engine("memory://")
    with pytest.raises(EngineClosedError, match="not open"):
        await engine.list()
    async with engine:
        pass
    await engine.close()
    with pytest.raises(EngineClosedError, match="closed"):
        await engine.list()
    await engine.open()
    assert await engine.execute(total([1])) == 1
    await engine.close()


async def test_many_engines_open_and_close_in_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url) as one, Engine(url) as two, Engine("memory://") as three:
        assert await one.execute(total([1])) == 1
        assert await two.execute(total([2])) == 2
        assert await three.execute(total([3])) == 3


# --- the facade is the same engine ----------------------------------------------------

ASYNC_ONLY = {
    "Engine": {
        "run_until_stopped",
        "drain_seconds",
        "closing_seconds",
        "running_activities",
    },  # it waits for an asyncio.Event
    "Handle": {"sent_update", "first_update"},  # for the client itself
    "UpdateHandle": {"send", "wait_accepted", "request"},
}


def _public(owner: type) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def _shape(function: Any) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in parameters]


def _types(function: Any) -> list[object]:
    parameters = inspect.signature(function).parameters.values()
    return [one.annotation for one in parameters]


@pytest.mark.parametrize(
    ("original", "facade"),
    [(Engine, SyncEngine), (Handle, SyncHandle), (UpdateHandle, SyncUpdateHandle)],
)
def test_the_facade_has_every_method_with_the_same_signature(
    original: type, facade: type
) -> None:
    missing = _public(original) - _public(facade) - ASYNC_ONLY[original.__name__]
    assert not missing
    for name in sorted(_public(facade) & _public(original)):
        ours, theirs = getattr(facade, name), getattr(original, name)
        if isinstance(ours, property) and isinstance(theirs, property):
            continue  # what it gives is another facade
        if name == "within":
            continue  # what must be awaited is not for it
        assert _shape(ours) == _shape(theirs), name
        shapes = [
            list(map(_shape, typing.get_overloads(one))) for one in (ours, theirs)
        ]
        assert shapes[0] == shapes[1], name
        if inspect.isfunction(ours) and not shapes[0]:  # no type variables to rename
            assert _types(ours) == _types(theirs), name


def test_handles_of_the_facade_say_what_they_are_of() -> None:
    with SyncEngine("memory://") as engine:
        handle, sent = engine.update_with_start(
            update_call("add", (2, 3)), "sync.Adding", 4, id="adding"
        )
        assert sent.result() == 9
        assert (handle.workflow_id, sent.workflow_id) == ("adding", "adding")
        assert handle.run_id == sent.run_id
        assert sent.update_id in repr(sent)
        assert handle.run_id in repr(handle)
        handle.cancel("enough", request_id="once")
        with pytest.raises(WorkflowCancelledError):
            handle.result()
        found = engine.list(status=RunStatus.CANCELLED, limit=1)
        assert [run.run_id for run in found] == [handle.run_id]
        assert engine.list(after=found[0].cursor) == []

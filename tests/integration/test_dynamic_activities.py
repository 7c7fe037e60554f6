"""One activity for all that no other one is there for."""

from __future__ import annotations

from typing import Any

import pytest

from durable import Engine, activity, activity_info, workflow
from durable.errors import DefinitionError


@activity(name="dynamic.known")
async def known(number: int) -> str:
    return f"known {number}"


@workflow(name="dynamic.call")
async def call(name: str, numbers: list[int]) -> Any:
    elsewhere = _by_name(name)
    return await elsewhere(*numbers)


def _by_name(name: str) -> Any:
    """An activity of that name, as a program has it that does not define it here."""
    from durable.api.activities.activity import DEFAULTS, Activity

    def anything(*args: Any) -> Any:
        raise AssertionError(args)

    return Activity(anything, name, DEFAULTS)


@pytest.fixture
def dynamic(forgotten: None) -> Any:
    @activity(dynamic=True)
    def run_any(*args: Any) -> dict[str, Any]:
        return {"type": activity_info().activity_type, "args": [*args]}

    return run_any


async def test_it_runs_what_no_other_is_there_for_with_name_and_arguments(
    dynamic: Any,
) -> None:
    async with Engine("memory://", definitions=[call, known, dynamic]) as engine:
        found = await engine.execute(call("nobody.knows", [1, 2]))
        assert found == {"type": "nobody.knows", "args": [1, 2]}
        assert await engine.execute(call("dynamic.known", [3])) == "known 3"


async def test_it_runs_in_processes_too(forgotten: None) -> None:
    @activity(dynamic=True, run_in="process")
    def run_any(*args: Any) -> list[Any]:
        return [activity_info().activity_type, *args]

    async with Engine("memory://", definitions=[call, run_any]) as engine:
        assert await engine.execute(call("heavy", [1])) == ["heavy", 1]


async def test_two_of_them_are_refused_when_the_engine_opens(dynamic: Any) -> None:
    @activity(dynamic=True)
    def run_more(*args: Any) -> None: ...

    engine = Engine("memory://", definitions=[dynamic, run_more])
    with pytest.raises(DefinitionError, match="'run_any' and 'run_more'"):
        await engine.open()


def test_it_has_to_take_any_arguments(forgotten: None) -> None:
    with pytest.raises(DefinitionError, match="does not take any arguments"):

        @activity(dynamic=True)
        def takes_one(number: int) -> None: ...

"""`durable versions`, `durable patches` and `durable upgrade`."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, Signal, activity, patched, workflow
from tests.unit.cli.invoking import invoke, lines_of

pytestmark = pytest.mark.slow  # some begin processes

NAME = "cli_moving"
go = Signal("go", str)


@activity(name="cli_moving.price", retry=None)
async def price(number: int) -> int:
    return number


@workflow(name=NAME, version="1.0.0")
async def moving_1(number: int) -> str:
    await price(number)
    if number > 5:
        patched("big")
    return "one" + await go.receive()


CODE = """
from durable import Signal, activity, patched, workflow
go = Signal("go", str)

@activity(name="cli_moving.price", retry=None)
async def price(number: int) -> int: ...

@workflow(name="cli_moving", version="{version}")
async def moving(number: int) -> str:
    await price(number)
    {line}
    return "two" + await go.receive()
"""


def code(folder: Path, version: str = "2.0.0", line: str = "pass") -> str:
    path = folder / f"moving_{version.replace('.', '_')}.py"
    path.write_text(CODE.format(version=version, line=line))
    return str(path)


def work(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


async def _start(numbers: list[int]) -> None:
    async with Engine("sqlite:///orders.db", definitions=[moving_1, price]) as engine:
        for number in numbers:
            run = await engine.start(moving_1(number), id=f"m{number}")
            async with asyncio.timeout(30):
                while True:
                    if len(await run.history()) >= 3 + (number > 5):
                        break
                    await asyncio.sleep(0.01)


@pytest.fixture
def moving(folder: Path) -> Path:
    """Runs m1, m2 and, with a patch, m6."""
    work(_start([1, 2, 6]))
    return folder


def versions(*args: str) -> dict[Any, Any]:
    lines = lines_of(invoke("versions", *args, "--json"))
    return {one["version"]: one for one in lines if one["workflow_type"] == NAME}


def test_versions_tell_what_is_open_and_what_nobody_has(moving: Path) -> None:
    (one,) = versions().values()
    assert (one["version"], one["open_runs"]) == ("1.0.0", 3)
    assert one["is_served"] is None
    assert not one["may_be_removed"]
    table = invoke("versions").stdout.splitlines()
    assert any(line.split()[:3] == [NAME, "1.0.0", "3"] for line in table)


def test_versions_with_code_tell_what_may_be_removed(moving: Path) -> None:
    for version in ("0.5.0", "2.0.0"):
        (moving / f"bare_{version[0]}.py").write_text(
            f'from durable import workflow\n@workflow(name="{NAME}",'
            f' version="{version}")\nasync def moving_{version[0]}() -> None: ...\n'
        )
    found = versions("bare_0.py", "bare_2.py")
    told = {v: (one["open_runs"], one["may_be_removed"]) for v, one in found.items()}
    assert told == {"0.5.0": (0, True), "1.0.0": (3, False), "2.0.0": (0, False)}


def test_patches_tell_how_many_runs_carry_and_lack_each(moving: Path) -> None:
    (one,) = lines_of(invoke("patches", "--json"))
    assert one == {
        "workflow_type": NAME,
        "patch_id": "big",
        "carry": 1,
        "deprecated": 0,
        "lack": 2,
        "advice": "keep both branches",
    }
    for name in ("m1", "m2"):
        assert invoke("terminate", name).exit_code == 0
    (one,) = lines_of(invoke("patches", "--json"))
    assert (one["lack"], one["advice"]) == (0, "deprecate_patch may take its place")


def upgrade(path: str, *args: str) -> tuple[int, dict[str, Any]]:
    done = invoke("upgrade", path, "--workflow", NAME, "--to", "2.0.0", "--json", *args)
    return done.exit_code, json.loads(done.stdout)


def test_upgrade_moves_what_replays_and_leaves_the_rest(moving: Path) -> None:
    path = code(moving)  # without the patch that m6 has recorded
    exit_code, told = upgrade(path)
    assert (exit_code, told["runs"], told["fit"], told["moved"]) == (8, 3, 2, 0)
    assert set(versions()) == {"1.0.0"}

    exit_code, told = upgrade(path, "--yes")
    assert (exit_code, told["fit"], told["moved"]) == (8, 2, 2)
    (cause,) = told["causes"]
    assert cause["examples"] == ["m6"]
    assert 'patched("big")' in cause["first"]["patch"]
    counts = {version: one["open_runs"] for version, one in versions().items()}
    assert counts == {"1.0.0": 1, "2.0.0": 2}
    assert "m1" not in invoke("doctor").stdout


def test_moved_run_goes_on_with_the_code_of_its_version(moving: Path) -> None:
    @moving_1.version("2.0.0")
    async def moving_2(number: int) -> str:
        await price(number)
        return "two" + await go.receive()

    path = code(moving)
    assert upgrade(path, "--yes", "--id", "m1")[1]["moved"] == 1

    async def go_on() -> None:
        url, both = "sqlite:///orders.db", [moving_1, moving_2, price]
        async with Engine(url, definitions=both) as engine:
            for name in ("m1", "m2"):
                await (await engine.get(name)).signal(go("!"))
            assert await (await engine.get("m1")).result() == "two!"
            assert await (await engine.get("m2")).result() == "one!"

    work(go_on())


def test_upgrade_takes_only_the_versions_that_are_asked_for(moving: Path) -> None:
    path = code(moving, line='patched("x")')
    assert upgrade(path, "--from", ">=1.1,<2")[1]["runs"] == 0
    assert upgrade(path, "--from", ">=1,<2")[1]["runs"] == 3
    assert upgrade(path, "--query", "WorkflowId = 'm1'")[1]["runs"] == 1
    assert upgrade(path, "--where", "WorkflowId IN ('m1', 'x')")[1]["runs"] == 1
    done = invoke(
        "upgrade", path, "--workflow", NAME, "--to", "2.0.0", "--query", "Typ = 1"
    )
    assert "at character 1" in done.stderr
    done = invoke("upgrade", path, "--workflow", NAME, "--to", "2", "--json")
    assert done.exit_code == 2
    assert "at position 1" in done.stderr
    done = invoke(
        "upgrade", path, "--workflow", NAME, "--to", "2.0.0", "--from", ">>1", "--json"
    )
    assert "at position 1" in done.stderr


def test_upgrade_to_a_version_without_code_moves_nothing(moving: Path) -> None:
    done = invoke("upgrade", code(moving), "--workflow", NAME, "--to", "3.0.0", "--yes")
    assert done.exit_code == 8
    assert "goes on with this workflow in version 3.0.0" in done.stdout
    assert set(versions()) == {"1.0.0"}


def test_run_that_waits_for_a_version_says_so(moving: Path) -> None:
    assert invoke("signal", "m1", "go", '"!"').exit_code == 0
    shown = invoke("show", "m1").stdout
    assert "none; it waits for one that knows version 1.0.0" in shown

"""Programs whose activities run in processes: run, killed, and seen from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="looks at processes by signals"),
]
SECONDS = 40.0

# No guard around its last line: whoever imports it runs it again.
UNGUARDED = """
from __future__ import annotations

import asyncio
import enum
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from durable import Engine, activity, activity_info, workflow

with open(sys.argv[1], "a") as runs:
    runs.write(f"{os.getpid()}\\n")
FACTOR = 3


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Corner:
    x: int
    colour: Colour
    path: Path


class Shape(msgspec.Struct, frozen=True, tag="shape"):
    corners: list[Corner]
    name: str = "unnamed"
    notes: list[str] = []

    @property
    def size(self) -> int:
        return len(self.corners)

    def named(self, name: str) -> Shape:
        return Shape(self.corners, name)


class TooLarge(Exception):
    pass


def helper(number: int) -> int:
    return number * FACTOR


@activity(run_in="process")
def grow(shape: Shape) -> Shape:
    print("grown by", activity_info().activity_type, flush=True)
    more = [Corner(helper(c.x), c.colour, c.path / "more") for c in shape.corners]
    return Shape(more * shape.size).named("grown")


@activity(run_in="process", retry=None)
def refuse(shape: Shape) -> None:
    raise TooLarge(shape.name)


def make() -> object:
    bound = 5

    @activity(run_in="process")
    def add(number: int) -> int:
        return number + bound + FACTOR

    return add


add = make()


@workflow
async def draw() -> list[str]:
    shape = await grow(Shape([Corner(1, Colour.RED, Path("a"))] * 2))
    try:
        await refuse(shape)
    except TooLarge as error:
        return [repr(shape.corners[3]), shape.name, str(error), str(await add(1))]
    return []


async def main() -> None:
    async with Engine("memory://", max_activity_processes=2) as engine:
        print(*await engine.execute(draw()), sep="\\n", flush=True)


asyncio.run(main())
"""

WORKER = """
import asyncio
import os
import sys
from pathlib import Path

from durable import Engine, activity, workflow


@activity(run_in="process")
def hold(folder: str, number: int) -> int:
    Path(folder, f"{number}-{os.getpid()}").touch()
    return sum(range(10**13))  # one long call in C, which lets no thread run


@workflow
async def hold_all(folder: str) -> list[int]:
    return list(await asyncio.gather(hold(folder, 1), hold(folder, 2)))


async def main() -> None:
    async with Engine("memory://", max_activity_processes=2) as engine:
        await engine.execute(hold_all(sys.argv[1]))


asyncio.run(main())
"""


@contextmanager
def started(
    code: str, folder: Path, *arguments: str
) -> Generator[subprocess.Popen[str]]:
    program = folder / "program.py"
    program.write_text(code)
    with subprocess.Popen(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any]) -> Any:
    ends_at = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def has_pending(pid: int) -> bool:
    """Whether a signal was sent to a process that it has not taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return int(lines["ShdPnd"].strip(), 16) != 0


def test_program_without_a_guard_runs_once_and_its_functions_travel(
    tmp_path: Path,
) -> None:
    runs = tmp_path / "runs"
    with started(UNGUARDED, tmp_path, str(runs)) as program:
        output, _ = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, output
    assert runs.read_text().splitlines() == [str(program.pid)]
    assert output.splitlines() == [
        "grown by grow",
        "Corner(x=3, colour=<Colour.RED: 'red'>, path=PosixPath('a/more'))",
        "grown",
        "grown",
        "9",
    ]


def test_processes_of_a_killed_worker_end_even_in_a_long_call_in_c(
    tmp_path: Path,
) -> None:
    """[rq, celery] A worker that is killed leaves no orphans."""
    folder = tmp_path / "held"
    folder.mkdir()
    with started(WORKER, tmp_path, str(folder)) as program:
        until(lambda: len(os.listdir(folder)) == 2)
        pids = [int(name.partition("-")[2]) for name in os.listdir(folder)]
        assert all(map(is_alive, pids))
        program.send_signal(signal.SIGKILL)
        program.wait(SECONDS)
        until(lambda: not any(map(is_alive, pids)))


def test_signals_to_the_whole_group_leave_it_to_the_worker_when_processes_end(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    with started(WORKER, tmp_path, str(folder)) as program:
        until(lambda: len(os.listdir(folder)) == 2)
        pids = [int(name.partition("-")[2]) for name in os.listdir(folder)]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        # Each has had its signals, and lives.
        until(lambda: not any(map(has_pending, pids)))
        assert all(map(is_alive, pids))
        program.send_signal(signal.SIGKILL)
        program.wait(SECONDS)

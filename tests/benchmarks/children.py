"""Processes of their own for the workloads, and how they answer.

A child prints one line of JSON. One that is to be killed prints that it is ready, and
waits.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_MARK = "benchmark:"
_SECONDS_MAX = 300


class ChildError(Exception):
    """A workload's process failed; the message holds what it printed."""


def run_child(
    subject: str, workload: str, directory: Path, size: int
) -> dict[str, Any]:
    """Run a workload in a fresh process.

    Raises:
        ChildError: it failed.
    """
    spawned_at = time.time()
    try:
        done = subprocess.run(
            _command(subject, workload, directory, size),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"{subject} {workload} took over {_SECONDS_MAX} s.") from None
    for line in reversed(done.stdout.splitlines()):
        if done.returncode == 0 and line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return {"spawned_at": spawned_at, **answer}
    raise ChildError(f"{subject} {workload}: {done.stdout}\n{done.stderr}")


@contextlib.contextmanager
def killed_child(
    subject: str, workload: str, directory: Path, size: int
) -> Iterator[None]:
    """Run a workload until it says that it is ready; kill it at the end of the block.

    Raises:
        ChildError: it ended before.
    """
    child = subprocess.Popen(
        _command(subject, workload, directory, size),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(_MARK):
                break
        else:
            raise ChildError(f"{subject} {workload} ended with {child.wait()}.")
        yield
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


@contextlib.asynccontextmanager
async def worker_process(module: str, directory: Path) -> AsyncIterator[None]:
    """A worker in a process of its own; the block begins once it works."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, str(directory)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()  # at which it ends
        await process.wait()


async def work_until_told(engine: AbstractAsyncContextManager[object]) -> None:
    """Called in that process: work until the other end of its input is closed."""
    async with engine:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _command(subject: str, workload: str, directory: Path, size: int) -> list[str]:
    module = "tests.benchmarks.child"
    return [sys.executable, "-m", module, subject, workload, str(directory), str(size)]


def answer(result: dict[str, Any]) -> None:
    """Called in the child: hand a result to the parent."""
    print(_MARK + json.dumps(result), flush=True)


async def tell_parent(word: str) -> dict[str, Any]:
    """Called in the child: say a word, then wait to be killed."""
    answer({"word": word})
    await asyncio.Event().wait()
    return {}

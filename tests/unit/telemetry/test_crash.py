"""A killed process: whoever goes on with its runs goes on with their traces."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, activity, workflow

ROOT = Path(__file__).resolve().parent.parent.parent.parent

VICTIM = """
import asyncio, os, signal, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from durable import Engine, activity, workflow
from durable.telemetry import OpenTelemetryObserver

@activity(name="crash_done")
async def done() -> int:
    return trace.get_current_span().get_span_context().trace_id % 1_000_000

@activity(name="crash_fatal")
async def fatal() -> None:
    print(f"{trace.get_current_span().get_span_context().trace_id:032x}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

@workflow(name="crash_victim")
async def victim() -> int:
    number = await done()
    await fatal()
    return number

async def main() -> None:
    observer = OpenTelemetryObserver(TracerProvider())
    async with Engine(sys.argv[1], observer=observer) as engine:
        await engine.execute(victim(), id="w")

asyncio.run(main())
"""


@activity(name="crash_done")
async def done() -> int:
    raise AssertionError("its result is recorded")


@activity(name="crash_fatal")
async def fatal() -> None:
    """Survive this time."""


@workflow(name="crash_victim")
async def victim() -> int:
    number = await done()
    await fatal()
    return number


@pytest.mark.slow
async def test_trace_goes_on_in_the_next_process(
    recording: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    trace_id = output.decode().strip()

    async with Engine(url, observer=recording.observer) as engine:
        run = await engine.get("w", workflow=victim)
        assert await run.result(timeout=10) == int(trace_id, 16) % 1_000_000

    assert [format(found, "032x") for found in recording.traces()] == [trace_id]
    assert sorted(span.name for span in recording.spans()) == [
        "run_activity crash_fatal",
        "run_workflow crash_victim",
        "run_workflow_task crash_victim",
    ]
    attempt = recording.span("run_activity")
    assert attempt.attributes["durable.activity.attempt"] == 2

"""A program's own metrics and spans: told once, and the same whoever replays."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import durable
from durable import (
    Engine,
    activity,
    checkpoint,
    query,
    sleep,
    update,
    wait_condition,
    workflow,
)
from durable.errors import InvalidOptionError, StoreError, UpdateRejectedError
from durable.store.memory.memory import MemoryStore
from durable.store.records import CommitTask

ROOT = Path(__file__).resolve().parents[3]
METER = durable.meter()
STEPS = METER.create_counter("shop.steps", "{step}", "Steps taken")
OPEN = METER.create_up_down_counter("shop.open")
TOOK = METER.create_histogram("shop.took", "s")
ROUGH = METER.create_histogram(
    "shop.rough", explicit_bucket_boundaries_advisory=(1, 10)
)
LEVEL = METER.create_gauge("shop.level")
ATTEMPTS = METER.create_counter("shop.attempts")


class World:
    failures = 0
    tries = 0


@pytest.fixture(autouse=True)
def _fresh_world() -> None:
    World.failures = World.tries = 0


@activity(name="own_step", retry=durable.RetryPolicy(initial_interval=0.001))
async def step(number: int) -> int:
    ATTEMPTS.add(1)
    with durable.span("in_activity", {"number": number}):
        if World.failures:
            World.failures -= 1
            raise OSError("secret")
    return number


@activity(name="own_threaded")
def threaded() -> None:
    ATTEMPTS.add(1)
    with durable.span("in_thread"):
        pass


@workflow(name="own_child")
async def child() -> None:
    await step(9)


@workflow(name="own_busy")
async def busy(count: int) -> int:
    OPEN.add(1)
    with durable.span("all", {"count": count}):
        for number in range(count):
            STEPS.add(1, {"even": number % 2 == 0})
            with durable.span(f"step {number}"):
                await step(number)
                await sleep(0.001)
        await child()
    TOOK.record(count)
    LEVEL.set(count)
    OPEN.add(-1)
    return count


@workflow(name="own_failing")
async def failing() -> None:
    with durable.span("broken"):
        raise ValueError("secret")


@workflow(name="own_threads")
async def threads() -> None:
    with durable.span("around"):
        await threaded()


@workflow(name="own_buggy")
async def buggy() -> int:
    World.tries += 1
    STEPS.add(1)
    await sleep(0)
    STEPS.add(1)
    if World.tries < 3:
        raise AttributeError("a bug")
    return World.tries


@workflow(name="own_rounds", checkpoint_every=1)
async def rounds(left: int) -> None:
    while left:
        with durable.span("round", {"left": left}):
            STEPS.add(1)
            await step(left)
            await sleep(0.001)
        left -= 1
        checkpoint(left)


@workflow(name="own_asked")
class Asked:
    def __init__(self) -> None:
        self.is_done = False

    @durable.run
    async def run(self) -> None:
        await wait_condition(lambda: self.is_done)
        with durable.span("late"):
            await step(1)
            await sleep(0.05)

    @query
    def peek(self) -> int:
        STEPS.add(1)
        with durable.span("peek"):
            return 1

    @update
    def finish(self, really: bool) -> None:
        STEPS.add(1)
        self.is_done = True

    @finish.validator
    def _check(self, really: bool) -> None:
        STEPS.add(1)
        with durable.span("check"):
            if not really:
                raise ValueError("no")


def total(recording: Any, name: str) -> float:
    return sum(
        getattr(point, "value", getattr(point, "count", 0))
        for point in recording.points(name)
    )


def shape(recording: Any) -> list[tuple[str, str | None]]:
    """Own spans, and attempts, each with what it is below."""
    mine = ("all", "step", "in_activity", "run_activity", "run_workflow ", "round")
    return sorted(
        (name, above) for name, above in recording.tree() if name.startswith(mine)
    )


@pytest.mark.parametrize("cached", [1_000, 1])
async def test_what_is_measured_counts_once_however_often_it_is_replayed(
    recording: Any, url: str, cached: int
) -> None:
    async with Engine(
        url, observer=recording.observer, max_cached_runs=cached
    ) as engine:
        runs = [await engine.start(busy(3), id=f"w{n}") for n in range(4)]
        for run in runs:
            assert await run.result(timeout=10) == 3
        replayed = sum(
            p.count for p in recording.points("durable.workflow_task.replay.duration")
        )

    assert replayed or cached > 1
    assert {
        (p.attributes["even"], p.value) for p in recording.points("shop.steps")
    } == {(True, 8), (False, 4)}
    assert total(recording, "shop.open") == 0
    assert total(recording, "shop.took") == 4
    assert [p.value for p in recording.points("shop.level")] == [3]
    (point,) = recording.points("shop.took")
    assert point.attributes == {
        "durable.workflow.type": "own_busy",
        "durable.queue": "default",
    }
    assert len(recording.spans("all")) == 4
    assert len(recording.spans("step 1")) == 4
    assert shape(recording) == sorted(
        4
        * [
            ("all", "start_workflow own_busy"),
            *[(f"step {n}", "all") for n in range(3)],
            *[("run_activity own_step", f"step {n}") for n in range(3)],
            # The child's own trace goes on from the span that asked for it.
            ("run_workflow own_busy", "start_workflow own_busy"),
            ("run_workflow own_child", "all"),
            ("run_activity own_step", "run_workflow_task own_child"),
            *[("in_activity", "run_activity own_step")] * 4,
        ]
    )


async def test_spans_last_from_task_to_task_and_name_their_run(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(busy(1), id="w")

    span, inner = recording.span("all"), recording.spans("in_activity")[0]
    assert span.attributes["count"] == 1
    assert span.attributes["durable.workflow.id"] == "w"
    assert span.attributes["durable.workflow.type"] == "own_busy"
    assert span.end_time - span.start_time >= 1_000_000
    assert span.start_time <= recording.span("step 0").start_time
    assert inner.attributes["number"] == 0


async def test_failure_is_named_by_its_type_alone(recording: Any, url: str) -> None:
    World.failures = 1
    async with Engine(url, observer=recording.observer) as engine:
        with pytest.raises(durable.WorkflowFailedError):
            await engine.execute(failing())
        await engine.execute(busy(1))

    span, inner = recording.span("broken"), recording.spans("in_activity")[0]
    for found, error in ((span, "ValueError"), (inner, "OSError")):
        assert found.status.status_code is trace.StatusCode.ERROR
        assert found.attributes["error.type"] == error
        assert "secret" not in found.to_json()
    # Each attempt counts: it has done what it has done.
    assert total(recording, "shop.attempts") == 3


async def test_plain_activities_measure_on_their_thread(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(threads())

    assert total(recording, "shop.attempts") == 1
    (point,) = recording.points("shop.attempts")
    assert point.attributes["durable.activity.type"] == "own_threaded"
    assert ("in_thread", "run_activity own_threaded") in recording.tree()
    assert ("run_activity own_threaded", "around") in recording.tree()


async def test_task_that_fails_tells_nothing_until_it_is_committed(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        assert await engine.execute(buggy()) == 3

    assert total(recording, "shop.steps") == 2


async def test_spans_go_on_after_checkpoints_as_on_replay(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer, max_cached_runs=1) as engine:
        runs = [await engine.start(rounds(3)) for _ in range(3)]
        for run in runs:
            await run.result(timeout=10)

    assert total(recording, "shop.steps") == 9
    found = recording.spans("round")
    assert len({span.context.span_id for span in found}) == len(found) == 9
    assert shape(recording).count(("run_activity own_step", "round")) == 9


async def test_what_only_looks_tells_nothing(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer, max_cached_runs=1) as engine:
        run = await engine.start(Asked.run())
        assert await run.query(Asked.peek()) == 1
        with pytest.raises(UpdateRejectedError):
            await run.update(Asked.finish(False))
        await run.update(Asked.finish(True))
        # It is replayed meanwhile, without those who have looked.
        await engine.execute(rounds(2))
        await run.result(timeout=5)

    assert total(recording, "shop.steps") == 3
    assert ("run_activity own_step", "late") in recording.tree()
    assert not recording.spans("peek")
    assert not recording.spans("check")
    assert len(recording.spans("late")) == 1


async def test_unsampled_trace_has_no_spans_of_its_own(
    make_recording: Any, url: str
) -> None:
    recording = make_recording(ALWAYS_OFF)
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(busy(1))

    assert not recording.spans()
    assert total(recording, "shop.steps") == 1


async def test_run_that_was_started_untraced_has_one_trace_of_its_own(
    recording: Any, url: str
) -> None:
    async with Engine(url, worker=False) as client:
        run = await client.start(busy(2))
        async with Engine(url, observer=recording.observer, max_cached_runs=1):
            await run.result(timeout=10)

    own = [span for name in ("all", "step") for span in recording.spans(name)]
    below = recording.spans("run_activity")
    assert len({s.context.trace_id for s in own}) == 1
    assert recording.span("all").parent is None
    assert {
        s.parent.span_id for s in below if s.context.trace_id == own[0].context.trace_id
    } >= {span.context.span_id for span in recording.spans("step")}


async def test_without_observer_nothing_is_kept(url: str) -> None:
    async with Engine(url) as engine:
        assert await engine.execute(busy(2)) == 2
    STEPS.add(1)  # outside of runs it goes nowhere
    with durable.span("nothing"):
        assert await step(1) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: STEPS.add(-1),
        lambda: TOOK.record(-1),
        lambda: STEPS.add(float("nan")),
        lambda: LEVEL.set(float("inf")),
        lambda: STEPS.add("1"),  # type: ignore[arg-type]  # the test
        lambda: STEPS.add(True),
        lambda: STEPS.add(1, {"id": object()}),  # type: ignore[dict-item]  # the test
        lambda: STEPS.add(1, {1: "x"}),  # type: ignore[dict-item]  # the test
        lambda: METER.create_counter("durable.mine"),
        lambda: METER.create_counter("1x"),
        lambda: METER.create_gauge(""),
        lambda: METER.create_gauge(None),  # type: ignore[arg-type]  # the test
        lambda: durable.span(""),
        lambda: durable.span("x", {"y": [1]}),  # type: ignore[dict-item]  # the test
    ],
    ids=map(str, range(14)),
)
def test_what_cannot_be_measured_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidOptionError):
        wrong()


VICTIM = """
import asyncio, os, signal, sys
from opentelemetry.sdk.trace import TracerProvider
import durable
from durable import Engine, activity, workflow
from durable.telemetry import OpenTelemetryObserver

@activity(name="own_fatal")
async def fatal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@workflow(name="own_victim")
async def victim() -> None:
    durable.meter().create_counter("shop.steps").add(1)
    with durable.span("around", {"by": os.getpid()}):
        with durable.span("inner"):
            await fatal()

async def main() -> None:
    observer = OpenTelemetryObserver(TracerProvider())
    async with Engine(sys.argv[1], observer=observer) as engine:
        await engine.execute(victim(), id="w")

asyncio.run(main())
"""


@activity(name="own_fatal")
async def fatal() -> None:
    """Survive this time."""


@workflow(name="own_victim")
async def victim() -> None:
    STEPS.add(1)
    with durable.span("around"), durable.span("inner"):
        await fatal()


@pytest.mark.slow
async def test_span_of_a_killed_process_is_told_by_who_goes_on(
    recording: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, url, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == -signal.SIGKILL

    async with Engine(url, observer=recording.observer) as engine:
        await (await engine.get("w")).result(timeout=20)

    # It was counted by the process that committed it, whose counts are gone.
    assert total(recording, "shop.steps") == 0
    tree = dict(recording.tree())
    assert tree["inner"] == "around"
    assert tree["run_activity own_fatal"] == "inner"
    assert len(recording.traces()) == 1


async def test_refused_commit_tells_nothing(
    recording: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = MemoryStore.submit, 0

    def refuse(self: Any, operation: Any, done: Any) -> None:
        nonlocal refused
        if isinstance(operation, CommitTask) and refused < 2:
            refused += 1
            asyncio.get_running_loop().call_soon(done, None, StoreError("no"))
        else:
            submit(self, operation, done)

    monkeypatch.setattr(MemoryStore, "submit", refuse)
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(rounds(3))

    assert refused == 2
    assert total(recording, "shop.steps") == 3
    assert len(recording.spans("round")) == 3

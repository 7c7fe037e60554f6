"""Spans: which there are, below which, and what they say."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from durable import (
    Engine,
    IdConflictPolicy,
    RetryPolicy,
    SyncEngine,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStuckError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    activity_info,
    sleep,
    workflow,
)
from durable.telemetry import OpenTelemetryObserver, PrometheusReader

SOON = RetryPolicy(max_attempts=3, initial_interval=0.001)


class World:
    """What the activities below do, set by each test."""

    gate = asyncio.Event()
    begun = asyncio.Event()
    failures = 0


@pytest.fixture(autouse=True)
def _fresh_world() -> None:
    World.gate, World.begun = asyncio.Event(), asyncio.Event()
    World.failures = 0


@activity(name="traced_echo")
async def echo(text: str) -> str:
    return text


@activity(name="traced_plain")
def plain(text: str) -> str:
    return format(trace.get_current_span().get_span_context().span_id, "x")


@activity(name="traced_gated", retry=SOON)
async def gated(text: str) -> str:
    World.begun.set()
    await World.gate.wait()
    return text


@activity(name="traced_flaky", retry=SOON)
async def flaky(text: str) -> str:
    if activity_info().attempt <= World.failures:
        raise ValueError(text)
    return text


@activity(name="traced_slow", start_to_close_timeout=0.01, retry=None)
async def slow() -> None:
    await World.gate.wait()


@workflow(name="traced_one")
async def one(text: str) -> str:
    return await echo(text)


@workflow(name="traced_two")
async def two(text: str) -> str:
    await echo(text)
    return await gated(text)


@workflow(name="traced_retrying")
async def retrying(text: str) -> str:
    return await flaky(text)


@workflow(name="traced_timing_out")
async def timing_out() -> None:
    await slow()


@workflow(name="traced_sleeper")
async def sleeper(seconds: float) -> None:
    await sleep(seconds)


@workflow(name="traced_failing")
async def failing(text: str) -> None:
    raise ValueError(text)


@workflow(name="traced_bug")
async def bug() -> int:
    return [][1]


@workflow(name="traced_threaded")
async def threaded(text: str) -> str:
    return await plain(text)


# --- one trace ------------------------------------------------------------------------


async def test_run_is_one_trace_from_its_start_to_its_activity(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(one("x"), id="w")

    assert len(recording.traces()) == 1
    assert sorted(recording.tree(), key=str) == [
        ("run_activity traced_echo", "run_workflow_task traced_one"),
        ("run_workflow traced_one", "start_workflow traced_one"),
        ("run_workflow_task traced_one", "start_workflow traced_one"),
        ("run_workflow_task traced_one", "start_workflow traced_one"),
        ("start_workflow traced_one", None),
    ]
    kinds = {span.name.split()[0]: span.kind for span in recording.spans()}
    assert kinds == {
        "start_workflow": SpanKind.PRODUCER,
        "run_workflow_task": SpanKind.CONSUMER,
        "run_activity": SpanKind.CONSUMER,
        "run_workflow": SpanKind.INTERNAL,
    }
    (link,) = recording.span("run_activity").links
    assert link.context.span_id == recording.span("start_workflow").context.span_id


async def test_start_is_below_the_span_of_its_caller(recording: Any, url: str) -> None:
    tracer = recording.tracer_provider.get_tracer("caller")
    async with Engine(url, observer=recording.observer) as engine:
        with tracer.start_as_current_span("request"):
            await engine.execute(one("x"))

    assert ("start_workflow traced_one", "request") in recording.tree()
    assert len(recording.traces()) == 1


def test_sync_start_is_below_the_span_of_its_caller(recording: Any, url: str) -> None:
    tracer = recording.tracer_provider.get_tracer("caller")
    with (
        SyncEngine(url, observer=recording.observer) as engine,
        tracer.start_as_current_span("request"),
    ):
        engine.execute(one("x"))

    assert ("start_workflow traced_one", "request") in recording.tree()


async def test_run_of_another_engine_is_in_the_trace_of_its_start(
    make_recording: Any, url: str
) -> None:
    here, there = make_recording(), make_recording()
    async with Engine(url, observer=here.observer, worker=False) as client:
        handle = await client.start(one("x"))
        async with Engine(url, observer=there.observer):
            await handle.result(timeout=5)

    assert [name for name, _ in here.tree()] == ["start_workflow traced_one"]
    assert len(there.spans("run_activity")) == 1
    assert here.traces() == there.traces()


async def test_run_goes_on_in_its_trace_after_a_restart(
    make_recording: Any, url: str
) -> None:
    before, after = make_recording(), make_recording()
    async with Engine(url, observer=before.observer, drain_timeout=0) as engine:
        handle = await engine.start(two("x"), id="w")
        await World.begun.wait()
        started_at = (await handle.history())[0].time

    World.gate.set()
    async with Engine(url, observer=after.observer) as engine:
        again = await engine.get("w", workflow=two)
        assert await again.result(timeout=5) == "x"

    assert before.traces() == after.traces()
    assert len(before.traces()) == 1
    numbers = [
        span.attributes["durable.workflow.task.number"]
        for span in before.spans("run_workflow_task") + after.spans("run_workflow_task")
    ]
    assert numbers == [1, 2, 3]
    # The echo was recorded, so only the attempt in doubt runs again.
    (attempt,) = after.spans("run_activity")
    assert attempt.name == "run_activity traced_gated"
    assert attempt.attributes["durable.activity.attempt"] == 2
    start = before.span("start_workflow").context
    assert attempt.parent.span_id == start.span_id
    whole = after.span("run_workflow")
    assert whole.start_time == started_at * 1_000
    assert whole.parent.span_id == start.span_id
    assert not before.spans("run_workflow")


async def test_evicted_run_is_replayed_without_spans(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer, max_cached_runs=1) as engine:
        runs = [await engine.start(sleeper(0.03)) for _ in range(3)]
        for run in runs:
            await run.result(timeout=5)

    for run in runs:
        numbers = [
            span.attributes["durable.workflow.task.number"]
            for span in recording.spans("run_workflow_task")
            if span.attributes["durable.workflow.run_id"] == run.run_id
        ]
        assert numbers == [1, 2]
    (point,) = recording.points("durable.workflow_task.replay.duration")
    assert point.count == 2
    assert len(recording.traces()) == 3


async def test_activity_in_a_thread_runs_within_its_span(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        seen = await engine.execute(threaded("x"))

    assert seen == format(recording.span("run_activity").context.span_id, "x")


# --- how things end -------------------------------------------------------------------


async def test_each_attempt_has_a_span_below_the_task_that_scheduled_it(
    recording: Any, url: str
) -> None:
    World.failures = 2
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(retrying("x"))

    first, second, last = recording.spans("run_activity")
    scheduling = recording.spans("run_workflow_task")[0].context.span_id
    for number, span in enumerate((first, second, last), start=1):
        assert span.attributes["durable.activity.attempt"] == number
        assert span.parent.span_id == scheduling
    for span in (first, second):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "ValueError"
        assert span.attributes["durable.outcome"] == "failed"
    assert last.status.status_code is StatusCode.UNSET
    assert last.attributes["durable.outcome"] == "completed"


async def test_attempt_that_ran_out_of_time_says_so(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        with pytest.raises(WorkflowFailedError):
            await engine.execute(timing_out())

    attributes = recording.span("run_activity").attributes
    assert attributes["durable.outcome"] == "timed_out"
    assert attributes["error.type"] == "TimeoutError"


async def test_failed_run_is_an_error_and_names_its_type(
    recording: Any, url: str
) -> None:
    World.failures = 9
    async with Engine(url, observer=recording.observer) as engine:
        with pytest.raises(WorkflowFailedError):
            await engine.execute(failing("x"))
        with pytest.raises(WorkflowFailedError):
            await engine.execute(retrying("x"))

    for span in recording.spans("run_workflow"):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "ValueError"
        assert span.attributes["durable.outcome"] == "failed"


async def test_other_ends_of_runs_are_told_once(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        cancelled = await engine.start(sleeper(60))
        await cancelled.cancel()
        with pytest.raises(WorkflowCancelledError):
            await cancelled.result(timeout=5)
        terminated = await engine.start(sleeper(60))
        await terminated.terminate("why")
        with pytest.raises(WorkflowTerminatedError):
            await terminated.result(timeout=5)
        late = await engine.start(sleeper(60), run_timeout=0.01)
        with pytest.raises(WorkflowTimedOutError):
            await late.result(timeout=5)

    ends = {
        span.attributes["durable.outcome"]: span.attributes.get("error.type")
        for span in recording.spans("run_workflow")
    }
    assert ends == {
        "cancelled": None,
        "terminated": None,
        "timed_out": "WorkflowTimedOutError",
    }
    assert len(recording.spans("run_workflow")) == 3


async def test_run_that_a_start_terminates_is_told_once(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.start(sleeper(60), id="w")
        await engine.start(
            one("x"), id="w", on_conflict=IdConflictPolicy.TERMINATE_EXISTING
        )

    span = recording.span("run_workflow traced_sleeper")
    assert span.attributes["durable.outcome"] == "terminated"
    assert (
        span.context.trace_id == recording.spans("start_workflow")[0].context.trace_id
    )


async def test_refused_start_is_an_error(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.start(sleeper(60), id="w")
        with pytest.raises(WorkflowAlreadyStartedError):
            await engine.start(sleeper(60), id="w", on_conflict="fail")

    first, refused = recording.spans("start_workflow")
    assert first.status.status_code is StatusCode.UNSET
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes["error.type"] == "WorkflowAlreadyStartedError"
    assert refused.attributes["durable.workflow.id"] == "w"


async def test_bug_is_an_error_of_each_try_and_not_of_the_run(
    recording: Any, url: str
) -> None:
    async with Engine(
        url, observer=recording.observer, workflow_task_attempts=2
    ) as engine:
        with pytest.raises(WorkflowStuckError):
            await engine.execute(bug())

    tries = recording.spans("run_workflow_task")
    assert [s.attributes["durable.workflow.task.attempt"] for s in tries] == [1, 2]
    for span in tries:
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "IndexError"
    assert not recording.spans("run_workflow")


# --- what is not recorded -------------------------------------------------------------


async def test_without_an_observer_nothing_is_recorded(
    recording: Any, url: str
) -> None:
    async with Engine(url) as engine:
        handle = await engine.start(one("x"))
        await handle.result()
        history: list[Any] = await handle.history()

    assert recording.spans() == []
    assert recording.points("durable.workflow.completed") == []
    assert history[0].attributes.headers == {}


async def test_unsampled_trace_travels_without_spans(
    make_recording: Any, url: str
) -> None:
    recording = make_recording(ALWAYS_OFF)
    async with Engine(url, observer=recording.observer) as engine:
        handle = await engine.start(one("x"))
        await handle.result()
        history: list[Any] = await handle.history()

    assert recording.spans() == []
    flags = history[0].attributes.headers["traceparent"].split("-")[3]
    assert int(flags, 16) & TraceFlags.SAMPLED == 0
    assert recording.values("durable.workflow.completed") == {"completed": 1}


async def test_global_providers_are_left_alone(recording: Any, url: str) -> None:
    before = trace.get_tracer_provider()
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(one("x"))

    assert trace.get_tracer_provider() is before


async def test_payload_values_are_nowhere(recording: Any, url: str) -> None:
    secret = "4111-1111-1111-1111"
    World.failures = 1
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(one(secret), memo={"card": secret})
        await engine.execute(retrying(secret))
        with pytest.raises(WorkflowFailedError):
            await engine.execute(failing(secret))
        run = await engine.start(sleeper(60))
        await run.cancel(secret)
        with pytest.raises(WorkflowCancelledError):
            await run.result(timeout=5)

    assert len(recording.spans()) > 10
    for span in recording.spans():
        assert secret not in span.to_json()
        assert not span.events
        assert not span.status.description
    for metric in recording.metrics():
        assert secret not in metric.to_json()


class Away(SpanExporter):
    """One whose collector cannot be reached."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise ConnectionError("the collector is away")


async def test_collector_that_is_away_is_told_and_metrics_are_scraped_meanwhile(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Users met a collector that was not reached for months, and nothing said so."""
    tracer_provider, reader = TracerProvider(), PrometheusReader()
    tracer_provider.add_span_processor(SimpleSpanProcessor(Away()))
    meter_provider = MeterProvider([reader])
    observer = OpenTelemetryObserver(tracer_provider, meter_provider)
    with caplog.at_level(logging.ERROR):
        async with Engine(url, observer=observer) as engine:
            await engine.execute(one("x"))
            text = reader.text()

    assert "the collector is away" in caplog.text
    assert "durable_workflow_completed_total{" in text
    tracer_provider.shutdown()
    meter_provider.shutdown()

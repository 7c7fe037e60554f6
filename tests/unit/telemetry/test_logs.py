"""Log correlation: which trace and span a record of `durable.logger` carries."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, activity, logger, sleep, workflow
from durable.telemetry import JsonFormatter, TraceContextFilter

LOGGER = "durable.workflow"


@activity(name="logged_activity")
async def log_in_activity() -> None:
    logger.warning("activity")


@workflow(name="logged_workflow")
async def logged() -> None:
    logger.warning("first task")
    await sleep(0)
    logger.warning("second task")
    await log_in_activity()


async def test_records_carry_the_span_that_they_are_written_in(
    recording: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(logged(), id="w")

    records: dict[str, Any] = {r.message: r for r in caplog.records if r.name == LOGGER}
    first, second, _ = recording.spans("run_workflow_task")
    attempt = recording.span("run_activity")
    expected = {"first task": first, "second task": second, "activity": attempt}
    for message, span in expected.items():
        record = records[message]
        assert record.trace_id == format(span.context.trace_id, "032x")
        assert record.span_id == format(span.context.span_id, "016x")
    assert records["first task"].workflow_id == "w"


async def test_records_without_a_trace_have_empty_ids(
    recording: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(url) as engine:
        await engine.execute(logged())

    found: list[Any] = [r for r in caplog.records if r.name == LOGGER]
    assert len(found) == 3
    assert {(record.trace_id, record.span_id) for record in found} == {("", "")}


def test_filter_on_a_handler_adds_the_current_span(recording: Any) -> None:
    record: Any = logging.LogRecord("x", logging.INFO, "", 1, "m", None, None)
    tracer = recording.tracer_provider.get_tracer("caller")
    with tracer.start_as_current_span("request") as span:
        assert TraceContextFilter().filter(record)

    assert record.trace_id == format(span.get_span_context().trace_id, "032x")
    assert record.span_id == format(span.get_span_context().span_id, "016x")


async def test_many_observers_filter_a_record_once(
    make_recording: Any, url: str
) -> None:
    before = len(logging.getLogger(LOGGER).filters)
    make_recording()
    make_recording()

    assert len(logging.getLogger(LOGGER).filters) <= max(before, 1)


async def test_json_lines_carry_all_ids(
    recording: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(logged(), id="w")

    lines = [
        json.loads(JsonFormatter().format(record))
        for record in caplog.records
        if record.name == LOGGER
    ]
    first, _, inside = lines
    assert [line["message"] for line in lines] == [
        "first task",
        "second task",
        "activity",
    ]
    assert first.keys() >= {"time", "workflow_id", "run_id", "workflow_type"}
    assert (inside["activity_type"], inside["attempt"]) == ("logged_activity", 1)
    span = recording.span("run_activity")
    assert inside["trace_id"] == format(span.context.trace_id, "032x")
    assert inside["span_id"] == format(span.context.span_id, "016x")


def test_json_lines_keep_what_the_caller_gives() -> None:
    given = {"order": 7, "at": Path("a/b"), "none": None, "trace_id": ""}
    record = logging.makeLogRecord({"msg": "m", "name": "app", **given})
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["order"], entry["at"]) == (7, "a/b")
    assert not entry.keys() & {"none", "trace_id", "args", "lineno"}

    record = logging.makeLogRecord({"msg": "a\nb", "odd": {(1, 2): "x"}})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "(1, 2)" in json.loads(line)["odd"]

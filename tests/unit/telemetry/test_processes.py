"""What an activity in a process measures and logs is told by its worker."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace

from durable import Engine
from tests.integration.process_activities import measure_twice

pytestmark = pytest.mark.slow


async def test_measurements_and_lines_of_a_process_are_told_with_ids_and_trace(
    recording: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine("memory://", observer=recording.observer) as engine:
        assert await engine.execute(measure_twice(3)) == 6
        (point,) = recording.points("kinds.taken")
        assert point.value == 6
        assert point.attributes["durable.activity.type"] == "kinds.measure"
    (first, second) = recording.spans("run_activity kinds.measure")
    lines = [vars(r) for r in caplog.records if r.name == "durable.activity"]
    assert [line["span_id"] for line in lines] == [
        trace.format_span_id(span.context.span_id) for span in (first, second)
    ]

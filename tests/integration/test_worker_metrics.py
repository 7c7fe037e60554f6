"""What Prometheus scrapes from `durable worker --health-port`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.integration.test_cli_processes import Shop, shop, wait_for
from tests.integration.test_worker_health import Probes
from tests.unit.telemetry.test_prometheus import labelled, parse

__all__ = ["shop"]

pytestmark = pytest.mark.slow

APP = """
import os
import durable
from durable import activity, workflow

SOLD = durable.meter().create_counter("shop.sold")

@activity
async def sell(name: str) -> str:
    SOLD.add(1)
    if "imported" in globals():
        imported.add(1)
    return name

@workflow
async def buy(name: str) -> str:
    with durable.span("buying"):
        return await sell(name)
"""
OWN_TELEMETRY = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

class ToFile(SpanExporter):
    def export(self, spans):
        with open("spans.txt", "a") as file:
            file.writelines(f"{span.name}\\n" for span in spans)

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider())
imported = metrics.get_meter("shop").create_counter("shop.imported")
"""


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_metrics_of_every_process_are_scraped_in_one_text(
    shop: Shop, more: tuple[str, ...]
) -> None:
    shop.write(APP)
    worker = shop.begin("worker", "app.py", "--health-port", "0", *more)
    probes = Probes(worker)
    probes.wait_for("/ready", 200, "ready")
    for number in range(6):
        shop.ask("start", "buy", "--input", '["tea"]', "--id", f"order-{number}")
    shop.ask("start", "buy", "--input", '["tea"]', "--id", "x", "--queue", "nobody")

    def scrape() -> bool:
        found = parse(probes.get("/metrics")[1])
        # Each has read the database by itself.
        waiting = labelled(
            found.get("durable_backlog_runs", {}), durable_queue="nobody"
        )
        if waiting < (2 if more else 1):
            return False
        completed = labelled(found.get("durable_workflow_completed_total", {}))
        sold = labelled(found.get("shop_sold_total", {}))
        return (completed, sold) == (6, 6)

    wait_for(scrape, "all that is done in the metrics")
    found = parse(probes.get("/metrics")[1])
    waiting = found["durable_backlog_runs"]
    processes = {dict(labels)["process"] for labels in waiting}
    assert processes == ({"1", "2"} if more else {"1"})
    assert labelled(waiting, durable_queue="nobody", process="1") == 1
    assert found["durable_ready"] == {(): 1}
    slots = labelled(found["durable_worker_slots_available"], durable_pool="activities")
    assert slots == 1_000 * len(processes)
    # The probes of a platform carry none of it.
    assert "metrics" not in json.loads(probes.get("/health")[1])["processes"][0]
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert "Traceback" not in worker.stderr


@pytest.mark.parametrize("port", [(), ("--health-port", "0")])
def test_program_that_sends_telemetry_itself_has_that_of_its_workers_too(
    shop: Shop, port: tuple[str, ...]
) -> None:
    shop.write(APP + OWN_TELEMETRY)
    worker = shop.worker("app.py", *port)
    shop.ask("start", "buy", "--input", '["tea"]', "--id", "order")
    assert json.loads(shop.ask("result", "order").stdout) == "tea"

    def spans() -> set[str]:
        path = Path(shop.folder / "spans.txt")
        return set(path.read_text().splitlines()) if path.exists() else set()

    wanted = {"run_workflow buy", "buying", "run_activity sell"}
    wait_for(lambda: wanted <= spans(), "the spans")
    if port:
        found = parse(Probes(worker).get("/metrics")[1])
        assert labelled(found["shop_imported_total"]) == 1
        assert labelled(found["shop_sold_total"]) == 1


@pytest.mark.parametrize("port", [(), ("--health-port", "0", "--no-metrics")])
def test_worker_that_nobody_scrapes_loads_no_telemetry(
    shop: Shop, port: tuple[str, ...]
) -> None:
    shop.write(
        APP + "import sys\n@activity\nasync def loaded() -> bool:\n"
        "    return 'opentelemetry.sdk' in sys.modules\n"
        "@workflow\nasync def look() -> bool:\n    return await loaded()\n"
    )
    worker = shop.worker("app.py", *port)
    shop.ask("start", "look", "--id", "looked")
    assert json.loads(shop.ask("result", "looked").stdout) is False
    if port:
        found = parse(Probes(worker).get("/metrics")[1])
        assert found["durable_ready"] == {(): 1}
        assert "durable_workflow_completed_total" not in found

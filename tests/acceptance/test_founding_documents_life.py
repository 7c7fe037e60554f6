"""Telemetry, many workers, ease: what was asked for (see `founding_rows`)."""

from __future__ import annotations

import inspect
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import durable
from durable import (
    Attribute,
    Engine,
    Run,
    RunStatus,
    StateMachine,
    SyncEngine,
    activity,
    errors,
    logger,
    set_state,
    sleep,
    workflow,
)
from durable.telemetry import OpenTelemetryObserver
from durable.testing import TestEnvironment
from tests.acceptance.founding_rows import HERE, shows
from tests.acceptance.test_docs import WITH_BLOCKS
from tests.acceptance.test_examples import EXAMPLES
from tests.benchmarks.figures import FIGURES
from tests.integration.test_cli_processes import Shop, wait_for

ROOT = HERE.parents[1]


@activity(name="founding.weigh")
async def weigh(item: str) -> int:
    return len(item)


# --- speed and room -------------------------------------------------------------------


@workflow(name="founding.one_step")
async def one_step(item: str) -> int:
    return await weigh(item)


@shows(
    "performance",
    "`make bench` prints these figures beside the same budgets, in memory and on disk,"
    " with the machine they come from",
)
@pytest.mark.slow
async def test_s1_3_2_1_thousand_runs_at_once_and_the_figures_have_their_budgets() -> (
    None
):
    async with Engine("memory://", definitions=[one_step, weigh]) as engine:
        runs = [await engine.start(one_step("x" * (n % 9))) for n in range(1_000)]
        assert [await run.result() for run in runs] == [n % 9 for n in range(1_000)]
    budgets = {figure.key: figure.must for figure in FIGURES}
    assert (budgets["create"], budgets["core"]) == (1.2e-6, 5.8e-6)
    assert budgets["memory"] == 0.058


SMALL = """
import sys
from pathlib import Path
from durable import SyncEngine, workflow

@workflow
async def hello() -> str:
    return "hello"

assert "sqlalchemy" not in sys.modules
with SyncEngine("sqlite:///small.db") as engine:
    assert engine.execute(hello()) == "hello"
# What getrusage() says counts whoever began this process, too.
words = Path("/proc/self/status").read_text().split()
print(words[words.index("VmHWM:") + 1])
"""


@shows(
    "small devices",
    "one process and one file of SQLite, in under 150 MiB; the database layer is"
    " imported when an engine opens. `check()` of flows and state machines looks at"
    " all of their states. Of what it depends on, msgspec is compiled",
)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says it")
def test_s1_7_2_3_program_with_a_database_takes_under_150_mib(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150 * 1_024


# --- what can be seen -----------------------------------------------------------------


@workflow(name="founding.watched")
async def watched() -> int:
    logger.info("begun")
    first = await weigh("tea")
    await sleep("1h")
    return first + await weigh("milk")


def watching() -> tuple[OpenTelemetryObserver, InMemorySpanExporter, Any]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    observer = OpenTelemetryObserver(tracers, MeterProvider([reader]))
    return observer, exporter, reader


@shows(
    "tracer",
    "`OpenTelemetryObserver`: one trace for a run, with spans `start_workflow`,"
    " `run_workflow_task`, `run_activity` and `run_workflow`, and its id on each; none"
    " twice after a restart",
)
@pytest.mark.slow
async def test_s2_6_1_one_trace_goes_across_a_restart_and_repeats_no_span(
    tmp_path: Path,
) -> None:
    url, (observer, exporter, _) = f"sqlite:///{tmp_path / 'w.db'}", watching()
    async with TestEnvironment(url, observer=observer) as env:
        await env.start(watched(), id="w")
        await env.sleep(1)
    async with TestEnvironment(url, clock=env.clock, observer=observer) as env:
        assert await (await env.get("w")).result() == 7
    spans = exporter.get_finished_spans()
    names = sorted(span.name.split()[0] for span in spans)
    assert names.count("run_activity") == 2
    assert names.count("start_workflow") == names.count("run_workflow") == 1
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    ids = {span.attributes["durable.workflow.id"] for span in spans if span.attributes}
    assert ids == {"w"}


@shows(
    "metrics and logs",
    "metrics by OpenTelemetry, or as Prometheus reads them by `--health-port`;"
    " `durable.logger` with the run's ids, silent on replay",
)
async def test_s1_ends_are_counted_and_a_line_of_the_log_has_the_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    observer, _, reader = watching()
    async with TestEnvironment(observer=observer, max_cached_runs=1) as env:
        runs = [await env.start(watched(), id=f"w{n}") for n in range(3)]
        for run in runs:
            assert await run.result() == 7
        data = reader.get_metrics_data()
    counts = [
        (dict(point.attributes), point.value)
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "durable.workflow.completed"
        for point in metric.data.data_points
    ]
    ((attributes, count),) = counts
    assert (attributes["durable.outcome"], count) == ("completed", 3)
    said = [record for record in caplog.records if record.getMessage() == "begun"]
    assert [getattr(record, "workflow_id", None) for record in said] == [
        "w0",
        "w1",
        "w2",
    ]


@shows(
    "search",
    "`engine.list()` and `engine.count()` by type, status, time and typed `Attribute`s,"
    " and `durable list --where`",
)
async def test_s1_runs_are_found_by_type_status_time_and_attribute() -> None:
    customer = Attribute("customer", str)
    async with TestEnvironment() as env:
        for n, name in enumerate(("ann", "bob", "ann")):
            await env.execute(one_step("tea"), id=f"w{n}", attributes={customer: name})
            await env.sleep("1h")
        await env.start(watched(), id="open", attributes={customer: "ann"})
        noon = env.now()

        async def ids(**where: Any) -> list[str]:
            return [run.workflow_id for run in await env.list(**where)]

        assert await ids(where=customer == "ann") == ["open", "w2", "w0"]
        assert await ids(where=(customer == "ann") & (Run.started < noon)) == [
            "w2",
            "w0",
        ]
        assert await ids(status="running") == ["open"]
        assert await ids(workflow_type="founding.one_step") == ["w2", "w1", "w0"]
        assert await ids(where="customer = 'bob'") == ["w1"]
        assert (await env.count(where=customer == "ann")).total == 3


@shows(
    "visualisation",
    "`durable show` and `durable history`, `run.stack()`, `diagram()` of state"
    " machines, `durable.testing`. A web page and a debugger are still to come",
)
@pytest.mark.slow
def test_s1_run_is_shown_as_a_timeline_and_a_machine_as_a_diagram(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    shop.open_gate("tea")
    shop.call("run", "app:passing", '"tea"', "--id", "order-1")
    shown = shop.ask("show", "order-1").stdout
    for line in ("passing", "completed", "gated", "plain"):
        assert line in shown
    machine = StateMachine("founding.drawn", data=int, initial="new", final="sent")
    machine.add_transition("new", "sent", on="send", guard=lambda cents: cents > 0)
    assert machine.diagram().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> new",
        "    new --> sent : send [<lambda>]",
        "    sent --> [*]",
    ]


# --- many workers ---------------------------------------------------------------------


@shows(
    "cluster",
    "any number of `durable worker` on PostgreSQL or MariaDB, or of processes on one"
    " file: they take runs as they have room, and those of a dead one",
)
@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("server", ["", "postgres_url", "mariadb_url"])
def test_s2_7_1_one_of_three_workers_is_killed_and_all_runs_end_once(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server) if server else "sqlite:///runs.db"
    shop = Shop(tmp_path, str(url))
    try:
        workers = {w.process.pid: w for w in (shop.worker() for _ in range(3))}
        for n in range(6):
            shop.ask("start", "passing", f'"g{n}"', "--id", f"w{n}")
        wait_for(lambda: all(shop.began(f"g{n}") for n in range(6)), "each begin")
        victim = int(shop.began("g0")[0].suffix[1:])
        workers[victim].signal(signal.SIGKILL)
        for n in range(6):
            shop.open_gate(f"g{n}")
        for n in range(6):
            done = shop.ask("result", f"w{n}", "--timeout", "19s")
            assert f"g{n}G{n}" in done.stdout
        kinds = shop.ask("history", "w0").stdout
        assert kinds.count("WorkflowExecutionCompleted") == 1
        assert kinds.count("ActivityTaskCompleted") == 2
    finally:
        shop.end()


# --- ease -----------------------------------------------------------------------------


@shows(
    "ease",
    "decorators; each error has a code, and a hint where it can; pages for FastAPI,"
    " Flask and Django",
)
def test_s1_7_2_every_error_has_a_code_a_page_and_advice() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    every = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.DurableError)
    ]
    assert len(every) > 40
    assert [
        cls for cls in every if f"`{cls.__name__}` | `{cls.code}`" not in page
    ] == []
    with pytest.raises(errors.DefinitionError) as caught:
        activity(lambda: None)
    assert caught.value.hint == "Write a def."
    served = {path.stem for path in WITH_BLOCKS if path.stem.startswith("serve-with-")}
    assert len(served) == 3


@workflow(name="founding.quick")
async def quick(item: str) -> int:
    set_state("weighing")
    await sleep("1ms")
    return await weigh(item)


@shows(
    "engine calls",
    "`Engine()`, `@workflow` or `definitions=`, `engine.start()`, `engine.execute()`,"
    " `run.state()` and `run.describe()`, `durable.sleep()`; every turn is recorded, so"
    " there is no `checkpoint_all`. The same without asyncio in `SyncEngine`",
)
async def test_s1_each_call_of_an_engine_is_there_with_asyncio() -> None:
    engine = Engine("memory://", definitions=[quick, weigh])
    async with engine:
        run = await engine.start(quick("tea"), id="w")
        assert await run.result() == await engine.execute(quick("tea")) == 3
        assert await run.state() == "weighing"
        assert (await run.describe()).status is RunStatus.COMPLETED


@shows("engine calls")
@pytest.mark.slow
def test_s1_each_call_of_an_engine_is_there_without_asyncio() -> None:
    with SyncEngine("memory://", definitions=[quick, weigh]) as engine:
        run = engine.start(quick("tea"), id="w")
        assert run.result() == engine.execute(quick("tea")) == 3
        assert run.state() == "weighing"
        assert run.describe().status is RunStatus.COMPLETED


GUIDES = {
    "activities": "docs/tutorial/orders.md",
    "signals and queries": "docs/how-to/talk-to-runs.md",
    "persistence": "docs/how-to/use-a-server.md",
    "event sourcing": "docs/explanation/history.md",
}


@shows(
    "guides",
    "a [tutorial](../tutorial/orders.md), pages on"
    " [messages](../how-to/talk-to-runs.md), [databases](../how-to/use-a-server.md) and"
    " [histories](../explanation/history.md); all code on them, and in `examples/`, is"
    " run by the tests",
)
def test_s2_guides_and_examples_are_there_and_are_run() -> None:
    for title, page in GUIDES.items():
        assert ROOT / page in WITH_BLOCKS, title
    names = {path.stem for path in EXAMPLES}
    assert {"retries", "approval", "subscription", "state_machine"} <= names


WORDS = re.compile(r"^\| ([A-Z][\w ]+) \| (.*) \|$", re.M)


@shows("glossary", "the [words](#words) below")
def test_s1_a_each_word_of_temporal_has_one_here() -> None:
    page = (ROOT / "docs/reference/asked-and-given.md").read_text()
    (head, *rows) = WORDS.findall(page[page.index("## Words") :])
    words = dict(rows)
    assert head == ("Temporal", "here")
    assert set(words) == {
        "Workflow",
        "Workflow Execution",
        "Activity",
        "Signal",
        "Query",
        "Worker",
        "Namespace",
        "Task Queue",
    }
    for text in words.values():
        (name, *_) = re.findall(r"`(?:@|durable\.)?(\w+)", text)
        is_argument = name in inspect.signature(Engine.__init__).parameters
        assert is_argument or hasattr(durable, name), name


@shows("when to use which", "[below](#when-to-use-which)")
def test_s1_6_page_says_when_to_use_which() -> None:
    page = (ROOT / "docs/reference/asked-and-given.md").read_text()
    section = page[page.index("## When to use which") : page.index("## Words")]
    choices = re.findall(r"^\| (?:want|have|write) .* \| (\w+)", section, re.M)
    assert choices.count("this") > 1
    assert choices.count("Temporal") > 1

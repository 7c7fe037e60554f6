"""The text that Prometheus scrapes: what it says, and that any scraper can read it."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import durable
from durable import Engine, activity, limits, workflow
from durable.store.memory.memory import MemoryStore
from durable.store.queries import ReadBacklog
from durable.telemetry import OpenTelemetryObserver, PrometheusReader
from durable.telemetry.prometheus import metric_name
from durable.telling.prometheus_text import Family, Sample, render

TASTED = durable.meter().create_counter("tea.tasted", "{cup}", "Cups\nof tea")
BOILED = durable.meter().create_histogram("tea.boiled", "s")


@activity(name="scraped_activity")
async def boil() -> None:
    BOILED.record(2.5)


@workflow(name="scraped_workflow")
async def tea(sort: str) -> None:
    TASTED.add(2, {"sort": sort})
    await boil()


_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)",?')
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_ESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


def parse(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Read the format as strictly as its specification is."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    kinds: dict[str, str] = {}
    family = ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in kinds, f"{family} is there twice"
            continue
        if line.startswith("# TYPE "):
            _, _, name, kinds[family] = line.split(" ")
            assert name == family
            assert kinds[family] in ("counter", "gauge", "histogram")
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name, labels, value = match.groups()
        endings = (
            ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
        )
        assert name in [family + ending for ending in endings], line
        assert "".join(m.group() for m in _LABEL.finditer(labels or "")) == (
            labels or ""
        )
        pairs = tuple(
            (key, re.sub(r"\\.", lambda m: _ESCAPED[m.group()], text))
            for key, text in _LABEL.findall(labels or "")
        )
        assert len(dict(pairs)) == len(pairs)
        series = found.setdefault(name, {})
        assert pairs not in series, f"{line} is there twice"
        series[pairs] = float(value)
    return found


def labelled(series: dict[tuple[tuple[str, str], ...], float], **labels: str) -> float:
    return sum(v for k, v in series.items() if labels.items() <= dict(k).items())


async def test_engine_is_scraped_without_a_collector(url: str) -> None:
    reader = PrometheusReader({"region": "eu"})
    provider = MeterProvider([reader])
    observer = OpenTelemetryObserver(meter_provider=provider)
    assert reader.text() == ""
    async with Engine(url, observer=observer) as engine:
        await engine.execute(tea('green "\\\n'))
        await engine.execute(tea("black"))
        found = parse(reader.text())

    tasted = found["tea_tasted_total"]
    assert sorted(tasted.values()) == [2, 2]
    assert labelled(tasted, sort='green "\\\n', region="eu") == 2
    assert labelled(tasted, durable_workflow_type="scraped_workflow") == 4
    completed = found["durable_workflow_completed_total"]
    assert labelled(completed, durable_outcome="completed") == 2
    boiled = found["tea_boiled_seconds_bucket"]
    assert (labelled(boiled, le="1"), labelled(boiled, le="2.5")) == (0, 2)
    assert labelled(boiled, le="+Inf") == found["tea_boiled_seconds_count"].popitem()[1]
    assert found["tea_boiled_seconds_sum"].popitem()[1] == 5
    slots = found["durable_worker_slots_available"]
    assert labelled(slots, durable_pool="threads") == 64
    # Of a worker that is gone nothing stays that is not a total.
    left = parse(reader.text())
    assert "durable_worker_slots_available" not in left
    assert "durable_cache_misses_total" in left
    provider.shutdown()


async def test_it_stands_beside_other_readers(url: str) -> None:
    reader, other = PrometheusReader(), InMemoryMetricReader()
    provider = MeterProvider([other, reader])
    observer = OpenTelemetryObserver(meter_provider=provider)
    async with Engine(url, observer=observer) as engine:
        await engine.execute(tea("black"))
    assert labelled(parse(reader.text())["tea_tasted_total"]) == 2
    assert labelled(parse(reader.text())["tea_tasted_total"]) == 2  # as often as asked
    assert other.get_metrics_data() is not None
    provider.shutdown()


async def test_more_runs_make_no_more_series(url: str) -> None:
    reader = PrometheusReader()
    provider = MeterProvider([reader])
    observer = OpenTelemetryObserver(meter_provider=provider)

    async def count(runs: int) -> int:
        async with Engine(url, observer=observer) as engine:
            for number in range(runs):
                await engine.execute(tea("black"), id=f"tea-{runs}-{number}")
            return sum(map(len, parse(reader.text()).values()))

    assert await count(1) == await count(1) == await count(20)
    provider.shutdown()


async def test_database_is_asked_no_oftener_by_ten_that_scrape(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users met scrapes that each read the whole database, and starved all else."""
    asked: list[ReadBacklog] = []
    read = MemoryStore.read

    async def count(store: MemoryStore, query: Any) -> Any:
        if isinstance(query, ReadBacklog):
            asked.append(query)
        return await read(store, query)

    monkeypatch.setattr(MemoryStore, "read", count)
    monkeypatch.setattr(limits, "BACKLOG_SECONDS", 3_600.0)
    monkeypatch.setattr(limits, "BACKLOG_SECONDS_MAX", 3_600.0)
    reader = PrometheusReader()
    provider = MeterProvider([reader])
    observer = OpenTelemetryObserver(meter_provider=provider)
    async with Engine(url, worker=False) as client:
        await client.start("nobody's", task_queue="nobody's")
    async with Engine(url, observer=observer):
        async with asyncio.timeout(20):
            while "durable_backlog_runs" not in reader.text():  # noqa: ASYNC110 - by a clock
                await asyncio.sleep(0.01)
        texts = await asyncio.gather(
            *(asyncio.to_thread(reader.text) for _ in range(10))
        )
        await asyncio.sleep(0)
        assert len(asked) == 1
    assert all("durable_backlog_runs" in text for text in texts)
    provider.shutdown()


@pytest.mark.parametrize(
    ("name", "unit", "is_total", "expected"),
    [
        ("durable.queue.lag", "s", False, "durable_queue_lag_seconds"),
        ("durable.cache.hits", "{run}", True, "durable_cache_hits_total"),
        ("shop.seconds", "s", False, "shop_seconds"),
        ("shop.orders_total", "", True, "shop_orders_total"),
        ("shop/size-of", "By", False, "shop_size_of_bytes"),
        ("shop.speed", "m/s", False, "shop_speed_m_s"),
        ("shop.spent", "s", True, "shop_spent_seconds_total"),
    ],
)
def test_names_are_prometheus(
    name: str, unit: str, is_total: bool, expected: str
) -> None:
    assert metric_name(name, unit, is_total=is_total) == expected


def test_name_of_two_kinds_keeps_the_first_and_spoils_nothing() -> None:
    text = render(
        [
            Family("a", "gauge", "one", [Sample("", {"x": "1"}, 1)]),
            Family("b", "gauge", "b", [Sample("", {}, float("inf"))]),
            Family("a", "counter", "two", [Sample("", {}, 2)]),
            Family("a", "gauge", "three", [Sample("", {"x": "2"}, 0.1)]),
        ]
    )
    assert parse(text) == {
        "a": {(("x", "1"),): 1, (("x", "2"),): 0.1},
        "b": {(): float("inf")},
    }


@given(st.text(), st.floats(allow_nan=False))
def test_every_label_and_number_can_be_read_back(label: str, value: float) -> None:
    text = render([Family("a", "gauge", label, [Sample("", {"x": label}, value)])])
    assert parse(text) == {"a": {(("x", label),): value}}


def test_attributes_of_any_name_become_labels() -> None:
    reader = PrometheusReader()
    provider = MeterProvider([reader])
    counter = provider.get_meter("m").create_counter("a")
    for name in ("1x", "__name__", "a.b", "a-b", "\N{SNOWMAN}", "le", ""):
        counter.add(1, {name: "v"})
    counter.add(1, {"a.b": "1", "a_b": "2"})

    found = parse(reader.text())["a_total"]
    assert {key for labels in found for key, _ in labels} == {
        "key_1x", "key___name__", "a_b", "_", "le",
    }  # fmt: skip
    provider.shutdown()


async def test_observer_without_own_provider_uses_the_global_one(url: str) -> None:
    """Where nobody has set one up, nothing is kept, and nothing fails."""
    async with Engine(url, observer=OpenTelemetryObserver()) as engine:
        await engine.execute(tea("black"))


def test_reader_before_any_provider_is_empty() -> None:
    observed: Any = PrometheusReader()
    assert observed.families() == []

"""The dashboard and the alerts speak of metrics that exist, and of all of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable.telemetry import names
from durable.telemetry.metrics import Metrics
from tests.draw_dashboard import COMMAND, PAGE, Provider, drawn, exposed

WATCH = (Path(__file__).parents[3] / "docs/how-to/watch.md").read_text()
EXPOSED = exposed()
LABELS = {
    "durable_namespace",
    "durable_queue",
    "durable_pool",
    "durable_outcome",
    "durable_workflow_type",
    "durable_activity_type",
    "error_type",
    "le",
    "process",
    "task_queue",
}
NAME = re.compile(r"\b(durable_\w+|error_type|le)\b")
# What a counter or a bucket is good for is how it grows.
GROWING = re.compile(r"\b(?:rate|increase)\((\w+)(?:\{[^}]*\})?\[[^]]+\]\)")
ALERT = re.compile(r"^ +- alert: (\w+)\n((?: {8}.*\n)+)", re.MULTILINE)
ALERTS = {match[1]: match[2] for match in ALERT.finditer(WATCH)}


def dashboard_queries() -> Iterator[str]:
    for panel in json.loads(PAGE.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def family_of(name: str) -> str:
    if name in EXPOSED:
        return name
    return re.sub("_(bucket|sum|count)$", "", name)


def check(query: str) -> set[str]:
    """Refuse a query that could find nothing; give the metrics that it asks for."""
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing), query
    found = {name for name in NAME.findall(query) if name not in LABELS}
    families = {family_of(name) for name in found}
    assert families <= set(EXPOSED), f"{families - set(EXPOSED)} in {query}"
    growing = {family_of(name) for name in GROWING.findall(query)}
    assert growing == {name for name in families if EXPOSED[name] != "gauge"}, query
    for name in found:
        assert (name in EXPOSED) is (EXPOSED[family_of(name)] != "histogram"), query
    return families


def test_dashboard_is_drawn_from_the_names() -> None:
    assert PAGE.read_text() == drawn(), f"run {COMMAND}"


def test_dashboard_shows_every_metric_and_no_other() -> None:
    shown: set[str] = set()
    for query in dashboard_queries():
        shown |= check(query)
    assert shown == set(EXPOSED)


def test_page_explains_every_metric() -> None:
    table = "\n".join(line for line in WATCH.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(durable_\w+)`", table)) == set(EXPOSED)


def test_every_name_is_in_the_module_of_names() -> None:
    provider = Provider()
    Metrics(provider)
    constants = {key: text for key, text in vars(names).items() if key.isupper()}
    known = {text for text in constants.values() if text.startswith("durable.")}
    attributes = {
        names.WORKFLOW_ID,
        names.RUN_ID,
        names.WORKFLOW_TASK_NUMBER,
        names.WORKFLOW_TASK_ATTEMPT,
        names.ACTIVITY_ID,
        names.ACTIVITY_ATTEMPT,
        names.WORKER_ID,
        names.WORKFLOW_TYPE,
        names.ACTIVITY_TYPE,
        names.QUEUE,
        names.OUTCOME,
        names.NAMESPACE,
        names.POOL,
    }
    assert known - attributes == set(provider.meter.found)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_asks_for_what_is_there(name: str) -> None:
    rule = ALERTS[name]
    (query,) = re.findall(r"^ +expr: (.*)$", rule, re.MULTILINE)
    families = check(query)

    assert families
    # Workers of one database tell the same of it.
    if any(
        family.startswith(("durable_backlog", "durable_stuck")) for family in families
    ):
        assert query.startswith(("max by", "absent(")), query
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
    assert grouped <= LABELS
    # A summary names only what the query leaves.
    said = set(re.findall(r"\$labels\.(\w+)", rule))
    assert said <= grouped
    assert re.search(r"labels: \{severity: (page|ticket)\}", rule)
    assert 'annotations: {summary: "' in rule


def test_there_are_alerts() -> None:
    assert len(ALERTS) == WATCH.count("- alert:") >= 10


@pytest.mark.parametrize(
    "wrong",
    [
        "max(durable_nothing)",
        "sum(durable_cache_hits_total)",
        "rate(durable_ready[5m])",
        "rate(durable_workflow_duration_seconds[5m])",
        "max(durable_ready",
    ],
)
def test_wrong_query_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)

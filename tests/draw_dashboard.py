"""Draws the dashboard for Grafana from the names of the metrics.

`python -m tests.draw_dashboard` does so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from opentelemetry.metrics import MeterProvider, NoOpMeter

from durable import observer
from durable.telemetry import names
from durable.telemetry.metrics import Metrics
from durable.telemetry.prometheus import metric_name

PAGE: Final = Path(__file__).parents[1] / "docs/reference/durable-dashboard.json"
COMMAND: Final = "python -m tests.draw_dashboard"


class _Listing(NoOpMeter):
    """Notes what is measured, and in which unit."""

    def __init__(self) -> None:
        super().__init__(names.SCOPE)
        self.found: dict[str, tuple[str, str]] = {}

    def _note(self, kind: str) -> Any:
        def create(name: str, *given: Any, **more: Any) -> Any:
            texts = [one for one in given if isinstance(one, str)]
            self.found[name] = (kind, more.get("unit", texts[0]))
            return getattr(NoOpMeter, f"create_{kind}")(self, name, *given, **more)

        return create

    def __getattribute__(self, name: str) -> Any:
        kind = name.removeprefix("create_")
        return super().__getattribute__(name) if kind == name else self._note(kind)


class Provider(MeterProvider):
    """Gives a meter that only notes what it is asked for."""

    def __init__(self) -> None:
        self.meter = _Listing()

    def get_meter(self, *_: Any, **__: Any) -> _Listing:
        return self.meter


def exposed() -> dict[str, str]:
    """Prometheus's name of every metric, with its kind."""
    provider = Provider()
    Metrics(provider)
    found: dict[str, str] = {}
    for name, (made, unit) in provider.meter.found.items():
        is_total = made in ("counter", "observable_counter")
        kind = "counter" if is_total else "gauge"
        kind = "histogram" if made == "histogram" else kind
        found[metric_name(name, unit, is_total=is_total)] = kind
    for name in vars(names).values():
        if isinstance(name, str) and name.startswith("durable_"):
            found[name] = "counter" if name.endswith("_total") else "gauge"
    return found


def _of(name: str, unit: str = "", *, is_total: bool = False) -> str:
    return metric_name(name, unit, is_total=is_total)


def _quantile(name: str, unit: str, by: str = "") -> list[tuple[str, str]]:
    more, legend = (f", {by}", f"{{{{{by}}}}} ") if by else ("", "")
    bucket = f"{_of(name, unit)}_bucket"
    return [
        (
            f"histogram_quantile({share}, sum by (le{more})"
            f" (rate({bucket}[$__rate_interval])))",
            f"{legend}p{share * 100:g}",
        )
        for share in (0.5, 0.99)
    ]


def _mean(name: str) -> tuple[str, str]:
    base = _of(name)
    each = [f"sum(rate({base}_{one}[$__rate_interval]))" for one in ("sum", "count")]
    return " / ".join(each), name.rpartition(".")[2]


_WORKFLOW, _ACTIVITY = "durable_workflow_type", "durable_activity_type"
_HITS = _of(names.CACHE_HITS, is_total=True)
_MISSES = _of(names.CACHE_MISSES, is_total=True)
# Every worker tells the same of the database, so nothing of that is summed.
_OF_DATABASE = "max by (durable_namespace, durable_queue)"
_QUEUE = "{{durable_namespace}} {{durable_queue}}"

PANELS: Final[dict[str, list[tuple[str, str, list[tuple[str, str]]]]]] = {
    "What waits": [
        (
            "Runs that no worker has taken",
            "short",
            [(f"{_OF_DATABASE} ({_of(names.BACKLOG_RUNS)})", _QUEUE)],
        ),
        (
            "How long the oldest has waited",
            "s",
            [(f"{_OF_DATABASE} ({_of(names.BACKLOG_AGE, 's')})", _QUEUE)],
        ),
        (
            "Stuck runs",
            "short",
            [(f"{_OF_DATABASE} ({_of(names.STUCK_RUNS)})", _QUEUE)],
        ),
        (
            "Waiting in workers",
            "short",
            [
                (
                    f"sum by (durable_queue) ({_of(names.QUEUE_DEPTH)})",
                    "{{durable_queue}}",
                )
            ],
        ),
        (
            "How long the oldest has waited there",
            "s",
            [
                (
                    f"max by (durable_queue) ({_of(names.QUEUE_LAG, 's')})",
                    "{{durable_queue}}",
                )
            ],
        ),
        ("How late schedules begin", "s", _quantile(observer.SCHEDULE_LAG.name, "s")),
        (
            "How long the oldest closed run should be gone",
            "s",
            [
                (
                    f"max by (durable_queue) ({_of(names.RETENTION_LAG, 's')})",
                    "{{durable_queue}}",
                )
            ],
        ),
    ],
    "Runs": [
        (
            "Runs that close",
            "ops",
            [
                (
                    "sum by (durable_outcome)"
                    f" (rate({_of(names.WORKFLOW_COMPLETED, is_total=True)}"
                    "[$__rate_interval]))",
                    "{{durable_outcome}}",
                )
            ],
        ),
        (
            "How long runs take",
            "s",
            _quantile(names.WORKFLOW_DURATION, "s", _WORKFLOW),
        ),
        (
            "Workflow tasks: wait",
            "s",
            _quantile(names.WORKFLOW_TASK_SCHEDULE_TO_START, "s", "durable_queue"),
        ),
        (
            "Workflow tasks: code",
            "s",
            _quantile(names.WORKFLOW_TASK_DURATION, "s", _WORKFLOW),
        ),
        ("Replays", "s", _quantile(names.REPLAY_DURATION, "s", _WORKFLOW)),
        (
            "Runs found in memory",
            "percentunit",
            [
                (
                    f"sum(rate({_HITS}[$__rate_interval])) /"
                    f" (sum(rate({_HITS}[$__rate_interval])) +"
                    f" sum(rate({_MISSES}[$__rate_interval])))",
                    "hits",
                )
            ],
        ),
    ],
    "Activities": [
        ("Attempts", "s", _quantile(names.ACTIVITY_DURATION, "s", _ACTIVITY)),
        (
            "Attempts: wait",
            "s",
            _quantile(names.ACTIVITY_SCHEDULE_TO_START, "s", "durable_queue"),
        ),
        (
            "Attempts that fail",
            "ops",
            [
                (
                    f"sum by ({_ACTIVITY}, error_type)"
                    f" (rate({_of(names.ACTIVITY_FAILED, is_total=True)}"
                    "[$__rate_interval]))",
                    f"{{{{{_ACTIVITY}}}}} {{{{error_type}}}}",
                )
            ],
        ),
        (
            "Slots",
            "short",
            [
                (f"sum by (durable_queue, durable_pool) ({_of(name)})", legend)
                for name, legend in (
                    (names.SLOTS_USED, "{{durable_queue}} {{durable_pool}} used"),
                    (names.SLOTS_AVAILABLE, "{{durable_queue}} {{durable_pool}} free"),
                )
            ],
        ),
    ],
    "Database": [
        ("Commits", "s", _quantile(names.COMMIT_DURATION, "s")),
        (
            "In one commit",
            "short",
            [_mean(names.COMMIT_OPERATIONS), _mean(names.COMMIT_ROWS)],
        ),
        ("Reachable", "bool", [(f"min({names.WORKER_DATABASE_REACHABLE})", "")]),
    ],
    "Processes": [
        (
            "Ready, live",
            "bool",
            [(f"min({name})", name) for name in (names.READY, names.LIVE)],
        ),
        (
            "Processes",
            "short",
            [
                (f"sum({names.PROCESSES})", "kept"),
                (f"sum(increase({names.PROCESS_RESTARTS}[1h]))", "restarts in 1 h"),
                (f"sum({names.WORKER_DRAINING})", "workers that drain"),
            ],
        ),
        ("Lease", "s", [(f"min({names.WORKER_LEASE_SECONDS_LEFT})", "left")]),
        (
            "In memory",
            "short",
            [
                (f"sum({_of(names.CACHE_SIZE)})", "runs, by the engine"),
                (f"sum({names.WORKER_LIVE_RUNS})", "runs, by health"),
                (f"sum({names.WORKER_RUNNING_ACTIVITIES})", "activities"),
                (f"sum({names.WORKER_ACTIVITY_CAPACITY})", "places for activities"),
            ],
        ),
    ],
}

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def drawn() -> str:
    """The dashboard as JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in PANELS.items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"type": "row", "title": title, "gridPos": place, "panels": []})
        top += 1
        for number, (name, unit, queries) in enumerate(row):
            x, y = number % 3 * 8, top + number // 3 * 8
            panels.append(
                {
                    "type": "timeseries",
                    "title": name,
                    "datasource": _SOURCE,
                    "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
                    "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                    "targets": [
                        {"refId": chr(ord("A") + n), "expr": q, "legendFormat": legend}
                        for n, (q, legend) in enumerate(queries)
                    ],
                }
            )
        top += (len(row) + 2) // 3 * 8
    for number, panel in enumerate(panels):
        panel["id"] = number + 1
    source = {"name": "source", "type": "datasource", "query": "prometheus"}
    dashboard = {
        "title": "durable",
        "uid": "durable",
        "tags": ["durable"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(drawn())

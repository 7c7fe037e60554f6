"""The figures of durable on servers, with the budgets of its work on servers.

Servers have their default durability: a commit is on the disk. What is compared with a
commit is compared with those of one connection of the bare driver, made beside it.
"""

from dataclasses import replace

from tests.benchmarks.databases import MARIADB, POSTGRESQL, SQLITE
from tests.benchmarks.figures import (
    FOUND,
    QUEUE_FIGURES,
    Figure,
    Raw,
    key,
    per_thousand,
    rate,
    recovered,
)


def _in_commits(raw: Raw, size: int) -> float:
    return float(raw["p50"]) / float(raw["commit"])


def _of_commit_rate(raw: Raw, size: int) -> float:
    """Sequential activities against what commits alone would allow."""
    return rate(raw, size) * float(raw["commit"])


def _speedup(raw: Raw, size: int) -> float:
    return float(raw["one"]) / float(raw["two"])


_EVERYWHERE = [
    Figure("commit", "one-row commit, p50", "latency", "s", key("commit")),
    Figure("latency", "start to result, p50", "latency", "s", key("p50"), beside=True),
    Figure(
        "latency_in_commits",
        "the same, in one-row commits",
        "latency",
        "x",
        _in_commits,
        8,
        3,
    ),
    Figure(
        "concurrent",
        "1,000 concurrent runs",
        "concurrent",
        "s",
        per_thousand,
        beside=True,
        times_must=12,
    ),
    Figure(
        "sequential",
        "sequential activities/s",
        "sequential",
        "/s",
        rate,
        more_is_better=True,
        beside=True,
    ),
    Figure(
        "sequential_share",
        "the same, of one connection's commits/s",
        "sequential",
        "%",
        _of_commit_rate,
        0.30,
        0.60,
        more_is_better=True,
    ),
    Figure(
        "fanned",
        "parallel activities/s",
        "fanned",
        "/s",
        rate,
        more_is_better=True,
        beside=True,
    ),
    Figure(
        "recovered",
        "killed runs finished/s",
        "recover",
        "/s",
        recovered,
        more_is_better=True,
        beside=True,
        times_must=12,
    ),
    Figure(
        "children",
        "1,000 children of one parent",
        "children",
        "s",
        per_thousand,
        within=("children", 2),  # SQLite's
    ),
    Figure(
        "signal_effect_across",
        "signal of another process to effect, p50",
        "signal_effect_across",
        "s",
        key("p50"),
        0.010,
    ),
    Figure(
        "query_across",
        "query of another process, p50",
        "asked_across",
        "s",
        key("query"),
        0.010,
    ),
    Figure(
        "update_across",
        "update of another process, p50",
        "asked_across",
        "s",
        key("update"),
        0.010,
    ),
    Figure(
        "heavy_code",
        "code that computes, two workers over one",
        "heavy_code",
        "x",
        _speedup,
        1.7,
        more_is_better=True,
    ),
    Figure("idle", "an idle worker's processor", "idle", "%", key("share"), 0.01),
]
_AMONG_SLEEPERS = ("latency", "concurrent", "sequential", "recovered")
# So many times worse than PostgreSQL it may be: twice in small groups, else four times.
_MARIADB_WITHIN = {
    "latency": 2.0,
    "sequential": 2.0,
    "concurrent": 4.0,
    "fanned": 4.0,
    "recovered": 4.0,
    "children": 4.0,
}
# It has no notifications: whoever waits for others asks.
_MARIADB_MUST = {
    "signal_effect_across": 0.015,
    "query_across": 0.015,
    "update_across": 0.015,
    "idle": 0.01,
}


def _on(database: str, name: str, figure: Figure) -> Figure:
    return replace(
        figure,
        key=f"{database}.{figure.key}",
        label=f"{name}: {figure.label}",
        database=database,
    )


def _among_sleepers(figure: Figure) -> Figure:
    """The same in a database with many sleepers: at most a tenth dearer."""
    return replace(
        figure,
        key=f"{figure.key}_among_sleepers",
        label=f"{figure.label}, among 1,000,000 sleepers",
        workload=f"{figure.workload}_among_sleepers",
        beside=False,
        times_must=None,
        within=(figure.key, 1.1),
    )


def _on_mariadb(figure: Figure) -> Figure:
    """Held against PostgreSQL, where DBOS is at home."""
    times = _MARIADB_WITHIN.get(figure.key)
    return replace(
        _on(MARIADB, "MariaDB", figure),
        must=_MARIADB_MUST.get(figure.key),
        aim=None,
        beside=False,
        times_must=None,
        within=(f"{POSTGRESQL}.{figure.key}", times) if times else None,
    )


SERVER_FIGURES: list[Figure] = [
    *[_on(POSTGRESQL, "PostgreSQL", figure) for figure in _EVERYWHERE],
    *[
        _among_sleepers(_on(POSTGRESQL, "PostgreSQL", figure))
        for figure in _EVERYWHERE
        if figure.key in _AMONG_SLEEPERS
    ],
    *[_on_mariadb(figure) for figure in _EVERYWHERE],
    _on(SQLITE, "SQLite", _EVERYWHERE[-1]),
    _on(POSTGRESQL, "PostgreSQL", FOUND),
    *[_on(POSTGRESQL, "PostgreSQL", figure) for figure in QUEUE_FIGURES],
    *[_on(MARIADB, "MariaDB", figure) for figure in QUEUE_FIGURES],
    _on(
        POSTGRESQL,
        "PostgreSQL",
        Figure(
            "drained",
            "20,000 jobs that wait, on two workers/s",
            "drained",
            "/s",
            rate,
            more_is_better=True,
            beside=True,
            times_must=10,
        ),
    ),
]

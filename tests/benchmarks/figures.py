"""The figures: what each is, what it must reach, and what it aims at.

Budgets are those of the founding design, its section 5 and its table of workloads W1 to
W8. A figure is computed from the raw numbers of one repetition of its workload.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.databases import SQLITE

Raw = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        key: names it in the JSON file.
        workload: whose numbers it is computed from.
        unit: seconds and bytes are shown in fitting sizes; "" is a count.
        must: the budget; None for a yardstick.
        of: from raw numbers, with the size, to the figure.
        more_is_better: it is a rate, not a cost.
        beside: DBOS is measured by it too.
        whole: it grows with the size, so that only equal sizes compare.
        times_must: so many times better than DBOS it must be.
        database: what its workload runs on.
        within: the key of another figure, and how many times worse than that it may be.
    """

    key: str
    label: str
    workload: str
    unit: str
    of: Callable[[Raw, int], float]
    must: float | None = None
    aim: float | None = None
    more_is_better: bool = False
    beside: bool = False
    whole: bool = False
    times_must: float | None = None
    database: str = SQLITE
    within: tuple[str, float] | None = None

    def best(self, values: list[float]) -> float:
        return max(values) if self.more_is_better else min(values)

    def over(self, value: float, budget: float) -> float:
        """How many times over the budget a value is; up to 1 it is kept."""
        return budget / value if self.more_is_better else value / budget


def key(name: str) -> Callable[[Raw, int], float]:
    return lambda raw, size: float(raw[name])


def rate(raw: Raw, size: int) -> float:
    return size / float(raw["seconds"])


def per_thousand(raw: Raw, size: int) -> float:
    return float(raw["seconds"]) * 1_000 / size


def recovered(raw: Raw, size: int) -> float:
    return size / (float(raw["finished_at"]) - float(raw["spawned_at"]))


def _running_again(raw: Raw, size: int) -> float:
    return float(raw["resumed_at"]) - float(raw["spawned_at"])


def _replayed(raw: Raw, size: int) -> float:
    """Without what opening and a run of no history take, measured likewise."""
    return size / max(1e-6, float(raw["seconds"]) - float(raw["empty_seconds"]))


FOUND = Figure(
    "found",
    "page of runs by one attribute or field, the slowest (of 1,000,000)",
    "found",
    "s",
    key("slowest"),
    0.010,
)
# On each database.
QUEUE_FIGURES = [
    Figure(
        "standalone",
        "job without a workflow, over a run of one activity",
        "standalone",
        "x",
        lambda raw, size: float(raw["job"]) / float(raw["run"]),
        1.2,
    ),
    Figure(
        "claimed",
        "claim from a queue of 100,000, over one of 1,000",
        "claimed",
        "x",
        lambda raw, size: float(raw["many"]) / float(raw["few"]),
        1.2,
    ),
    Figure(
        "shared_out",
        "activities that compute: two workers over one",
        "shared_out",
        "x",
        lambda raw, size: float(raw["one"]) / float(raw["two"]),
        1.8,
        more_is_better=True,
    ),
]
FIGURES: list[Figure] = [
    # --- yardsticks
    Figure("commit", "one-row commit of this disk, p50", "commit", "s", key("seconds")),
    Figure("used", "import all that a program uses", "import", "s", key("used")),
    # --- without a store
    Figure("import", "import durable", "import", "s", key("import"), 0.100, 0.040),
    Figure("create", "core: create a workflow", "core", "s", key("create"), 1.2e-6),
    Figure("core", "core: run of one activity", "core", "s", key("run"), 5.8e-6),
    Figure(
        "replay_core",
        "core: decode and replay, events/s",
        "replay_core",
        "/s",
        lambda raw, size: float(raw["events"]) / float(raw["seconds"]),
        150_000,
        400_000,
        more_is_better=True,
    ),
    Figure(
        "memory",
        "memory: 1,000 concurrent runs",
        "concurrent_in_memory",
        "s",
        per_thousand,
        0.058,
    ),
    # --- SQLite
    Figure(
        "latency",
        "W1 start to result, p50",
        "latency",
        "s",
        key("p50"),
        0.0006,
        0.0003,
        beside=True,
        times_must=8,
    ),
    Figure(
        "latency_in_commits",
        "W1 the same, in one-row commits",
        "latency",
        "x",
        lambda raw, size: float(raw["p50"]) / float(raw["commit"]),
        6,
        3,
    ),
    Figure(
        "concurrent",
        "W2 1,000 concurrent runs",
        "concurrent",
        "s",
        per_thousand,
        0.120,
        0.058,
        beside=True,
        times_must=50,
    ),
    Figure(
        "concurrent_rate",
        "W2 the same, runs/s",
        "concurrent",
        "/s",
        rate,
        8_300,
        17_000,
        more_is_better=True,
    ),
    Figure(
        "sequential",
        "W3 sequential activities/s",
        "sequential",
        "/s",
        rate,
        3_000,
        6_000,
        more_is_better=True,
        beside=True,
        times_must=8,
    ),
    Figure(
        "sequential_growth",
        "W3 last 200 steps over first 200",
        "sequential",
        "x",
        lambda raw, size: float(raw["last"]) / float(raw["first"]),
        1.1,
        1.0,
        beside=True,
    ),
    Figure(
        "long_run",
        "last step of a long run over step 100",
        "long_run",
        "x",
        lambda raw, size: float(raw["last"]) / float(raw["first"]),
        1.3,
        1.05,
    ),
    Figure(
        "fanned",
        "W4 parallel activities/s",
        "fanned",
        "/s",
        rate,
        15_000,
        25_000,
        more_is_better=True,
        beside=True,
    ),
    Figure(
        "fanned_widely",
        "10,000 parallel activities of one run/s",
        "fanned_widely",
        "/s",
        rate,
        15_000,
        more_is_better=True,
    ),
    Figure(
        "pending",
        "memory of 10,000 activities under way",
        "pending",
        "B",
        lambda raw, size: float(raw["grown"]) * 10_000 / size,
        150 * 2**20,
    ),
    *QUEUE_FIGURES,
    Figure(
        "threads",
        "parallel activities in threads/s",
        "threads",
        "/s",
        rate,
        5_000,
        more_is_better=True,
    ),
    Figure(
        "processes",
        "activities that compute: two processes over one",
        "processes",
        "x",
        lambda raw, size: float(raw["one"]) / float(raw["two"]),
        1.8,
        more_is_better=True,
    ),
    Figure(
        "signals",
        "W5 signals to one run, seen/s",
        "signals",
        "/s",
        rate,
        10_000,
        20_000,
        more_is_better=True,
    ),
    Figure(
        "signal_effect",
        "W5 signal to effect, p50",
        "signal_effect",
        "s",
        key("p50"),
        0.002,
        0.0005,
    ),
    Figure(
        "signals_across",
        "W5 signals from another process, seen/s",
        "signals_across",
        "/s",
        rate,
        2_000,
        more_is_better=True,
    ),
    Figure(
        "signal_effect_across",
        "W5 signal of another process to effect, p50",
        "signal_effect_across",
        "s",
        key("p50"),
        0.010,
    ),
    Figure(
        "signal_at_rest",
        "signal to a sleeper that nobody owns, to effect, p50",
        "signal_at_rest",
        "s",
        key("p50"),
        0.003,
    ),
    Figure(
        "gets",
        "1,000 ids found at once",
        "gets",
        "s",
        per_thousand,
        0.050,
    ),
    Figure(
        "waiting",
        "reads of 200 who wait, during 20 commits elsewhere",
        "waiting",
        "",
        key("reads"),
        40,
    ),
    Figure(
        "schedules",
        "1,000 schedules due in one second: the last has begun after",
        "schedules",
        "s",
        key("seconds"),
        1.0,
    ),
    Figure(
        "gate",
        "durable check on one core, events/s",
        "gate",
        "/s",
        rate,
        100_000,
        more_is_better=True,
    ),
    Figure(
        "shared",
        "smaller share of two workers, one of them late",
        "shared",
        "%",
        lambda raw, size: min(float(raw["share"]), 1 - float(raw["share"])),
        0.25,
        more_is_better=True,
    ),
    Figure(
        "opened",
        "open a killed file of sleepers, over an empty one (of 1,000,000)",
        "opened",
        "s",
        lambda raw, size: float(raw["seconds"]) - float(raw["empty"]),
        0.050,
    ),
    FOUND,
    Figure(
        "retained",
        "closed runs deleted after their days, alone (of 1,000,000)",
        "retained",
        "/s",
        rate,
        20_000,
        more_is_better=True,
    ),
    Figure(
        "retained_beside",
        "lone run, p50, while closed runs are deleted, over without",
        "retained",
        "x",
        lambda raw, size: float(raw["beside"]) / float(raw["alone"]),
        1.5,
    ),
    Figure("queries", "query of a live run, p50", "queries", "s", key("p50"), 0.0003),
    Figure(
        "children",
        "1,000 children of one parent",
        "children",
        "s",
        per_thousand,
        0.150,
    ),
    Figure(
        "checkpoint_steps",
        "last step of an endless loop over step 100",
        "checkpoints",
        "x",
        lambda raw, size: float(raw["last"]) / float(raw["first"]),
        1.3,
        1.05,
    ),
    Figure(
        "checkpoint_loads",
        "loading it over loading it at a tenth",
        "checkpoints",
        "x",
        lambda raw, size: float(raw["load_long"]) / float(raw["load_short"]),
        1.5,
        1.1,
    ),
    Figure(
        "running_again",
        "1,000 killed runs running again",
        "recover",
        "s",
        _running_again,
        1.0,
        0.3,
        beside=True,
        whole=True,
    ),
    Figure(
        "recovered",
        "W6 killed runs finished/s",
        "recover",
        "/s",
        recovered,
        1_000,
        5_000,
        more_is_better=True,
        beside=True,
    ),
    Figure(
        "recovered_by_id",
        "killed runs found, signalled and awaited/s",
        "recover_by_id",
        "/s",
        recovered,
        more_is_better=True,
        beside=True,
        times_must=60,
    ),
    Figure(
        "replay",
        "W7 cold replay from disk, activities/s",
        "replay",
        "/s",
        _replayed,
        75_000,
        200_000,
        more_is_better=True,
        beside=True,
    ),
    Figure(
        "sleeping",
        "W8 memory of all sleepers (of 100,000)",
        "sleeping",
        "B",
        key("growth"),
        50 * 2**20,
        5 * 2**20,
    ),
    Figure(
        "sleeping_per_run",
        "W8 each sleeper beyond the first 8,000",
        "sleeping",
        "B",
        key("per_run"),
    ),
    Figure(
        "sleeping_reopened",
        "W8 all of them after a restart",
        "sleeping",
        "B",
        key("reopened"),
    ),
]

"""Which workloads run, how large, how often, and in which order."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.children import ChildError, killed_child, run_child

CORE, DURABLE, DBOS = "core", "durable", "dbos"


@dataclass(frozen=True)
class Workload:
    """One workload with its size at each scale, and what else it needs before.

    Attributes:
        subjects: who runs it; those that are compared take turns.
        sizes: for the scales `tiny`, `quick`, `normal` and `full`.
        dbos_quick: a smaller size for DBOS at the scale `quick`, to keep it quick.
        repetitions_max: no more than this, as it takes long.
        times: so many times as often, as it is over soon and machines are noisy.
        quick_once: at the scale `quick` once is enough.
    """

    name: str
    subjects: tuple[str, ...]
    sizes: tuple[int, int, int, int]
    dbos_quick: int = 0
    repetitions_max: int = 100
    times: int = 1
    quick_once: bool = False

    def repetitions(self, subject: str, scale: str, wanted: int) -> int:
        # At the scale `quick` the processes of DBOS alone would take half a minute.
        if scale == "quick" and (self.quick_once or subject == DBOS):
            return 1
        return min(wanted * self.times, self.repetitions_max)

    def size(self, subject: str, scale: str) -> int:
        if subject == DBOS and scale == "quick":
            return self.dbos_quick
        return self.sizes[SCALES.index(scale)]


SCALES = ("tiny", "quick", "normal", "full")
BOTH = (DURABLE, DBOS)
WORKLOADS = [
    Workload("commit", (CORE,), (20, 500, 1_000, 1_000), quick_once=True),
    Workload("import", (CORE,), (1, 1, 1, 1)),
    Workload("core", (CORE,), (10, 1_000, 2_000, 2_000), quick_once=True),
    Workload("replay_core", (CORE,), (20, 2_000, 5_000, 5_000), quick_once=True),
    Workload("concurrent_in_memory", (DURABLE,), (20, 1_000, 1_000, 1_000)),
    Workload("latency", BOTH, (5, 200, 300, 300), dbos_quick=50),
    Workload("concurrent", BOTH, (20, 1_000, 1_000, 1_000), dbos_quick=100),
    Workload("sequential", BOTH, (20, 1_000, 1_000, 1_000), dbos_quick=200),
    Workload("fanned", BOTH, (20, 1_000, 1_000, 1_000), dbos_quick=200),
    Workload("recover", BOTH, (5, 1_000, 1_000, 1_000), dbos_quick=20),
    Workload(
        "recover_by_id",
        BOTH,
        (5, 1_000, 1_000, 1_000),
        dbos_quick=20,
        repetitions_max=2,
    ),
    Workload(
        "replay", BOTH, (20, 5_000, 10_000, 20_000), dbos_quick=200, quick_once=True
    ),
    Workload("signals", (DURABLE,), (20, 1_000, 1_000, 1_000)),
    Workload("signal_effect", (DURABLE,), (5, 200, 300, 300)),
    Workload("signals_across", (DURABLE,), (20, 1_000, 1_000, 1_000)),
    Workload("signal_effect_across", (DURABLE,), (5, 100, 200, 200)),
    Workload("signal_at_rest", (DURABLE,), (5, 200, 300, 300)),
    Workload("gets", (DURABLE,), (20, 1_000, 1_000, 1_000), times=3),
    Workload("waiting", (DURABLE,), (20, 200, 200, 200), repetitions_max=1),
    Workload("shared", (DURABLE,), (20, 1_000, 1_000, 1_000), quick_once=True),
    Workload("opened", (DURABLE,), (20, 20_000, 100_000, 1_000_000), repetitions_max=1),
    Workload("queries", (DURABLE,), (5, 300, 500, 500)),
    Workload("children", (DURABLE,), (20, 1_000, 1_000, 1_000), times=3),
    Workload(
        "checkpoints",
        (DURABLE,),
        (600, 10_000, 100_000, 100_000),
        repetitions_max=1,
    ),
    Workload(
        "long_run",
        (DURABLE,),
        (50, 1_000, 10_000, 100_000),
        repetitions_max=2,
        quick_once=True,
    ),
    Workload(
        "sleeping",
        (DURABLE,),
        (20, 8_000, 10_000, 100_000),
        repetitions_max=2,
        quick_once=True,
    ),
]
# What is killed before they begin.
_KILLED = {
    "recover": "prepare_crash",
    "recover_by_id": "prepare_waits",
    "opened": "prepare_sleepers",
}
# Replaying grows dearer for DBOS with the square of the length: ten thousand steps
# would take minutes to prepare, so its history is as long as its W7 was.
_DBOS_REPLAY_MAX = 1_000


@dataclass(frozen=True)
class Sample:
    """The raw numbers of one repetition."""

    workload: str
    subject: str
    size: int
    raw: dict[str, Any]


def run_all(
    *,
    scale: str,
    repetitions: int,
    subjects: set[str],
    only: set[str],
    directory: Path | None,
    say: Callable[[str], None],
) -> tuple[list[Sample], list[str]]:
    """Run every workload in fresh processes, the subjects taking turns.

    Returns the samples, and what went wrong: one workload that fails leaves the others
    to be measured.
    """
    samples, failed = [], []
    for workload in WORKLOADS:
        if only and workload.name not in only:
            continue
        for number in range(repetitions * workload.times):
            for subject in workload.subjects:
                if subject not in subjects:
                    continue
                if number >= workload.repetitions(subject, scale, repetitions):
                    continue
                size = workload.size(subject, scale)
                if subject == DBOS and workload.name == "replay":
                    size = min(size, _DBOS_REPLAY_MAX)
                say(f"{workload.name}: {subject}, {size:,} ({number + 1})")
                try:
                    samples.append(_run(workload.name, subject, size, directory))
                except ChildError as error:
                    failed.append(str(error))
    return samples, failed


def _run(name: str, subject: str, size: int, parent: Path | None) -> Sample:
    directory = Path(tempfile.mkdtemp(prefix="durable-bench-", dir=parent))
    try:
        if name == "replay":
            raw = _replay(subject, directory, size)
        else:
            if name in _KILLED:
                with killed_child(subject, _KILLED[name], directory, size):
                    pass
            raw = run_child(subject, name, directory, size)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Sample(name, subject, size, raw)


def _replay(subject: str, directory: Path, size: int) -> dict[str, Any]:
    """A long history, and an empty one for what both pay, such as opening.

    Each in a process of its own: one launch is all that a process of DBOS may have.
    """
    seconds: dict[str, Any] = {}
    for name, steps in (("empty", 0), ("long", size)):
        folder = directory / name
        folder.mkdir()
        with killed_child(subject, "prepare_history", folder, steps):
            pass
        seconds[name] = run_child(subject, "replay", folder, steps)["seconds"]
    return {"seconds": seconds["long"], "empty_seconds": seconds["empty"]}

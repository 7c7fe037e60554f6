"""Which workloads run, how large, how often, and in which order."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.children import ChildError, killed_child, run_child
from tests.benchmarks.databases import (
    MARIADB,
    POSTGRESQL,
    SQLITE,
    Servers,
    url_of,
)

CORE, DURABLE, DBOS = "core", "durable", "dbos"


@dataclass(frozen=True)
class Workload:
    """One workload with its size at each scale, and what else it needs before.

    Attributes:
        subjects: who runs it; those that are compared take turns.
        databases: what it runs on, one after the other.
        sizes: for the scales `tiny`, `quick`, `normal` and `full`.
        dbos_quick: a smaller size for DBOS at the scale `quick`, to keep it quick.
        repetitions_max: no more than this, as it takes long.
        times: so many times as often, as it is over soon and machines are noisy.
        quick_once: at the scale `quick` once is enough.
        runs: the workload that this one is, in a database of so many sleepers.
    """

    name: str
    subjects: tuple[str, ...]
    sizes: tuple[int, int, int, int]
    dbos_quick: int = 0
    repetitions_max: int = 100
    times: int = 1
    quick_once: bool = False
    databases: tuple[str, ...] = (SQLITE,)
    runs: str = ""

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
ALL = (SQLITE, POSTGRESQL, MARIADB)
SERVERS = (POSTGRESQL, MARIADB)
SLEEPERS = (20, 20_000, 1_000_000, 1_000_000)
_THOUSAND = (20, 1_000, 1_000, 1_000)
WORKLOADS = [
    Workload("commit", (CORE,), (20, 500, 1_000, 1_000), quick_once=True),
    Workload("import", (CORE,), (1, 1, 1, 1)),
    Workload("core", (CORE,), (10, 1_000, 2_000, 2_000), quick_once=True),
    Workload("replay_core", (CORE,), (20, 2_000, 5_000, 5_000), quick_once=True),
    Workload("concurrent_in_memory", (DURABLE,), (20, 1_000, 1_000, 1_000)),
    Workload("latency", BOTH, (5, 200, 300, 300), dbos_quick=50, databases=ALL),
    Workload("concurrent", BOTH, _THOUSAND, dbos_quick=100, databases=ALL),
    Workload("sequential", BOTH, _THOUSAND, dbos_quick=200, databases=ALL),
    Workload("fanned", BOTH, _THOUSAND, dbos_quick=200, databases=ALL),
    Workload("threads", (DURABLE,), (20, 2_000, 5_000, 5_000)),
    Workload("processes", (DURABLE,), (4, 40, 100, 200), repetitions_max=2),
    Workload("fanned_widely", (DURABLE,), (20, 2_000, 10_000, 10_000)),
    Workload("pending", (DURABLE,), (20, 2_000, 10_000, 10_000), repetitions_max=2),
    Workload("standalone", (DURABLE,), (5, 200, 300, 300), databases=ALL),
    Workload(
        "claimed",
        (DURABLE,),
        (400, 10_000, 100_000, 100_000),
        repetitions_max=1,
        databases=ALL,
    ),
    Workload(
        "shared_out", (DURABLE,), (4, 20, 100, 200), repetitions_max=2, databases=ALL
    ),
    Workload(
        "drained",
        BOTH,
        (20, 1_000, 20_000, 20_000),
        dbos_quick=200,
        repetitions_max=1,
        databases=(POSTGRESQL,),
    ),
    Workload("recover", BOTH, (5, 1_000, 1_000, 1_000), dbos_quick=20, databases=ALL),
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
    Workload("signal_effect_across", (DURABLE,), (5, 100, 200, 200), databases=ALL),
    Workload("signal_at_rest", (DURABLE,), (5, 200, 300, 300)),
    Workload("gets", (DURABLE,), (20, 1_000, 1_000, 1_000), times=3),
    Workload("waiting", (DURABLE,), (20, 200, 200, 200), repetitions_max=1),
    Workload("schedules", (DURABLE,), _THOUSAND, quick_once=True),
    Workload("gate", (DURABLE,), (20, 20_000, 100_000, 100_000), quick_once=True),
    Workload("shared", (DURABLE,), (20, 1_000, 1_000, 1_000), quick_once=True),
    Workload("opened", (DURABLE,), (20, 20_000, 100_000, 1_000_000), repetitions_max=1),
    Workload(
        "found",
        (DURABLE,),
        (20, 20_000, 100_000, 1_000_000),
        repetitions_max=1,
        databases=(SQLITE, POSTGRESQL),
    ),
    Workload(
        "retained", (DURABLE,), (20, 10_000, 100_000, 1_000_000), repetitions_max=1
    ),
    Workload("queries", (DURABLE,), (5, 300, 500, 500)),
    Workload("children", (DURABLE,), _THOUSAND, times=3, databases=ALL),
    Workload("asked_across", (DURABLE,), (5, 100, 200, 200), databases=SERVERS),
    Workload("heavy_code", (DURABLE,), (5, 50, 100, 100), databases=SERVERS),
    Workload("idle", (DURABLE,), (1, 5, 10, 10), databases=ALL),
    *[
        Workload(
            f"{name}_among_sleepers",
            (DURABLE,),
            sizes,
            databases=(POSTGRESQL,),
            runs=name,
        )
        for name, sizes in (
            ("latency", (5, 200, 300, 300)),
            ("concurrent", _THOUSAND),
            ("sequential", _THOUSAND),
            ("recover", (5, 1_000, 1_000, 1_000)),
        )
    ],
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
_CANNOT = {(DBOS, MARIADB)}


@dataclass(frozen=True)
class Sample:
    """The raw numbers of one repetition."""

    workload: str
    subject: str
    database: str
    size: int
    raw: dict[str, Any]


def run_all(
    *,
    scale: str,
    repetitions: int,
    subjects: set[str],
    databases: set[str],
    only: set[str],
    directory: Path | None,
    say: Callable[[str], None],
) -> tuple[list[Sample], list[str]]:
    """Run every workload in fresh processes, the subjects taking turns.

    Returns the samples, and what went wrong: one workload that fails leaves the others
    to be measured.
    """
    samples: list[Sample] = []
    failed: list[str] = []
    wanted = [w for w in WORKLOADS if not only or w.name in only]
    with Bench(scale, directory) as bench:
        for workload in wanted:
            for database in workload.databases:
                if database not in databases:
                    continue
                for number, subject in _turns(workload, scale, repetitions):
                    if subject not in subjects or (subject, database) in _CANNOT:
                        continue
                    say(f"{workload.name}: {subject}, {database} ({number + 1})")
                    try:
                        samples.append(bench.run(workload, subject, database))
                    except ChildError as error:
                        failed.append(str(error))
    return samples, failed


def _turns(
    workload: Workload, scale: str, repetitions: int
) -> Iterator[tuple[int, str]]:
    for number in range(repetitions * workload.times):
        for subject in workload.subjects:
            if number < workload.repetitions(subject, scale, repetitions):
                yield number, subject


class Bench:
    """Runs workloads, each in a folder and databases of its own."""

    def __init__(self, scale: str, parent: Path | None) -> None:
        self._scale = scale
        self._parent = parent
        self._ends = ExitStack()
        self._sleepers = ""

    def __enter__(self) -> Self:
        self._servers = self._ends.enter_context(Servers(self._parent))
        return self

    def __exit__(self, *raised: object) -> None:
        self._ends.close()

    def run(self, workload: Workload, subject: str, database: str) -> Sample:
        size = workload.size(subject, self._scale)
        if subject == DBOS and workload.name == "replay":
            size = min(size, _DBOS_REPLAY_MAX)
        template = self._template() if workload.runs else None
        name = workload.runs or workload.name
        with self._folder(database, template) as directory:
            if name == "replay":
                raw = _replay(subject, directory, size)
            else:
                if name in _KILLED:
                    with killed_child(subject, _KILLED[name], directory, size):
                        pass
                raw = run_child(subject, name, directory, size)
        return Sample(workload.name, subject, database, size, raw)

    @contextmanager
    def _folder(self, database: str, template: str | None = None) -> Iterator[Path]:
        directory = Path(tempfile.mkdtemp(prefix="durable-bench-", dir=self._parent))
        try:
            self._servers.place(database, directory, template)
            yield directory
        finally:
            self._servers.drop(directory)
            shutil.rmtree(directory, ignore_errors=True)

    def _template(self) -> str:
        """The URL of a database of many sleepers, made once."""
        if not self._sleepers:
            size = SLEEPERS[SCALES.index(self._scale)]
            directory = self._ends.enter_context(self._folder(POSTGRESQL))
            with killed_child(DURABLE, "prepare_sleepers", directory, size):
                pass
            run_child(DURABLE, "multiply_sleepers", directory, size)
            self._sleepers = url_of(directory)
        return self._sleepers


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

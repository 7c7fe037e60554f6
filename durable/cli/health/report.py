"""What is told of a command's workers: as JSON, and as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from durable.cli.output import to_json
from durable.telemetry import names
from durable.telling.prometheus_text import Family, Sample, render
from durable.worker.health import WorkerHealth

Status: TypeAlias = Literal[
    "starting", "ready", "unavailable", "draining", "restarting", "silent"
]


class ProcessHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one process does.

    Attributes:
        number: its place among those of the command, from 1.
        status: `unavailable` if a worker of its cannot work, `restarting` while it is
            not there, `silent` if it does not answer.
        restarts: how often it was started again.
        workers: one for each task queue.
        metrics: what its observer has, for who scrapes.
    """

    number: int = 1
    pid: int | None = None
    status: Status
    restarts: int = 0
    workers: Sequence[WorkerHealth] = ()
    metrics: Sequence[Family] = ()

    @property
    def is_live(self) -> bool:
        """Whether there is nothing that a new process would mend."""
        if self.status == "unavailable":
            return all(worker.has_lease for worker in self.workers)
        return self.status != "silent"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a command does, whose workers live in one process or several."""

    status: Status
    processes: Sequence[ProcessHealth]

    @property
    def is_live(self) -> bool:
        """Whether every process is."""
        return all(process.is_live for process in self.processes)

    @property
    def is_ready(self) -> bool:
        """Whether all of it works."""
        return self.status == "ready"

    @property
    def workers(self) -> list[WorkerHealth]:
        """Those of all processes."""
        return [worker for process in self.processes for worker in process.workers]


_OF_PROCESSES: Final = [f for f in ProcessHealth.__struct_fields__ if f != "metrics"]


def sum_up(processes: Sequence[ProcessHealth], *, is_draining: bool) -> Health:
    """Say how all of them do together."""
    found = {process.status for process in processes}
    status: Status = "unavailable"
    if is_draining:
        status = "draining"
    elif len(found) == 1:
        status = processes[0].status
    elif found <= {"ready", "starting"}:
        status = "starting"
    return Health(status=status, processes=processes)


def as_json(health: Health) -> str:
    """All of it, as JSON."""
    workers = health.workers
    told = {
        "status": health.status,
        "is_live": health.is_live,
        "is_ready": health.is_ready,
        "worker_ids": [worker.worker_id for worker in workers],
        "task_queues": sorted({worker.task_queue for worker in workers}),
        "live_runs": sum(worker.live_runs for worker in workers),
        "running_activities": sum(worker.running_activities for worker in workers),
        "capacity": sum(worker.capacity for worker in workers),
        "activity_processes": sum(worker.processes for worker in workers),
        "lost_processes": sum(worker.lost_processes for worker in workers),
        "lease_seconds_left": min((w.lease_seconds_left for w in workers), default=0),
        "processes": [
            {name: getattr(one, name) for name in _OF_PROCESSES}
            for one in health.processes
        ],
    }
    return to_json(told, indent=2) + "\n"


_Value: TypeAlias = Callable[[WorkerHealth], float]
_OF_WORKERS: Final[tuple[tuple[str, str, _Value], ...]] = (
    (names.WORKER_LIVE_RUNS, "Runs in memory.", lambda w: w.live_runs),
    (
        names.WORKER_RUNNING_ACTIVITIES,
        "Activities that run.",
        lambda w: w.running_activities,
    ),
    (
        names.WORKER_ACTIVITY_CAPACITY,
        "Activities that may run at once.",
        lambda w: w.capacity,
    ),
    (
        names.WORKER_LEASE_SECONDS_LEFT,
        "How long the lease runs if it is not renewed.",
        lambda w: w.lease_seconds_left,
    ),
    (
        names.WORKER_DRAINING,
        "Whether the worker drains.",
        lambda w: w.status == "draining",
    ),
    (
        names.WORKER_DATABASE_REACHABLE,
        "Whether the database answered.",
        lambda w: w.is_database_reachable,
    ),
)


def as_metrics(health: Health) -> str:
    """The numbers, and those of its observers, as Prometheus reads them."""

    def family(name: str, text: str, *samples: tuple[dict[str, str], float]) -> Family:
        kind = "counter" if name.endswith("_total") else "gauge"
        return Family(name, kind, text, [Sample("", *sample) for sample in samples])

    processes = health.processes
    restarts = [({"process": str(p.number)}, p.restarts) for p in processes]
    families = [
        family(names.LIVE, "Whether /live says so.", ({}, health.is_live)),
        family(names.READY, "Whether /ready says so.", ({}, health.is_ready)),
        family(names.PROCESSES, "Processes that are kept.", ({}, len(processes))),
        family(
            names.PROCESS_RESTARTS, "How often a process was started again.", *restarts
        ),
    ]
    for name, text, value in _OF_WORKERS:
        samples = [
            ({"process": str(p.number), "task_queue": w.task_queue}, value(w))
            for p in processes
            for w in p.workers
        ]
        families.append(family(name, text, *samples))
    for process in processes:
        number = str(process.number)
        families += (one.labelled(process=number) for one in process.metrics)
    return render(families)

"""What is told of a command's workers: as JSON, and as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from durable.cli.output import to_json
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
    """

    number: int = 1
    pid: int | None = None
    status: Status
    restarts: int = 0
    workers: Sequence[WorkerHealth] = ()

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
        "lease_seconds_left": min((w.lease_seconds_left for w in workers), default=0),
        "processes": health.processes,
    }
    return to_json(told, indent=2) + "\n"


_Value: TypeAlias = Callable[[WorkerHealth], float]
_OF_WORKERS: Final[tuple[tuple[str, str, _Value], ...]] = (
    ("live_runs", "Runs in memory.", lambda w: w.live_runs),
    ("running_activities", "Activities that run.", lambda w: w.running_activities),
    ("activity_capacity", "Activities that may run at once.", lambda w: w.capacity),
    (
        "lease_seconds_left",
        "How long the lease runs if it is not renewed.",
        lambda w: w.lease_seconds_left,
    ),
    ("draining", "Whether the worker drains.", lambda w: w.status == "draining"),
    (
        "database_reachable",
        "Whether the database answered.",
        lambda w: w.is_database_reachable,
    ),
)


def as_metrics(health: Health) -> str:
    """The numbers, in the text format 0.0.4 of Prometheus."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
        name = f"durable_{name}"
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{labels} {float(value):g}" for labels, value in samples)

    processes = health.processes
    add("live", "gauge", "Whether /live says so.", ("", health.is_live))
    add("ready", "gauge", "Whether /ready says so.", ("", health.is_ready))
    add("processes", "gauge", "Processes that are kept.", ("", len(processes)))
    restarts = [(_labels(process=str(p.number)), p.restarts) for p in processes]
    text = "How often a process was started again."
    add("process_restarts_total", "counter", text, *restarts)
    for name, text, value in _OF_WORKERS:
        samples = [
            (_labels(process=str(p.number), task_queue=w.task_queue), value(w))
            for p in processes
            for w in p.workers
        ]
        add(f"worker_{name}", "gauge", text, *samples)
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    texts = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(texts) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""Pages of runs among very many: by an attribute and by what every run has."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

from durable import Attribute
from durable.core.history.payload import Payload
from durable.search.conditions import Condition
from durable.search.kinds import pack, to_payload
from durable.search.run_fields import Run
from durable.store.connect import connect
from durable.store.queries import SearchRuns
from durable.store.records import RunRecord, RunStatus, StartRun
from durable.store.store import Store
from tests.benchmarks.databases import url_of

_BATCH = 1_000
_PAGES = 9
_START = 1_800_000_000_000_000
_CUSTOMERS = 1_000
customer = Attribute("customer", str)
SOUGHT: dict[str, Condition | None] = {
    "newest": None,
    "customer": customer == "c7",
    "customer of one run": customer == "only one",
    "customer of none": customer == "nobody",
    "type": Run.type == "type 1",
    "type of none": Run.type == "none",
    "failed, of which there are none": Run.status == "failed",
    "running": Run.status == "running",
    "queue": Run.queue == "gpu",
    "the usual queue": Run.queue == "default",
    "queue of none": Run.queue == "none",
    "version": Run.version == "2.0.0",
    "version of none": Run.version == "9.0.0",
    "parent": Run.parent_id == "wf-10",
    "parent of none": Run.parent_id == "none",
    "root": Run.root_run_id == "run-00000010",
    "very long ones, of which there are none": Run.duration > "10h",
}


def _start(number: int) -> StartRun:
    run_id = f"run-{number:08}"
    name = "only one" if number == 3 else f"c{number % _CUSTOMERS}"
    values: dict[str, Payload] = {
        customer.name: to_payload(customer.kind, name, customer.name)
    }
    is_open = number % 2 == 0
    seconds = 3_600 if number % 50 == 1 else 1
    above = number - 1 if number % 10 == 1 else None
    record = RunRecord(
        namespace="default",
        workflow_id=f"wf-{number}",
        run_id=run_id,
        workflow_type=f"type {number % 5}",
        task_queue="default" if number % 100 else "gpu",
        status=RunStatus.RUNNING if is_open else RunStatus.COMPLETED,
        started_at=_START + number,
        closed_at=None if is_open else _START + number + seconds * 1_000_000,
        first_run_id=run_id,
        request_id=run_id,
        version="2.0.0" if number % 3 else None,
        parent_workflow_id=None if above is None else f"wf-{above}",
        root_run_id=None if above is None else f"run-{above:08}",
        attributes=pack(values),
    )
    return StartRun(record=record, rows=[])


async def _median_page(store: Store, where: Condition | None) -> float:
    taken: list[float] = []
    for _ in range(_PAGES):
        began = time.perf_counter()
        await store.read(SearchRuns("default", where))
        taken.append(time.perf_counter() - began)
    return median(taken)


async def found(directory: Path, size: int) -> dict[str, Any]:
    """The slowest of the pages that are sought, each the median of several."""
    store = connect(url_of(directory))
    await store.open()
    for first in range(0, size, _BATCH):
        numbers = range(first, min(first + _BATCH, size))
        await asyncio.gather(*(store.perform(_start(number)) for number in numbers))
    pages = {name: await _median_page(store, where) for name, where in SOUGHT.items()}
    await store.close()
    return {"pages": pages, "slowest": max(pages.values())}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "found": found,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))

"""The pure core without a store, and what a fresh process pays before it begins."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import Yardstick

_RUN_ID = "0198f0c2-7c9e-7c3f-8a53-5f5e3d5a9b10"
_ROUNDS = 7


def import_durable(directory: Path, size: int) -> dict[str, Any]:
    """What `import durable` takes, then what a program's first line takes."""
    began = time.perf_counter()
    import durable

    imported = time.perf_counter() - began
    _ = durable.Engine, durable.activity, durable.workflow
    return {"import": imported, "used": time.perf_counter() - began}


def commit(directory: Path, size: int) -> dict[str, Any]:
    yardstick = Yardstick(directory)
    for _ in range(size):
        yardstick.commit()
    return {"seconds": yardstick.close()}


def core(directory: Path, size: int) -> dict[str, Any]:
    """Make and drive runs of one activity; the outcome is handed in, not computed."""
    from durable.core.history.events import (
        ActivityTaskCompleted,
        WorkflowExecutionStarted,
    )
    from durable.core.replay.replayer import Replayer
    from durable.core.workflow_task import WorkflowTask
    from tests.benchmarks.durable_workloads import add, one

    outcome = ActivityTaskCompleted(2, add.call_signature.encode_result(5), 1, 5)

    def make(number: int) -> tuple[Replayer, WorkflowExecutionStarted]:
        call = one(number)
        started = WorkflowExecutionStarted(
            workflow_type=call.definition.name,
            input=call.input,
            task_queue="default",
            workflow_id=_RUN_ID,
            run_id=_RUN_ID,
            first_run_id=_RUN_ID,
            request_id=_RUN_ID,
        )
        return Replayer(lambda _: one), started

    def create() -> None:
        for number in range(size):
            make(number)

    def drive() -> None:
        for number in range(size):
            replayer, started = make(number)
            replayer.process(WorkflowTask(1_000_000, (started,)))
            done = replayer.process(WorkflowTask(1_000_001, (outcome,)))
            assert done.is_closed
            replayer.tear_down()

    return {"create": _best(create) / size, "run": _best(drive) / size}


def replay_core(directory: Path, size: int) -> dict[str, Any]:
    """Decode the rows of a long history and drive its code to the end."""
    from durable.core.history.codec import decode_rows, encode_event
    from durable.core.history.events import (
        ActivityTaskCompleted,
        WorkflowExecutionStarted,
    )
    from durable.core.replay.replayer import Replayer
    from durable.core.workflow_task import WorkflowTask
    from tests.benchmarks.durable_workloads import add, sequence

    call = sequence(size)
    started = WorkflowExecutionStarted(
        workflow_type=call.definition.name,
        input=call.input,
        task_queue="default",
        workflow_id=_RUN_ID,
        run_id=_RUN_ID,
        first_run_id=_RUN_ID,
        request_id=_RUN_ID,
    )
    replayer = Replayer(lambda _: sequence)
    completion = replayer.process(WorkflowTask(1, (started,)))
    events = list(completion.events)
    while not completion.is_closed:
        last: Any = completion.events[-1]
        total = sum(add.call_signature.decode(last.attributes.input))
        result = add.call_signature.encode_result(total)
        outcome = ActivityTaskCompleted(last.event_id, result, 1, last.time)
        completion = replayer.process(WorkflowTask(last.time + 1, (outcome,)))
        events += completion.events
    replayer.tear_down()
    rows = [encode_event(_RUN_ID, event) for event in events]

    def replay() -> None:
        replayer = Replayer(lambda _: sequence)
        history = decode_rows(rows)
        done = replayer.process(WorkflowTask(0, (), history, is_replay_only=True))
        assert done.failure is None
        assert replayer.is_closed
        replayer.tear_down()

    return {"seconds": _best(replay), "events": len(rows)}


def _best(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


WORKLOADS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "import": import_durable,
    "commit": commit,
    "core": core,
    "replay_core": replay_core,
}


def run(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return WORKLOADS[workload](directory, size)

"""`durable.batch`: the workflow of which each batch is a run.

It has an activity of the library find some runs, and another act on them, publishes how
far it is, and goes on behind them. So a batch that is killed goes on where it was, and
what its last step had done is not done again: signals and requests to stop have ids of
their own, and ends and deletions are final.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from durable.api.entities.entity_call import PATIENT
from durable.api.workflows.operations import sleep
from durable.api.workflows.workflow import workflow
from durable.batches.state import (
    Acted,
    ActWanted,
    BatchState,
    FindWanted,
    Found,
    pack,
)
from durable.core.history.payload import Payloads
from durable.core.runtime import ActivityTarget, WorkflowRuntime, get_runtime

BATCH: Final = "durable.batch"
"""The name of the workflow."""
PREFIX: Final = "batch:"
"""How the workflow ids of batches begin."""
FIND: Final = "durable.batch.find"
"""The activity that finds the next runs."""
ACT: Final = "durable.batch.act"
"""The activity that acts on them."""
T = TypeVar("T")


@workflow(name=BATCH, checkpoint_every=500)
async def batch(state: BatchState) -> None:
    """Act on all runs that there were."""
    runtime = get_runtime("A batch")
    has_more = True
    runtime.set_state(pack(state.progress))
    while has_more:
        runtime.checkpoint((pack(state),))
        wanted = FindWanted(state.where, state.after, state.size)
        found = await _do(runtime, FIND, wanted, Found)
        acting = ActWanted(state.action, found.targets)
        has_more = state.take(found, await _do(runtime, ACT, acting, Acted))
        runtime.set_state(pack(state.progress))
        if has_more and state.rate is not None:
            await sleep(len(found.targets) / state.rate)


async def _do(runtime: WorkflowRuntime, name: str, input: Any, kind: type[T]) -> T:
    """Have an activity of the library do something."""
    target = ActivityTarget(name, PATIENT, None, _differing)
    answer = await runtime.execute_activity(target, (pack(input),), None, 0)
    return msgspec.json.decode(answer.json, type=kind)


def _differing(recorded: Payloads, found: Payloads) -> str | None:
    """Nothing: what a step is asked for follows from the answers before it."""
    return None

"""`durable.batch`: the workflow of which each batch is a run.

It has an activity of the library act on some runs, publishes how far it is, and goes on
behind them. So a batch that is killed goes on where it was, and what its last step had
done is not done again: signals and requests to stop have ids of their own, and ends and
deletions are final.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable.api.entities.entity_call import PATIENT
from durable.api.workflows.operations import sleep
from durable.api.workflows.workflow import workflow
from durable.batches.state import BatchState, Step, StepWanted, pack
from durable.core.history.payload import Payloads
from durable.core.runtime import ActivityTarget, get_runtime

BATCH: Final = "durable.batch"
"""The name of the workflow."""
PREFIX: Final = "batch:"
"""How the workflow ids of batches begin."""
ACT: Final = "durable.batch.act"
"""The activity that acts on some runs."""


@workflow(name=BATCH, checkpoint_every=500)
async def batch(state: BatchState) -> None:
    """Act on all runs that there were."""
    runtime = get_runtime("A batch")
    target = ActivityTarget(ACT, PATIENT, None, _differing)
    has_more = True
    runtime.set_state(pack(state.progress))
    while has_more:
        runtime.checkpoint((pack(state),))
        wanted = StepWanted(state.action, state.where, state.after, state.size)
        answer = await runtime.execute_activity(target, (pack(wanted),), None, 0)
        step = msgspec.json.decode(answer.json, type=Step)
        has_more = state.take(step)
        runtime.set_state(pack(state.progress))
        if has_more and state.rate is not None:
            await sleep(step.count / state.rate)


def _differing(recorded: Payloads, found: Payloads) -> str | None:
    """Nothing: what a step is asked for follows from the answers before it."""
    return None

"""Right use of the builder of workflows and of timers."""

from __future__ import annotations

from typing import assert_type

from durable import (
    Timer,
    Workflow,
    WorkflowBuilder,
    WorkflowCall,
    activity,
    par,
    seq,
    start_timer,
    workflow,
)


@activity
async def price(sku: str) -> int:
    return len(sku)


async def worth(both: tuple[int, int]) -> float:
    return both[0] * both[1]


configured = WorkflowBuilder("accept.worth").configure(
    takes=str, gives=float, version="1.0.0", run_timeout="1h"
)
built = configured.run(seq(par(price, price), worth)).build()
assert_type(built, Workflow[[str], float])
assert_type(built("tea"), WorkflowCall[float])

one = WorkflowBuilder("accept.price").configure(takes=str, gives=int).run(price)
assert_type(one.build(), Workflow[[str], int])


@workflow
async def remind(days: int) -> bool:
    timer = start_timer(f"{days}d", summary="reminder")
    assert_type(timer, Timer)
    assert_type(timer.is_triggered, bool)
    assert_type(timer.cancel(), bool)
    assert_type(await timer.wait(), bool)
    return await timer.wait()

"""Good use of child workflows and continuing as new: no checker may object."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Never, assert_type

from durable import (
    ChildCancellationType,
    ChildHandle,
    ExternalHandle,
    IdReusePolicy,
    ParentClosePolicy,
    Signal,
    WorkflowCall,
    checkpoint,
    continue_as_new,
    external,
    run,
    start_child,
    workflow,
)

approved = Signal("approved", bool)


@workflow
async def pay(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


@workflow
class Cart:
    @run
    async def run(self, customer: str) -> float:
        return 1.0


@workflow
async def order(number: int) -> list[str]:
    assert_type(await pay(5), str)
    assert_type(await Cart.run("alice"), float)
    paid, total = await asyncio.gather(pay(1), Cart.run("bob"))
    assert_type(paid, str)
    assert_type(total, float)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pay(3))
    assert_type(task.result(), str)
    assert_type(await asyncio.wait_for(pay(4), 5), str)
    assert_type(await asyncio.shield(pay(5)), str)

    urgent = pay.options(
        id="pay-5",
        task_queue="urgent",
        run_timeout="1d",
        execution_timeout=timedelta(days=2),
        parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=ChildCancellationType.ABANDON,
        id_reuse=IdReusePolicy.REJECT_DUPLICATE,
        inherit_parent_timeout=False,
        memo={"why": ["late"]},
        summary="urgent",
    )
    assert_type(await urgent(5, currency="USD"), str)
    assert_type(await urgent.options(wait_for_cancellation=False)(1), str)
    assert_type(await pay.options(propagate_failures=True)(5), str)
    careless = pay.options(propagate_failures=False, summary="careless")
    assert_type(careless(5), WorkflowCall[str | None])
    assert_type(await careless(5), str | None)
    assert_type(await careless.options(id="x")(5), str | None)

    handle = await start_child(pay(5), id="pay-6")
    assert_type(handle, ChildHandle[str])
    await handle.signal(approved(True))
    await handle.signal("approved", True)
    await handle.cancel("why")
    assert_type(handle.workflow_id, str)
    assert_type(handle.run_id, str)
    assert_type(await handle.result(), str)
    assert_type(await handle, str)

    other = external("order-41")
    assert_type(other, ExternalHandle)
    await other.signal(approved(False))
    await external("order-41", run_id="run").cancel()

    checkpoint(number + 1)
    checkpoint(order(number + 1))
    if number == 1:
        continue_as_new(order(number + 1), task_queue="slow", memo={"n": number})
    elif number == 2:
        continue_as_new(number=number + 1)
    else:
        assert_type(continue_as_new(number), Never)

"""Wrong use of the builder of workflows and of timers: both checkers reject it."""

from __future__ import annotations

from durable import WorkflowBuilder, activity, start_timer


@activity
async def price(sku: str) -> int:
    return len(sku)


@activity
async def name(sku: int) -> str:
    return str(sku)


initial = WorkflowBuilder("rejected")
initial.build()  # E
initial.run(price)  # E
configured = initial.configure(takes=str, gives=int)
configured.build()  # E
configured.configure(takes=str, gives=int)  # E
configured.run(name)  # E
initial.configure(takes=str, gives=int, verzion="1.0.0")  # E
initial.configure(takes=str)  # E
ready = configured.run(price)
ready.run(price)  # E
ready.configure(takes=str, gives=int)  # E
ready("tea")  # E
ready.build()(5)  # E


async def wait() -> None:
    timer = start_timer([3])  # E
    timer.is_triggered()  # E
    timer.is_triggered = True  # E

"""A long list, worked through by children, never more than a few at once.

The parent rolls over as new runs of the same chain, so its history stays short however
long the list is. Its children go on meanwhile, and tell whichever run is current.
"""

import asyncio

from durable import (
    Engine,
    ParentClosePolicy,
    Signal,
    activity,
    continue_as_new,
    external,
    info,
    start_child,
    workflow,
)

finished = Signal("finished", int)
PER_RUN = 25


@activity
async def convert(record: int) -> int:
    """Work on one record."""
    await asyncio.sleep(0.001)
    return record * record


@workflow
async def process_record(record: int, batch: str) -> None:
    """A child: does its work, then tells the batch."""
    result = await convert(record)
    await external(batch).signal(finished(result))


@workflow
async def process_batch(
    count: int,
    window: int,
    next_record: int = 0,
    open_children: int = 0,
    total: int = 0,
) -> int:
    """Keep at most `window` children under way."""
    batch = info().workflow_id
    started = 0
    while next_record < count or open_children:
        while next_record < count and open_children < window and started < PER_RUN:
            child = process_record.options(
                id=f"{batch}/{next_record}",
                parent_close_policy=ParentClosePolicy.ABANDON,
            )
            await start_child(child(next_record, batch))
            next_record, open_children, started = (
                next_record + 1,
                open_children + 1,
                started + 1,
            )
        if started >= PER_RUN and next_record < count:
            # What children have told meanwhile is carried on to the next run.
            continue_as_new(
                process_batch(count, window, next_record, open_children, total)
            )
        total += await finished.receive()
        open_children -= 1
    return total


async def main() -> None:
    """Work through a hundred records, five at a time."""
    async with Engine("sqlite:///batch.db") as engine:
        batch = await engine.start(process_batch(100, 5), id="batch")
        print("sum of squares:", await batch.result())
        runs = await engine.list(workflow_id="batch")
        print(f"the batch was a chain of {len(runs)} runs")


if __name__ == "__main__":
    asyncio.run(main())

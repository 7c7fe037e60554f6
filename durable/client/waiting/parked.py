"""A parked run, while workers of other code may still try it."""

from __future__ import annotations

import asyncio
from typing import Final

from durable import limits
from durable.store.queries import ListWorkers, ReadNews
from durable.store.records import RunRecord
from durable.store.store import Store

# Each worker looks for what others have parked once per half a lease.
_PATIENCE_SECONDS: Final = limits.LEASE_SECONDS
_LOOK_SECONDS: Final = 0.1


async def goes_on(store: Store, record: RunRecord) -> bool:
    """Wait until another worker has gone on with a parked run.

    False, at once, if at most one worker serves its task queue; or if all have had the
    time to try it, and it is parked still.
    """
    place = record.namespace, record.task_queue
    serving = [
        worker
        for worker in await store.read(ListWorkers())
        if (worker.namespace, worker.task_queue) == place
        and worker.lease_expires_at > store.now()
    ]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    while len(serving) > 1 and loop.time() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        news = await store.read(ReadNews([record.run_id]))
        if not (news and news[0].is_stuck):
            return True
    return False

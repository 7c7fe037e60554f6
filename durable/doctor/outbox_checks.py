"""What waits in the outbox though it should not: set aside, or with no worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final

from durable.doctor.findings import Check, Finding
from durable.doctor.run_checks import PATIENCE, Workers
from durable.store.queries import ListOutbox
from durable.store.records import OutboxRecord
from durable.store.store import Store

_PAGE: Final = 1_000


async def examine_outbox(
    store: Store, namespace: str | None, workers: Workers
) -> AsyncGenerator[Finding]:
    """Say of each namespace what is set aside, and what has waited for long."""
    aside: Counter[str] = Counter()
    late: Counter[str] = Counter()
    after = 0
    while True:
        page = await store.read(ListOutbox(namespace, None, after, _PAGE))
        for row in page:
            if row.due_at is None:
                aside[row.namespace] += 1
            elif _is_late(row, workers.now):
                late[row.namespace] += 1
        if len(page) < _PAGE:
            break
        after = page[-1].sequence
    for name, count in sorted(aside.items()):
        yield Finding(
            Check.OUTBOX,
            None,
            f"{_count(count, name)} set aside, as refused: see 'durable outbox list"
            " --set-aside'",
        )
    served = {workers.known[worker_id].namespace for worker_id in workers.live}
    for name, count in sorted(late.items()):
        why = "no worker is there to deliver"
        if name in served:
            why = "workers are there, and have not delivered"
        yield Finding(Check.OUTBOX, None, f"{_count(count, name)} waiting: {why}")


def _is_late(row: OutboxRecord, now: int) -> bool:
    """Whether it was not tried for long; one that was refused waits for its time."""
    return max(row.created_at, row.due_at or 0) + PATIENCE <= now


def _count(count: int, namespace: str) -> str:
    within = "" if namespace == "default" else f" of namespace {namespace!r}"
    if count == 1:
        return f"1 row of the outbox{within} is"
    return f"{count} rows of the outbox{within} are"

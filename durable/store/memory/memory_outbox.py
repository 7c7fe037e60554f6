"""The outbox of `MemoryStore`, into which no stranger writes; for the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable.store.queries import OutboxPage

if TYPE_CHECKING:
    from durable.store.queries import FindOutbox, ListOutbox
    from durable.store.records import OutboxRecord


def find_in_outbox(rows: dict[int, OutboxRecord], query: FindOutbox) -> OutboxPage:
    """Answer `FindOutbox`."""
    found: list[OutboxRecord] = []
    waits: dict[str, int] = {}
    for row in sorted(rows.values(), key=lambda row: row.sequence):
        if row.namespace != query.namespace or row.due_at is None:
            continue
        if row.due_at > query.until:
            waits[row.target] = row.due_at
        elif row.target not in waits:
            found.append(row)
    is_whole = len(found) <= query.limit
    return OutboxPage(found[: query.limit], min(waits.values(), default=None), is_whole)


def list_outbox(rows: dict[int, OutboxRecord], query: ListOutbox) -> list[OutboxRecord]:
    """Answer `ListOutbox`."""
    found = [
        row
        for row in sorted(rows.values(), key=lambda row: row.sequence)
        if row.sequence > query.after
        and query.namespace in (None, row.namespace)
        and query.is_aside in (None, row.due_at is None)
    ]
    return found[: query.limit]

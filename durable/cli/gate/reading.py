"""Reads the histories of many runs, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from durable.doctor.doctor import read_pages
from durable.store.queries import ReadHistory
from durable.store.records import HistoryRow, RunFilter, RunRecord
from durable.store.store import Store

_READ_TOGETHER: Final = 64


async def list_all(store: Store, namespace: str, where: RunFilter) -> list[RunRecord]:
    """All runs of a listing, newest first."""
    return [
        record async for page in read_pages(store, namespace, where) for record in page
    ]


async def read_histories(
    store: Store, records: list[RunRecord]
) -> AsyncIterator[tuple[RunRecord, list[HistoryRow]]]:
    """The rows of each of these runs; those that are gone by now are left out."""
    for first in range(0, len(records), _READ_TOGETHER):
        some = records[first : first + _READ_TOGETHER]
        # Reads that are asked for together share a trip.
        read = await asyncio.gather(
            *(store.read(ReadHistory(record.run_id)) for record in some)
        )
        for record, rows in zip(some, read, strict=True):
            if rows:
                yield record, rows

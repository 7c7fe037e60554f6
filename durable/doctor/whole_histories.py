"""Runs with all of their history: loading one begins at its newest checkpoint."""

from __future__ import annotations

import msgspec

from durable.store.queries import ReadHistory
from durable.store.records import LoadedRun
from durable.store.store import Store


async def with_whole_history(store: Store, loaded: LoadedRun) -> LoadedRun:
    """Read what loading left out; nothing that was committed since then is added."""
    if loaded.record.checkpoint_event_id <= 1:
        return loaded
    rows = await store.read(ReadHistory(loaded.record.run_id))
    # With no row after the first one, no checkpoint is where the run's row says.
    if len(loaded.rows) > 1:
        last_event_id = loaded.rows[-1][1]
        rows = [row for row in rows if row[1] <= last_event_id]
    return msgspec.structs.replace(loaded, rows=rows)

"""Follows the events of a run as they are committed, here or by other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, Protocol

from durable.client.waiting.outcomes import Outcomes
from durable.core.history.codec import decode_rows
from durable.core.history.events import TERMINAL_EVENTS, HistoryEvent, next_run_id
from durable.errors import WorkflowNotFoundError
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import RunStatus
from durable.store.store import Store

# What others commit is heard of; what a worker of this process does is looked for.
_LOOK_SECONDS: Final = 0.1


class Source(Protocol):
    """Where a run is followed: a client."""

    @property
    def store(self) -> Store:
        """The open store."""
        ...

    namespace: str
    outcomes: Outcomes

    def check(self) -> None:
        """Raise `EngineClosedError` if the engine may not be used here."""
        ...


async def follow_events(
    connection: Source, run_id: str, workflow_id: str, after: int, *, to_end: bool
) -> AsyncGenerator[HistoryEvent, None]:
    """Give a run's events after that one; with `to_end` those of its chain, too.

    Raises:
        WorkflowNotFoundError: there is no such run, or it was deleted meanwhile.
        CorruptHistoryError: a row cannot be read.
    """
    following: str | None = run_id
    while following is not None:
        run_id, following = following, None
        outcome = connection.outcomes.of(run_id)
        is_open = True
        while is_open:
            connection.check()
            # Listen before reading, or a change in between would go unheard.
            changed = outcome.changed()
            try:
                where = FindRun(connection.namespace, workflow_id, run_id)
                record = await connection.store.read(where)
                if record is None:
                    raise WorkflowNotFoundError(
                        f"There is no run {run_id!r} of workflow id {workflow_id!r}."
                    )
                rows = await connection.store.read(ReadHistory(run_id, after))
                is_open = record.status is RunStatus.RUNNING
                for event in decode_rows(rows):
                    after = event.event_id
                    yield event
                    if isinstance(event.attributes, TERMINAL_EVENTS):
                        is_open = False
                        following = next_run_id(event.attributes) if to_end else None
                if is_open and not rows:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await changed
            finally:
                outcome.forget(changed)
        after = 0

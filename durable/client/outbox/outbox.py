"""The outbox as operators see it: what waits, and what was set aside and why."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from durable.client.client import Client
from durable.client.descriptions.description import decode_stuck
from durable.client.outbox.requests import OutboxStart, read_request
from durable.clock import to_datetime
from durable.core.history.codec import UNREADABLE
from durable.core.messages import decode_message
from durable.errors import CorruptHistoryError, InvalidOptionError
from durable.store.queries import ListOutbox
from durable.store.records import (
    DeliverOutbox,
    OutboxItem,
    OutboxRecord,
    SettleOutbox,
)

_PAGE: Final = 1_000
_NAME_OF: Final = ("signal_name", "update_name")


class OutboxDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a committed transaction has asked for and has not got yet.

    Attributes:
        sequence: its place in the order of writing, by which it is named.
        kind: "start", "signal", "cancel", "update"; or "unknown".
        name: of the workflow, signal or update; None if it has none.
        is_set_aside: it was refused, and only an operator has it tried again.
        due_at: when it is tried again after a refusal; None if that is now, or never.
        reason: why it was refused last; None if it never was.
    """

    sequence: int
    workflow_id: str
    kind: str
    name: str | None
    written_at: datetime
    tries: int
    is_set_aside: bool
    due_at: datetime | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Outbox:
    """What committed transactions have asked for in a namespace; `Engine.outbox`.

    It is empty, as a rule: workers deliver what is in it, and delete it with that.
    """

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client

    async def list(
        self, *, set_aside: bool | None = None, limit: int = 100, after: int = 0
    ) -> builtins.list[OutboxDescription]:
        """List what is there, in the order of writing.

        Args:
            set_aside: only what is set aside, or only what is not.
            limit: how many at most.
            after: the `sequence` of the last one of the page before.

        Raises:
            InvalidOptionError: a number is negative.
        """
        for name, value in (("limit", limit), ("after", after)):
            if value < 0:
                raise InvalidOptionError(f"{name} is {value}: give 0 at least.")
        client = self._open_client()
        query = ListOutbox(client.namespace, set_aside, after, limit)
        return [_describe(row) for row in await client.store.read(query)]

    async def retry(self, *sequences: int) -> builtins.list[int]:
        """Have these tried again now; without any, all that are set aside.

        Returns:
            Which of them are there.
        """
        return [n for n in await self._find(sequences) if await self._retry(n)]

    async def _retry(self, sequence: int) -> bool:
        store = self._open_client().store
        operation = SettleOutbox(sequence=sequence, due_at=0, tries=0)
        return bool(await store.perform(operation))

    async def drop(self, *sequences: int) -> builtins.list[int]:
        """Delete these for good; what they ask for is never done.

        Returns:
            Which of them were there.
        """
        found = await self._find(sequences) if sequences else []
        for sequence in found:
            await self._open_client().store.perform(
                DeliverOutbox(items=(OutboxItem(sequence),))
            )
        return found

    async def _find(self, sequences: tuple[int, ...]) -> builtins.list[int]:
        """Which of these are in this namespace; without any, all that are set aside."""
        client = self._open_client()
        found: list[int] = []
        after = min(sequences) - 1 if sequences else 0
        is_aside = None if sequences else True
        while True:
            query = ListOutbox(client.namespace, is_aside, max(0, after), _PAGE)
            page = await client.store.read(query)
            found += [row.sequence for row in page]
            if len(page) < _PAGE or (sequences and page[-1].sequence >= max(sequences)):
                break
            after = page[-1].sequence
        return [n for n in found if n in sequences] if sequences else found


def _describe(row: OutboxRecord) -> OutboxDescription:
    kind, name = "unknown", None
    try:
        asked = read_request(row)
        if isinstance(asked, OutboxStart):
            kind, name = "start", asked.started.workflow_type
        else:
            kind = asked.kind
            body = decode_message(asked.kind, asked.data)
            name = next((getattr(body, n) for n in _NAME_OF if hasattr(body, n)), None)
    except (CorruptHistoryError, KeyError, *UNREADABLE):
        pass
    failure = decode_stuck(row.failure)
    return OutboxDescription(
        sequence=row.sequence,
        workflow_id=row.target,
        kind=kind,
        name=name,
        written_at=to_datetime(row.created_at),
        tries=row.tries,
        is_set_aside=row.due_at is None,
        due_at=to_datetime(row.due_at) if row.due_at else None,
        reason=None if failure is None else failure.message,
    )

"""Configured queues within a transaction: their rows, and claims by turns."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from durable import limits
from durable.store.deciding.queue_turns import Head, Turn
from durable.store.queues import HeldCount, QueueRecord
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import COLLATIONS
from durable.store.sql.tasks import statements
from durable.store.sql.tasks.heads import since

if TYPE_CHECKING:
    from durable.store.database import Session
    from durable.store.looks import Place

# No key has this character.
_AFTER: Final = "\x01"


def read_queue(
    session: Session, namespace: str, name: str, *, locks: bool = False
) -> QueueRecord | None:
    """Return a queue that somebody has configured."""
    statement = statements.LOCK_QUEUE if locks else statements.READ_QUEUE
    rows = fetch(session, statement, of_namespace=namespace, named=name)
    return salvage.to_queue(rows[0]) if rows else None


def count_held(session: Session, namespace: str, task_queue: str) -> list[HeldCount]:
    """Return how many tasks of a queue are claimed, by key and worker."""
    where = {"namespace": namespace, "task_queue": task_queue}
    return [HeldCount(*row) for row in fetch(session, statements.COUNT_HELD, **where)]


def _find_keys(
    session: Session, where: Mapping[str, Any], from_key: str, wanted: int
) -> Iterator[tuple[str, int, int]]:
    """Yield the keys that wait, from one on: with the first instant and weight."""
    if session.connection.dialect.name in COLLATIONS:
        statement, page = statements.NEXT_KEY, 1
    else:
        statement = statements.FIND_KEYS_OF_KIND
        if session.looks is not None:
            statement = statements.FIND_KEYS_FROM
        page = min(wanted, limits.TASK_KEYS_AT_ONCE)
        where = {**where, "page": page}
    while rows := fetch(session, statement, **where, from_key=from_key):
        yield from rows
        if len(rows) < page:
            return
        from_key = max(key for key, _, _ in rows) + _AFTER


def find_ready(
    session: Session, where: Mapping[str, Any], kinds: Mapping[str, Place], turn: Turn
) -> list[Head]:
    """Return keys that are due and have room, in turn: as many as there is room for.

    What others have too much of, or that is not due, is stepped over. No task of one of
    the types is before its place.
    """
    now = where["until"]

    def ready_of(kind: str, from_key: str) -> Iterator[Head]:
        of_kind = {**where, "kind": kind, **since(kinds[kind])}
        found = _find_keys(session, of_kind, from_key, turn.room + 1)
        for key, due_at, weight in found:
            if due_at <= now and turn.room_of(key) > 0:
                yield Head(key, kind, due_at, weight)

    def ready(from_key: str) -> Iterator[Head]:
        # Each by key; only as far as somebody asks.
        found = (ready_of(kind, from_key) for kind in kinds)
        return heapq.merge(*found, key=lambda head: head.fairness_key)

    last = turn.last_key
    first = list(_of_keys(ready(last), turn.room + 1))
    known = len({head.fairness_key for head in first})
    if not last or known > turn.room:
        return first
    before = itertools.takewhile(lambda head: head.fairness_key < last, ready(""))
    return first + list(_of_keys(before, turn.room + 1 - known))


def _of_keys(heads: Iterable[Head], keys: int) -> Iterator[Head]:
    """Those of the first so many keys."""
    for number, (_, group) in enumerate(
        itertools.groupby(heads, key=lambda head: head.fairness_key)
    ):
        if number == keys:
            return
        yield from group

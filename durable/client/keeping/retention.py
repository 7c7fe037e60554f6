"""How long closed runs are kept: rules, and the sweep that deletes what is over.

A sweep walks the closed runs of a namespace from the oldest on, a page after the other.
Each page is a short transaction of its own, so whoever is killed in between has done
what is done, and the next sweep does the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from durable.client.descriptions.searching import check_where, read_condition
from durable.errors import InvalidOptionError
from durable.options import Duration, to_microseconds
from durable.search.conditions import Condition, matches
from durable.search.orders import Order
from durable.search.run_fields import reader_of
from durable.store.queries import ReadNamespaces, SearchRuns
from durable.store.records import Deleted, DeleteRuns, RunRecord
from durable.store.store import Store

DAY: Final = 86_400_000_000
"""Microseconds."""
STEP: Final = 500
"""Runs that are deleted at once: for so long others wait to write."""
_BUSY_STEP: Final = 25
_BUSY_SHARE: Final = 8
"""So many times as long as a step took it rests, while others work."""
_OLDEST_FIRST: Final = Order("CloseTime", is_descending=False)


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """How long some closed runs are kept.

        RetentionRule(keep="7d", where=Run.status == "completed")

    Attributes:
        keep: since they closed: `timedelta`, seconds, or text like "7d"; None for ever.
        where: which runs; a condition, or the text of a query. All by default.

    Raises:
        InvalidOptionError: `where` is neither.
        InvalidDurationError: `keep` is no duration.
    """

    keep: Duration | None
    where: Condition | str | None = None

    def __post_init__(self) -> None:
        """Refuse what breaks a rule."""
        self.microseconds  # noqa: B018 - it raises
        check_where(self.where)

    @property
    def microseconds(self) -> int | None:
        """How long that is."""
        if self.keep is None:
            return None
        return to_microseconds(self.keep, "keep of a retention rule")


def check_rules(rules: object) -> tuple[RetentionRule, ...]:
    """Return the rules of an engine.

    Raises:
        InvalidOptionError: they are none.
    """
    found: list[Any] = [*rules] if isinstance(rules, Iterable) else [rules]
    for rule in found:
        if not isinstance(rule, RetentionRule):
            raise InvalidOptionError(
                f"retention holds {rule!r}: give a list of RetentionRule(...)."
            )
    return tuple(found)


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did.

    Attributes:
        deleted: so many runs are gone; in a dry run, would be if none is needed.
        kept: so many stay though their time is over, by why: see `RunNeededError`.
    """

    deleted: int = 0
    kept: dict[str, int] = {}


class _Term(NamedTuple):
    where: Condition | None
    kept_for: int | None


class Terms(NamedTuple):
    """The rules of a namespace at some moment: the first that fits a run counts."""

    terms: list[_Term]

    @property
    def shortest(self) -> int | None:
        """What no run is deleted before, since it closed; None if none ever is."""
        ends = [term.kept_for for term in self.terms if term.kept_for is not None]
        return min(ends, default=None)

    def is_over(self, record: RunRecord, now: int) -> bool:
        """Tell whether a closed run has been kept for as long as it should be."""
        if record.closed_at is None:
            return False
        read = None
        for where, kept_for in self.terms:
            if where is not None:
                read = read or reader_of(record)
                if not matches(where, read):
                    continue
            return kept_for is not None and record.closed_at + kept_for <= now
        return False


async def read_terms(
    store: Store, namespace: str, rules: Iterable[RetentionRule]
) -> Terms:
    """Read what rules a namespace has: an engine's own, then the days of its row.

    Raises:
        QuerySyntaxError: the text of a rule cannot be read.
        AttributeTypeError: an attribute has another type.
    """
    terms = [
        _Term(await read_condition(store, namespace, rule.where), rule.microseconds)
        for rule in rules
    ]
    terms += [
        _Term(None, record.retention_days * DAY)
        for record in await store.read(ReadNamespaces())
        if record.namespace == namespace and record.retention_days is not None
    ]
    return Terms(terms)


async def sweep(
    store: Store,
    namespace: str,
    rules: Iterable[RetentionRule],
    *,
    is_dry: bool = False,
    is_busy: Callable[[], bool] = lambda: False,
) -> Swept:
    """Delete closed runs whose time is over.

    Args:
        store: an open store.
        namespace: whose runs.
        rules: those of an engine; the days of the namespace come after them.
        is_dry: delete nothing.
        is_busy: whether others have work: then it goes slowly, in small steps.

    Raises:
        QuerySyntaxError, AttributeTypeError: a rule means nothing.
        StoreError: the database refused.
    """
    terms = await read_terms(store, namespace, rules)
    deleted, kept = 0, Counter[str]()
    loop = asyncio.get_running_loop()
    async for over in _expired(store, namespace, terms):
        while over:
            busy = is_busy()
            size = _BUSY_STEP if busy else STEP
            run_ids, over = tuple(over[:size]), over[size:]
            if is_dry:
                deleted += len(run_ids)
                continue
            began = loop.time()
            gone: Deleted = await store.perform(DeleteRuns(run_ids=run_ids))
            deleted += len(gone.run_ids)
            kept.update(need.value for need in gone.kept.values())
            if busy:
                await asyncio.sleep((loop.time() - began) * _BUSY_SHARE)
    return Swept(deleted, dict(sorted(kept.items())))


async def _expired(
    store: Store, namespace: str, terms: Terms
) -> AsyncIterator[list[str]]:
    """Yield the runs whose time is over, a page after the other."""
    shortest = terms.shortest
    if shortest is None:
        return
    now = store.now()
    after: tuple[int, str] | None = None
    while True:
        query = SearchRuns(namespace, None, _OLDEST_FIRST, after, STEP)
        page = await store.read(query)
        yield [run.run_id for run in page if terms.is_over(run, now)]
        last = page[-1] if page else None
        if last is None or len(page) < STEP or last.closed_at is None:
            return
        if last.closed_at + shortest > now:
            return
        after = (last.closed_at, last.run_id)

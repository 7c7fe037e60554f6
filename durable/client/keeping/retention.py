"""How long closed runs are kept: rules, and the sweep that deletes what is over.

A sweep walks the closed runs of a namespace from the oldest on, a page after the other.
Each step is a short transaction of its own, so whoever is killed in between has done
what is done, and the next sweep does the rest. A step is bounded by runs, by events and
by time, and there is a rest after each: a long one while others work.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from durable.client.descriptions.searching import check_where, read_condition
from durable.client.keeping.archiving import archive
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
"""Runs that are deleted at once, at most."""
_now: Final = time.monotonic
_OLDEST_FIRST: Final = Order("CloseTime", is_descending=False)


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """How long some closed runs are kept.

        RetentionRule(keep="7d", where=Run.status == "completed")

    Attributes:
        keep: since they closed: `timedelta`, seconds, or text like "7d"; None for ever.
        where: which runs; a condition, or the text of a query. All by default.
        archive_to: a folder, in which they are exported before they are deleted.

    Raises:
        InvalidOptionError: `where` is neither, or there is nothing to archive.
        InvalidDurationError: `keep` is no duration.
    """

    keep: Duration | None
    where: Condition | str | None = None
    archive_to: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what breaks a rule."""
        self.microseconds  # noqa: B018 - it raises
        check_where(self.where)
        folder: object = self.archive_to
        if folder is None:
            return
        if not folder or not isinstance(folder, str | os.PathLike):
            raise InvalidOptionError(
                f"archive_to of a retention rule is {folder!r}: give a folder."
            )
        if self.keep is None:
            raise InvalidOptionError(
                f"archive_to of a retention rule is {folder!r}, and keep is None: what"
                " is kept for ever is not archived. Leave one of them out."
            )

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
        kept: so many stay though their time is over, by why: see `RunNeededError`; or
            "unreadable": they cannot be archived, as their log line says.
    """

    deleted: int = 0
    kept: dict[str, int] = {}


class Pace(NamedTuple):
    """How large the steps of a sweep are, and how long it rests after each.

    While a step is carried out, others wait to write.

    Attributes:
        seconds: that a step is to take: the next is larger or smaller by it.
        events_max: that one deletes with their runs, at most.
        rest: for so many times as long as a step took nothing is done after it.
    """

    seconds: float
    events_max: int
    rest: float


ALONE: Final = Pace(seconds=0.05, events_max=4_000, rest=0.1)
# A run that others wait for takes a few milliseconds.
BESIDE_OTHERS: Final = Pace(seconds=0.005, events_max=200, rest=8.0)


class Steps:
    """The steps of one sweep: each by how long the one before it took.

    That includes the waiting for others, so where they are many it takes less.
    """

    def __init__(self) -> None:
        """Begin small, as nobody knows how fast the database is."""
        self._events = BESIDE_OTHERS.events_max

    def size(self, pace: Pace) -> int:
        """Return how many events the next step may delete."""
        return min(self._events, pace.events_max)

    def took(self, seconds: float, pace: Pace) -> float:
        """Note how long the last step took; return how long to rest."""
        share = min(max(pace.seconds / max(seconds, 1e-6), 0.25), 2.0)
        self._events = max(1, round(self.size(pace) * share))
        return seconds * pace.rest


class _Term(NamedTuple):
    where: Condition | None
    kept_for: int | None
    archive_to: Path | None = None


class Terms(NamedTuple):
    """The rules of a namespace at some moment: the first that fits a run counts."""

    terms: list[_Term]

    @property
    def shortest(self) -> int | None:
        """What no run is deleted before, since it closed; None if none ever is."""
        ends = [term.kept_for for term in self.terms if term.kept_for is not None]
        return min(ends, default=None)

    def over_at(self, record: RunRecord) -> tuple[int, Path | None] | None:
        """Return when a closed run has been kept for long enough; None if never.

        With it comes the folder that it is to be archived in, if it is.
        """
        if record.closed_at is None:
            return None
        read = None
        for where, kept_for, archive_to in self.terms:
            if where is not None:
                read = read or reader_of(record)
                if not matches(where, read):
                    continue
            if kept_for is None:
                return None
            return record.closed_at + kept_for, archive_to
        return None


async def read_terms(
    store: Store, namespace: str, rules: Iterable[RetentionRule]
) -> Terms:
    """Read what rules a namespace has: an engine's own, then the days of its row.

    Raises:
        QuerySyntaxError: the text of a rule cannot be read.
        AttributeTypeError: an attribute has another type.
    """
    terms = [
        _Term(
            await read_condition(store, namespace, rule.where),
            rule.microseconds,
            None if rule.archive_to is None else Path(rule.archive_to),
        )
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
    say_since: Callable[[int | None], None] = lambda _: None,
) -> Swept:
    """Delete closed runs whose time is over.

    Args:
        store: an open store.
        namespace: whose runs.
        rules: those of an engine; the days of the namespace come after them.
        is_dry: delete nothing.
        is_busy: whether others have work: then it is `BESIDE_OTHERS`, or else `ALONE`.
        say_since: told since when the time of the runs that are next has been over, and
            None at the end.

    Raises:
        QuerySyntaxError, AttributeTypeError: a rule means nothing.
        ArchiveError: an archive cannot be written; nothing that it lacks is deleted.
        StoreError: the database refused.
    """
    terms = await read_terms(store, namespace, rules)
    deleted, kept = 0, Counter[str]()
    steps = Steps()
    async for since, over in _expired(store, namespace, terms):
        if is_dry:
            deleted += sum(map(len, over.values()))
            continue
        if over:
            say_since(since)
        for folder, runs in over.items():
            left = [run.run_id for run in runs]
            if folder is not None:
                left, needed = await archive(store, namespace, runs, folder)
                kept.update(needed)
            while left:
                pace = BESIDE_OTHERS if is_busy() else ALONE
                began = _now()
                step = DeleteRuns(run_ids=tuple(left), events_max=steps.size(pace))
                gone: Deleted = await store.perform(step)
                deleted += len(gone.run_ids)
                kept.update(need.value for need in gone.kept.values())
                left = [*gone.left]
                await asyncio.sleep(steps.took(_now() - began, pace))
    say_since(None)
    return Swept(deleted, dict(sorted(kept.items())))


async def _expired(
    store: Store, namespace: str, terms: Terms
) -> AsyncIterator[tuple[int, dict[Path | None, list[RunRecord]]]]:
    """Yield the runs whose time is over, a page after the other, and since when.

    They come by the folder that they are to be archived in.
    """
    shortest = terms.shortest
    if shortest is None:
        return
    now = store.now()
    after: tuple[int, str] | None = None
    while True:
        query = SearchRuns(namespace, None, _OLDEST_FIRST, after, STEP)
        page = await store.read(query)
        since, over = now, dict[Path | None, list[RunRecord]]()
        for run in page:
            end = terms.over_at(run)
            if end is not None and end[0] <= now:
                since = min(since, end[0])
                over.setdefault(end[1], []).append(run)
        yield since, over
        last = page[-1] if page else None
        if last is None or len(page) < STEP or last.closed_at is None:
            return
        if last.closed_at + shortest > now:
            return
        after = (last.closed_at, last.run_id)

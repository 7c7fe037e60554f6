"""Which runs are asked for: conditions, the text of queries, orders and cursors."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from durable import limits
from durable.client.descriptions.description import read_cursor, to_status
from durable.clock import from_datetime
from durable.core.history.ids import OWN_TYPES
from durable.errors import InvalidOptionError
from durable.options import check_id
from durable.search.conditions import (
    All,
    Attribute,
    Compare,
    Condition,
    check_condition,
    check_kinds,
    joined,
    leaves,
)
from durable.search.kinds import AttributeKind, give_back
from durable.search.orders import Order
from durable.search.query_text import parse
from durable.search.run_fields import ATTRIBUTE_FIELDS, RUN_FIELDS, Run, RunField
from durable.store.queries import (
    CountRuns,
    ReadAttributeKinds,
    RunCounts,
    SearchRuns,
)
from durable.store.records import PAUSED, STUCK
from durable.store.store import Store
from durable.suggestions import ending_with_closest

_GROUPED: Final[tuple[RunField, ...]] = (
    Run.status,
    Run.type,
    Run.queue,
    Run.version,
    Run.stuck,
)


_OWN: Final = Run.type.starts_with(OWN_TYPES)
_NOT_OWN: Final = ~_OWN
_NAMES: Final = frozenset(field.name for field in (Run.type, Run.id, Run.run_id))


class RunCount(msgspec.Struct, frozen=True):
    """How many runs there are.

    Attributes:
        total: so many were found.
        is_complete: False if there may be more: counting stops at a million runs, or
            at 100,000 that had to be looked at one by one.
        groups: how many there are of each value, the most first; None stands for runs
            that have none. A run counts for each text of a list.
    """

    total: int
    is_complete: bool
    groups: dict[Any, int] = {}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing was asked for; see `Engine.list`."""

    where: Condition | str | None = None
    parts: tuple[Condition, ...] = ()
    order_by: Order | None = None
    after: str | None = None
    limit: int = 100


def listing(
    *,
    where: Any,
    order_by: Any,
    status: Any,
    workflow_type: Any,
    workflow_id: Any,
    stuck: Any,
    limit: Any,
    started_before: Any,
    after: Any,
) -> Listing:
    """Check the arguments of a listing.

    Raises:
        InvalidOptionError, InvalidIdError: one has a wrong type or value.
    """
    parts: list[Condition] = []
    if status == STUCK:
        status, stuck = None, True
    if status == PAUSED:
        parts.append(Run.paused.compare("=", True))
    elif status is not None:
        parts.append(Run.status.compare("=", to_status(status).value))
    if workflow_type is not None:
        name = check_id(workflow_type, "the workflow's name")
        parts.append(Run.type.compare("=", name))
    if workflow_id is not None:
        parts.append(Run.id.compare("=", check_id(workflow_id, "the workflow id")))
    if stuck is not None:
        if not isinstance(stuck, bool):
            raise InvalidOptionError(f"stuck is {stuck!r}: give True, False or None.")
        parts.append(Run.stuck.compare("=", stuck))
    if started_before is not None:
        if getattr(started_before, "tzinfo", None) is None:
            raise InvalidOptionError(
                f"started_before is {started_before!r}: give a datetime with a time"
                " zone."
            )
        instant = from_datetime(started_before)
        parts.append(Compare(Run.started.name, True, "<", instant))
    if (
        not isinstance(limit, int)
        or isinstance(limit, bool)
        or not 1 <= limit <= limits.LIST_PAGE_MAX
    ):
        raise InvalidOptionError(
            f"limit is {limit!r}: give 1 to {limits.LIST_PAGE_MAX}."
        )
    if order_by is not None and not isinstance(order_by, Order):
        raise InvalidOptionError(
            f"order_by is {order_by!r}: give Run.started.ascending(), or"
            " Run.closed.descending()."
        )
    read_cursor_of(after, order_by or Order())
    return Listing(
        where=check_where(where),
        parts=tuple(parts),
        order_by=order_by,
        after=after,
        limit=limit,
    )


def check_where(where: Any) -> Condition | str | None:
    """Return what a caller asks for.

    Raises:
        InvalidOptionError: it is no condition, nor a text.
    """
    return where if where is None or isinstance(where, str) else check_condition(where)


def read_cursor_of(after: object, order: Order) -> tuple[int, str] | None:
    """Return where a listing goes on.

    Raises:
        InvalidOptionError: it is no cursor of such a listing.
    """
    if after is None:
        return None
    started_at, closed_at, run_id = read_cursor(after)
    instant = started_at if order.field == "StartTime" else closed_at
    if instant is None:
        raise InvalidOptionError(
            f"after is {after!r}, of a run that was open: a listing by CloseTime has"
            " only closed ones."
        )
    return instant, run_id


async def _resolve(
    store: Store, namespace: str, where: Condition | str | None
) -> tuple[Condition | None, Order | None]:
    if where is None:
        return None, None
    if isinstance(where, str):
        parsed = parse(where, await store.read(ReadAttributeKinds(namespace)))
        return parsed.where, parsed.order
    if not all(leaf.is_system for leaf in leaves(where)):
        check_kinds(where, await store.read(ReadAttributeKinds(namespace)))
    return where, None


async def read_condition(
    store: Store, namespace: str, where: Condition | str | None
) -> Condition | None:
    """Read what runs are chosen by; raises as `to_search`."""
    return (await _resolve(store, namespace, where))[0]


def _all_of(where: Condition | None, parts: tuple[Condition, ...]) -> Condition | None:
    found = (*parts, *joined(where))
    return All(found) if found else None


def _without_own(where: Condition | None) -> Condition:
    """Leave out runs of the library's own, such as schedules, unless they are named."""
    if where is None:
        return _NOT_OWN
    return where if _is_named(where) else All((*joined(where), _NOT_OWN))


def _is_named(where: Condition) -> bool:
    return any(leaf.is_system and leaf.field in _NAMES for leaf in leaves(where))


async def to_search(store: Store, namespace: str, asked: Listing) -> SearchRuns:
    """Turn what was asked for into a query of the store.

    Raises:
        QuerySyntaxError: the text cannot be read; it says where.
        AttributeTypeError: an attribute has another type.
    """
    where, order = await _resolve(store, namespace, asked.where)
    order = asked.order_by or order or Order()
    after = read_cursor_of(asked.after, order)
    wanted = _without_own(_all_of(where, asked.parts))
    return SearchRuns(namespace, wanted, order, after, asked.limit)


async def count_runs(
    store: Store,
    namespace: str,
    where: Condition | str | None,
    group_by: object,
    parts: tuple[Condition, ...] = (),
) -> RunCount:
    """Count runs; raises as `to_search`, and InvalidOptionError for the group."""
    found, _ = await _resolve(store, namespace, where)
    condition = _all_of(found, parts)
    if group_by is None:
        counts = await _count_listed(store, namespace, condition, None)
        return RunCount(counts.total, counts.is_complete)
    name, is_system, kind = await _group(store, namespace, group_by)
    counts = await _count_listed(store, namespace, condition, (name, is_system))
    groups = {
        None if kept is None else give_back(kind, kept): size
        for kept, size in counts.groups.items()
    }
    return RunCount(counts.total, counts.is_complete, groups)


async def _count_listed(
    store: Store,
    namespace: str,
    where: Condition | None,
    group_by: tuple[str, bool] | None,
) -> RunCounts:
    """Count what a listing shows.

    The library's own runs are taken off: a condition that leaves them out would have
    each run looked at, where an index alone tells how many there are.
    """
    counts = await store.read(CountRuns(namespace, where, group_by))
    if where is not None and _is_named(where):
        return counts
    own = await store.read(CountRuns(namespace, All((*joined(where), _OWN)), group_by))
    if not own.total:
        return counts
    groups = {
        key: size - own.groups.get(key, 0)
        for key, size in counts.groups.items()
        if size > own.groups.get(key, 0)
    }
    total = max(0, counts.total - own.total)
    return RunCounts(total, counts.is_complete and own.is_complete, groups)


async def _group(
    store: Store, namespace: str, group_by: object
) -> tuple[str, bool, AttributeKind]:
    kinds = await store.read(ReadAttributeKinds(namespace))
    group_by = ATTRIBUTE_FIELDS.get(str(group_by), group_by)
    if isinstance(group_by, Attribute):
        name, kind = group_by.name, kinds.get(group_by.name, group_by.kind.value)
        if kind != group_by.kind:
            check_kinds(group_by.is_null(), kinds)
    elif isinstance(group_by, RunField):
        name, kind = group_by.name, group_by.kind.value
    else:
        name = str(group_by)
        known = RUN_FIELDS.get(name)
        kind = kinds.get(name, "") if known is None else known.kind.value
    is_system = name in RUN_FIELDS
    names = [field.name for field in _GROUPED]
    if (is_system and name not in names) or kind in ("", AttributeKind.TEXT):
        raise InvalidOptionError(
            f"Runs are not counted by {name!r}: give {', '.join(names)}, or an"
            f" attribute that is no text{ending_with_closest(name, [*names, *kinds])}"
        )
    return name, is_system, AttributeKind(kind)

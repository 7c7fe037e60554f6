"""How a SQL store finds runs by a condition, in bounded time.

What must hold is tried by each index that fits one part of it: first a few rows of
each, then more. The one that is rare, or the one that nearly all meet, is soon through;
which of them that is need not be known. Rows that were walked are bounded, whatever
the planner of the database believes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from durable import limits
from durable.errors import QueryTooBroadError
from durable.search.conditions import (
    Among,
    Compare,
    Condition,
    IsNull,
    Not,
    OneOf,
    StartsWith,
    joined,
)
from durable.search.orders import Order
from durable.search.run_fields import STATUSES, Run
from durable.store.queries import CountRuns, RunCounts, SearchRuns
from durable.store.sql import conditions, salvage, statements
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import (
    ATTRIBUTES,
    COLLATIONS,
    LONG_MICROSECONDS,
    PARTIAL,
    RUNS,
    USUAL_QUEUE,
    is_later_in_chain,
    is_long,
    is_unusual_queue,
    listed_namespace,
    listed_queue,
    listed_status,
    listed_type,
    listed_version,
    unlisted_namespace,
)

if TYPE_CHECKING:
    from durable.search.kinds import Kept
    from durable.store.database import Session
    from durable.store.records import RunRecord
    from durable.store.sql.conditions import Clause

_BUDGETS: Final = (1_000, 10_000, limits.QUERY_WALKED_MAX)
_WAYS_MAX: Final = 5
_Leaf = Compare | Among | StartsWith


class _Way(NamedTuple):
    """One index that leads to runs.

    Attributes:
        table: what is walked: runs, or attributes.
        clauses: what is walked of it.
        by: the name of the index, for databases that must be told.
        is_ordered: it comes in the order of the listing.
        covers: the parts of the condition that hold for all that it leads to.
        rank: the lower, the fewer runs it leads to as a rule.
        arms: one of these holds, each for other runs, and each has its own index.
    """

    table: sa.Table
    clauses: tuple[Clause, ...]
    by: str
    is_ordered: bool
    covers: tuple[Condition, ...]
    rank: int
    arms: tuple[Clause, ...] = ()


# --- which ways there are -------------------------------------------------------------


def _ways(
    session: Session, namespace: str, parts: Sequence[Condition], order: Order
) -> list[_Way]:
    has_partial = session.connection.dialect.name not in COLLATIONS
    by_start = order.field == "StartTime"
    times = [
        part
        for part in parts
        if isinstance(part, Compare) and part.is_system and part.field == "StartTime"
    ]
    found = [
        way
        for part in parts
        for way in _ways_of(namespace, part, times if by_start else [])
        if has_partial or way.by not in PARTIAL
    ]
    found.sort(key=lambda way: way.rank)
    if not by_start:
        found = [way._replace(is_ordered=False) for way in found]
    closed = [p for p in parts if isinstance(p, Compare) and p.field == "CloseTime"]
    bounds = times if by_start else closed
    column = RUNS.c.started_at if by_start else RUNS.c.closed_at
    clauses = [conditions.compared(column, bound) for bound in bounds]
    if not by_start:
        clauses.append(column.is_not(None))
    found = found[:_WAYS_MAX]
    name = "durable_runs_started_at" if by_start else "durable_runs_closed_at"
    whole = (listed_namespace == namespace, *clauses)
    return [*found, _Way(RUNS, whole, name, True, tuple(bounds), 9)]


def _ways_of(
    namespace: str, part: Condition, times: Sequence[Compare]
) -> Iterator[_Way]:
    """Yield the index that leads to all runs that a condition holds for."""
    if isinstance(part, OneOf):
        yield from _ways_of_any(namespace, part)
        return
    if not isinstance(part, _Leaf):
        return
    is_equal = isinstance(part, Compare) and part.how == "="
    covers = (part, *times) if is_equal else (part,)
    if not part.is_system:
        value = conditions.of_attributes(part)
        column = conditions.value_column(part).name
        clauses = [
            ATTRIBUTES.c.namespace == namespace,
            ATTRIBUTES.c.name == part.field,
            value,
        ]
        if is_equal:
            clauses += [
                conditions.compared(ATTRIBUTES.c.started_at, time) for time in times
            ]
        index = f"durable_attributes_{column}"
        rank = 3 if is_equal else 4
        yield _Way(ATTRIBUTES, tuple(clauses), index, is_equal, covers, rank)
        return
    yield from _ways_of_runs(namespace, part, times if is_equal else [])


def _ways_of_runs(
    namespace: str, part: _Leaf, times: Sequence[Compare]
) -> Iterator[_Way]:
    is_equal = isinstance(part, Compare) and part.how == "="
    clauses: tuple[Clause, ...]
    if part.field in ("Stuck", "Paused") and is_equal and part == _yes(part.field):
        stuck = conditions.stuck_clause(is_paused=part.field == "Paused")
        is_open = RUNS.c.open_key.is_not(None)
        clauses = (RUNS.c.namespace == namespace, stuck, is_open)
        yield _Way(RUNS, clauses, "durable_runs_stuck", False, (part,), 2)
    if part.field == "CloseTime":
        clauses = (listed_namespace == namespace, *_closed(part))
        yield _Way(RUNS, clauses, "durable_runs_closed_at", False, (part,), 5)
    if part.field == "ExecutionDuration" and _asks_for_long(part):
        # Whoever took long, in the order of starting; each is looked at.
        clauses = (listed_namespace == namespace, is_long)
        yield _Way(RUNS, clauses, "durable_runs_duration", True, (), 5)
    if part.field in ("RootRunId", "FirstRunId") and is_equal:
        yield _way_to_family(namespace, part)
    known = _SYSTEM.get(part.field)
    if known is None or (isinstance(part, Compare) and not is_equal):
        return
    if part.field == "TaskQueue" and _asks_for_usual_queue(part):
        return
    column, index, rank = known
    value = conditions.compared(column, part)
    if part.field in _HAVE:
        value = sa.and_(_HAVE[part.field], value)
    if rank == 0:
        # Of these there are few: no planner is to walk the namespace instead.
        clauses = (sa.literal("").concat(unlisted_namespace) == namespace, value)
        yield _Way(RUNS, clauses, index, False, (part,), rank)
        return
    bounds = [conditions.compared(RUNS.c.started_at, time) for time in times]
    clauses = (RUNS.c.namespace == namespace, value, *bounds)
    yield _Way(RUNS, clauses, index, is_equal, (part, *times), rank)


def _asks_for_long(part: _Leaf) -> bool:
    if not isinstance(part, Compare) or isinstance(part.value, str):
        return False
    return part.how in ("=", ">", ">=") and part.value >= LONG_MICROSECONDS


def _asks_for_usual_queue(part: _Leaf) -> bool:
    match part:
        case Compare(value=value):
            return value == USUAL_QUEUE
        case Among(values=values):
            return USUAL_QUEUE in values
        case StartsWith(prefix=prefix):
            return USUAL_QUEUE.startswith(prefix)


def _way_to_family(namespace: str, part: _Leaf) -> _Way:
    """The index of those below a root, and of those that it went on as.

    Those of a chain are only the latter.
    """
    column = RUNS.c.root_run_id
    first = conditions.compared(RUNS.c.first_run_id, part)
    itself = sa.and_(conditions.compared(RUNS.c.run_id, part), first)
    arms: tuple[Clause, ...] = (itself, sa.and_(is_later_in_chain, first))
    name = "durable_runs_first"
    if part.field == "RootRunId":
        below = sa.and_(column.is_not(None), conditions.compared(column, part))
        arms = (below, *(sa.and_(arm, column.is_(None)) for arm in arms))
        name = "durable_runs_root"
    of_namespace = sa.literal("").concat(unlisted_namespace) == namespace
    return _Way(RUNS, (of_namespace,), name, False, (part,), 0, arms)


def _yes(field: str) -> Compare:
    return Compare(field, is_system=True, how="=", value=1)


def _closed(part: _Leaf) -> tuple[Clause, Clause]:
    column = RUNS.c.closed_at
    return column.is_not(None), conditions.compared(column, part)


_SYSTEM: Final[dict[str, tuple[sa.ColumnElement[Any], str, int]]] = {
    "RunId": (RUNS.c.run_id, "PRIMARY", 0),
    "ParentRunId": (RUNS.c.parent_run_id, "durable_runs_parent", 0),
    "WorkflowId": (RUNS.c.workflow_id, "durable_runs_workflow_id", 1),
    "WorkflowType": (listed_type, "durable_runs_type", 6),
    "ExecutionStatus": (listed_status, "durable_runs_status", 7),
    "TaskQueue": (listed_queue, "durable_runs_queue", 6),
    "Version": (listed_version, "durable_runs_version", 6),
    "ParentWorkflowId": (RUNS.c.parent_workflow_id, "durable_runs_parent_id", 2),
}
# As the indexes of such runs have it.
_HAVE: Final[dict[str, Clause]] = {
    "TaskQueue": is_unusual_queue,
    "Version": RUNS.c.version.is_not(None),
    "ParentWorkflowId": RUNS.c.parent_workflow_id.is_not(None),
}


def _ways_of_any(namespace: str, part: OneOf) -> Iterator[_Way]:
    """Yield where to find runs that one of several conditions on attributes holds for.

    Nothing else: what is told by several columns of one table is no index's.
    """
    found = [one for one in part.parts if isinstance(one, _Leaf) and not one.is_system]
    names = {leaf.field for leaf in found}
    if len(names) != 1 or len(found) < len(part.parts):
        return
    values = [conditions.of_attributes(leaf) for leaf in found]
    columns = {conditions.value_column(leaf) for leaf in found}
    clauses = (
        ATTRIBUTES.c.namespace == namespace,
        ATTRIBUTES.c.name == names.pop(),
        sa.or_(*values),
    )
    index = f"durable_attributes_{columns.pop().name}"
    yield _Way(ATTRIBUTES, clauses, index, False, (part,), 4)


def _select(way: _Way) -> Any:
    """The run ids that a way leads to."""
    statement = _hinted(sa.select(way.table.c.run_id), way).where(*way.clauses)
    if way.arms:
        return sa.union_all(*(statement.where(arm) for arm in way.arms))
    return statement


def _hinted(statement: Any, way: _Way) -> Any:
    hint = f"FORCE INDEX ({way.by})"
    for dialect in ("mariadb", "mysql"):
        statement = statement.with_hint(way.table, hint, dialect)
    return statement


def _each_once(walk: sa.Subquery, way: _Way) -> sa.Subquery:
    """Return each run of a walk once: a list has many values that may be asked for.

    Not by the walk itself, which would then go by another index.
    """
    if way.table is not ATTRIBUTES or way.is_ordered:
        return walk
    return sa.select(walk.c.run_id).distinct().subquery("runs_once")


# --- pages ----------------------------------------------------------------------------


class _Search:
    def __init__(self, session: Session, query: SearchRuns) -> None:
        self._session = session
        self._query = query
        self._order = query.order
        self._is_by_start = query.order.field == "StartTime"
        self._limit = max(0, min(query.limit, limits.LIST_PAGE_MAX))
        self._parts = joined(query.where)

    def find(self) -> list[RunRecord]:
        if not self._limit:
            return []
        ways = _ways(self._session, self._query.namespace, self._parts, self._order)
        for budget in _BUDGETS:
            for way in ways:
                found = self._try(way, budget)
                if found is not None:
                    return [salvage.salvage_run(row) for row in found]
        raise too_broad(self._parts)

    def _try(self, way: _Way, budget: int) -> list[Any] | None:
        """Read the page by one way; None if that takes more steps than these."""
        left = [part for part in self._parts if part not in way.covers]
        if way.is_ordered and way.table is RUNS and not left:
            statement = _hinted(sa.select(*statements.RUN_COLUMNS), way)
            statement = statement.where(*way.clauses, *self._after(RUNS))
            return self._fetch(self._sorted(statement, RUNS).limit(self._limit))
        steps = self._limit if way.is_ordered and not left else budget
        walk = self._walk(way, steps)
        page = self._fetch(self._page(_each_once(walk, way), way, left))
        if len(page) == self._limit and way.is_ordered:
            return page
        ((walked,),) = self._fetch(sa.select(sa.func.count()).select_from(walk))
        return page if walked < steps else None

    def _walk(self, way: _Way, steps: int) -> sa.Subquery:
        table = way.table
        statement = _select(way)
        if way.is_ordered:
            statement = self._sorted(statement.where(*self._after(table)), table)
        return statement.limit(steps).subquery("steps")  # type: ignore[no-any-return]  # a select it is

    def _page(
        self, walk: sa.Subquery, way: _Way, left: list[Condition]
    ) -> sa.Select[Any]:
        statement = (
            sa.select(*statements.RUN_COLUMNS)
            .select_from(walk)
            .join(RUNS, RUNS.c.run_id == walk.c.run_id)
            .where(*map(conditions.clause_of, left))
        )
        if not way.is_ordered:
            statement = statement.where(*self._after(RUNS))
            if not self._is_by_start:
                statement = statement.where(RUNS.c.closed_at.is_not(None))
        page: sa.Select[Any] = self._sorted(statement, RUNS).limit(self._limit)
        return page

    def _instant(self, table: sa.Table) -> sa.Column[Any]:
        return table.c.started_at if self._is_by_start else table.c.closed_at

    def _after(self, table: sa.Table) -> list[Clause]:
        if self._query.after is None:
            return []
        at, run_id = self._query.after
        instant, runs = self._instant(table), table.c.run_id
        # The first condition alone tells where in the index the page begins.
        if self._order.is_descending:
            return [instant <= at, sa.or_(instant < at, runs < run_id)]
        return [instant >= at, sa.or_(instant > at, runs > run_id)]

    def _sorted(self, statement: Any, table: sa.Table) -> Any:
        keys = (self._instant(table), table.c.run_id)
        if self._order.is_descending:
            return statement.order_by(*(key.desc() for key in keys))
        return statement.order_by(*keys)

    def _fetch(self, statement: Any) -> list[Any]:
        return fetch(self._session, statement)


def too_broad(parts: Sequence[Condition]) -> QueryTooBroadError:
    """Return the error of a query that no index helps with."""
    names = sorted({leaf.field for part in parts for leaf in _fields_of(part)})
    return QueryTooBroadError(
        f"The query was given up after {limits.QUERY_WALKED_MAX:,} runs: no index tells"
        f" the runs that it asks for by {', '.join(names)} from all others.",
        hint="Narrow it by = of an attribute or of what all runs have, such as"
        " WorkflowType, ExecutionStatus or WorkflowId, or by a range of StartTime.",
    )


def _fields_of(part: Condition) -> Iterator[_Leaf | IsNull]:
    match part:
        case Not(inner):
            yield from _fields_of(inner)
        case OneOf(parts):
            for one in parts:
                yield from _fields_of(one)
        case Compare() | Among() | StartsWith() | IsNull():
            yield part
        case _:
            for one in joined(part):
                if one is not part:
                    yield from _fields_of(one)


def search(session: Session, query: SearchRuns) -> list[RunRecord]:
    """Read a page of runs.

    Raises:
        QueryTooBroadError: no index tells these runs from so many others.
    """
    with _at_one_instant(session):
        return _Search(session, query).find()


@contextlib.contextmanager
def _at_one_instant(session: Session) -> Generator[None]:
    """Read in a transaction, which also says how PostgreSQL is to find rows."""
    session.begin_reading()
    try:
        yield
    finally:
        session.rollback()


# --- counts ---------------------------------------------------------------------------


def count(session: Session, query: CountRuns) -> RunCounts:
    """Count runs; as many as may be looked at."""
    with _at_one_instant(session):
        return _count_runs(session, query)


def _count_runs(session: Session, query: CountRuns) -> RunCounts:
    parts = joined(query.where)
    if query.group_by == (Run.status.name, True) and not parts:
        return _count_by_status(session, query)
    ways = _ways(session, query.namespace, parts, Order())
    best = RunCounts(0, False)
    for budget in _BUDGETS:
        for way in ways:
            left = [part for part in parts if part not in way.covers]
            is_plain = not left and query.group_by is None
            steps = limits.COUNT_MAX if is_plain else budget
            found = _count(session, query, way, left, steps)
            if found.is_complete or is_plain:
                return found
            best = max(best, found, key=lambda counts: counts.total)
    return best


def _count_by_status(session: Session, query: CountRuns) -> RunCounts:
    """Count by the index of each status, which takes no look at any run."""
    by_status = {
        status: _count_runs(
            session, CountRuns(query.namespace, Run.status.compare("=", status))
        )
        for status in STATUSES
    }
    groups: dict[Kept | None, int] = {
        status: found.total for status, found in by_status.items() if found.total
    }
    is_complete = all(found.is_complete for found in by_status.values())
    return RunCounts(sum(groups.values()), is_complete, groups)


def _count(
    session: Session, query: CountRuns, way: _Way, left: list[Condition], steps: int
) -> RunCounts:
    steps_taken = _select(way).limit(steps).subquery("steps")
    ((reached,),) = fetch(session, sa.select(sa.func.count()).select_from(steps_taken))
    walk = _each_once(steps_taken, way)
    if not left and query.group_by is None and walk is steps_taken:
        return RunCounts(reached, reached < steps)
    joins: Any = walk.join(RUNS, RUNS.c.run_id == walk.c.run_id)
    keys: list[sa.ColumnElement[Any]] = []
    if query.group_by is not None:
        name, is_system = query.group_by
        if is_system:
            keys = [conditions.system_column(name)]
        else:
            mine = sa.and_(
                ATTRIBUTES.c.run_id == RUNS.c.run_id, ATTRIBUTES.c.name == name
            )
            joins = joins.outerjoin(ATTRIBUTES, mine)
            keys = [ATTRIBUTES.c.keyword, ATTRIBUTES.c.number]
    amount = sa.func.count(sa.distinct(RUNS.c.run_id))
    clauses = [*map(conditions.clause_of, left)]
    whole = sa.select(amount).select_from(joins).where(*clauses)
    ((total,),) = fetch(session, whole)
    groups: dict[Any, int] = {}
    if keys:
        grouped = sa.select(*keys, amount).select_from(joins).where(*clauses)
        grouped = grouped.group_by(*keys).order_by(amount.desc(), *keys)
        for *values, size in fetch(session, grouped.limit(limits.COUNT_GROUPS_MAX)):
            key = next((value for value in values if value is not None), None)
            groups[key] = size
    return RunCounts(total, reached < steps, groups)

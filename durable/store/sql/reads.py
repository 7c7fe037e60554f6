"""Everything that a SQL store reads: each query's handler, and groups of queries.

Queries of one kind that come together are answered together; where many callers ask
the same of their runs, it takes no more statements than one would.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from durable.errors import CorruptHistoryError
from durable.store import queries
from durable.store.deciding import policies
from durable.store.queries import RunNews, UnownedRun, VersionCount, sort_versions
from durable.store.records import NEVER, LoadedRun
from durable.store.sql import outbox, salvage, searching, statements
from durable.store.sql.backlog import backlog
from durable.store.sql.fetching import fetch
from durable.store.sql.tasks import at_rest, run_turns, task_reads
from durable.store.sql.tasks import statements as task_statements

if TYPE_CHECKING:
    from durable.store.database import Session
    from durable.store.queries import Query
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        NamespaceRecord,
        RunRecord,
        WorkerRecord,
    )

# The lists of ids must stay below every database's limit on parameters.
_IDS_PER_STATEMENT: Final = 500
_RUN_ID_OF_MESSAGE: Final = salvage.MESSAGE_FIELDS.index("run_id")
_RUN_ID_OF_ATTEMPT: Final = salvage.ATTEMPT_FIELDS.index("run_id")
_Record = TypeVar("_Record")


def _pages(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield list(ids[start : start + _IDS_PER_STATEMENT])


def _loaded(session: Session, query: queries.LoadRuns) -> list[LoadedRun]:
    session.begin_reading()
    try:
        loaded: dict[str, LoadedRun] = {}
        for page in _pages(query.run_ids):
            _load(session, page, loaded)
    finally:
        session.rollback()
    return [loaded[run_id] for run_id in query.run_ids if run_id in loaded]


def _load(session: Session, run_ids: list[str], loaded: dict[str, LoadedRun]) -> None:
    found = fetch(session, task_statements.LOAD_RUNS, run_ids=run_ids)
    records = [salvage.salvage_run(row[:-1]) for row in found]
    for run in records:
        loaded[run.run_id] = LoadedRun(
            record=run, rows=[], messages=[], attempts=[], tasks={}
        )
    whole = [run.run_id for run in records if run.checkpoint_event_id <= 1]
    partly = [run.run_id for run in records if run.checkpoint_event_id > 1]
    whole = _load_packed(session, whole, loaded)
    _load_rows(session, statements.LOAD_HISTORY, whole, loaded)
    _load_rows(session, statements.LOAD_FIRST_ROWS, partly, loaded)
    _load_rows(session, statements.LOAD_HISTORY_FROM_CHECKPOINT, partly, loaded)
    for row in fetch(session, statements.LOAD_MESSAGES, run_ids=run_ids):
        run_id = row[_RUN_ID_OF_MESSAGE]
        message = _salvage(loaded, run_id, salvage.to_message, row)
        if message is not None:
            loaded[run_id].messages.append(message)
    for row in fetch(session, statements.LOAD_ATTEMPTS, run_ids=run_ids):
        run_id = row[_RUN_ID_OF_ATTEMPT]
        attempt = _salvage(loaded, run_id, salvage.to_attempt, row)
        if attempt is not None:
            loaded[run_id].attempts.append(attempt)
    if any(row[-1] for row in found):
        for run_id, tasks in task_reads.find_states(session, run_ids).items():
            loaded[run_id].tasks.update(tasks)


def _salvage(
    loaded: dict[str, LoadedRun],
    run_id: str,
    convert: Callable[[Sequence[Any]], _Record],
    row: Sequence[Any],
) -> _Record | None:
    """Build a record of a run; if its row cannot be read, say so there."""
    if run_id not in loaded:
        return None
    try:
        return convert(row)
    except CorruptHistoryError as error:
        _damage(loaded, run_id, error.message)
        return None


def _damage(loaded: dict[str, LoadedRun], run_id: str, damage: str) -> None:
    run = loaded[run_id]
    if run.record.damage is None:
        record = msgspec.structs.replace(run.record, damage=damage)
        loaded[run_id] = msgspec.structs.replace(run, record=record)


def _load_packed(
    session: Session, run_ids: list[str], loaded: dict[str, LoadedRun]
) -> list[str]:
    """Read whole histories, each as one row; return whose must be read row by row.

    They are those that hold anything out of order, which is then told as it always is.
    """
    if not run_ids or not session.packs_rows:
        return run_ids
    try:
        packed = fetch(session, statements.LOAD_PACKED_HISTORY, run_ids=run_ids)
    except Exception:  # noqa: BLE001 - too large to be one text, or it is raised again
        return run_ids
    for row in packed:
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            loaded[row[0]].rows.extend(_unpack(*row))
    return [run_id for run_id in run_ids if not loaded[run_id].rows]


_read_numbers: Final = msgspec.json.Decoder(list[int]).decode


def _unpack(
    run_id: str,
    count: int,
    first: int,
    last: int,
    sum_of_ids: int,
    flags: int,
    highest_flags: int,
    *texts: str,
) -> Iterator[HistoryRow]:
    """Take a packed history apart.

    Raises:
        TypeError, ValueError, AttributeError: it is not as this library writes it.
    """
    numbers = _read_numbers(f"[{texts[0]}]")
    times = _read_numbers(f"[{texts[1]}]")
    kinds, data = texts[2].split(","), texts[3].split(statements.PACKED_SEPARATOR)
    is_plain = (
        # All different, so that they are the numbers from the first to the last.
        (last - first + 1 == count and 2 * sum_of_ids == (first + last) * count)
        and len(numbers) == len(times) == len(kinds) == len(data) == count
        and type(flags) is int
        and flags == highest_flags
        # Times never fall along a run: they are in order of the events.
        and times == sorted(times)
    )
    if not is_plain:
        raise ValueError("it has to be read row by row")
    return zip(
        itertools.repeat(run_id),
        range(first, last + 1),
        numbers,
        kinds,
        times,
        data,
        itertools.repeat(flags),
        strict=False,
    )


def _load_rows(
    session: Session, statement: Any, run_ids: list[str], loaded: dict[str, LoadedRun]
) -> None:
    if run_ids:
        rows: list[HistoryRow] = fetch(session, statement, run_ids=run_ids)
        for run_id, group in itertools.groupby(rows, key=itemgetter(0)):
            loaded[run_id].rows.extend(group)


def _messages(session: Session, asked: Sequence[Question]) -> list[list[MessageRecord]]:
    """Read the messages of all runs that are asked for: many wake at one time."""
    found: dict[str, list[MessageRecord]] = {q.query.run_id: [] for q in asked}
    for page in _pages(list(found)):
        for row in fetch(session, statements.LOAD_MESSAGES, run_ids=page):
            message = salvage.to_message(row)
            found[message.run_id].append(message)
    return [[*found[question.query.run_id]] for question in asked]


def _reply(session: Session, query: queries.ReadReply) -> str | None:
    key = {"run_id": query.run_id, "request_id": query.request_id}
    rows = fetch(session, statements.READ_REPLY, **key)
    return rows[0][0] if rows else None


def _news(session: Session, asked: Sequence[Question]) -> list[list[RunNews]]:
    """Read what is new of all runs that are asked for, at one instant."""
    wanted: list[Sequence[str]] = [question.query.run_ids for question in asked]
    run_ids = list(dict.fromkeys(itertools.chain(*wanted)))
    session.begin_reading()
    try:
        found = {
            one.run_id: one
            for page in _pages(run_ids)
            for one in _read_page_of_news(session, page)
        }
    finally:
        session.rollback()
    return [[found[i] for i in ids if i in found] for ids in wanted]


def _read_page_of_news(session: Session, run_ids: list[str]) -> Iterator[RunNews]:
    replies: dict[str, list[str]] = {}
    for run_id, request_id in fetch(session, statements.FIND_REPLIES, run_ids=run_ids):
        replies.setdefault(run_id, []).append(request_id)
    for row in fetch(session, statements.READ_NEWS, run_ids=run_ids):
        run_id, is_open, is_stuck, last = row[:4]
        yield RunNews(
            run_id=run_id,
            is_open=bool(is_open),
            is_stuck=bool(is_stuck),
            last_event_id=last or 0,
            replies=tuple(sorted(replies.get(run_id, ()))),
            last_row=None if row[4] is None else row[4:],
        )


def read_rows(session: Session, run_id: str, after: int = 0) -> list[HistoryRow]:
    """Read a run's rows after a position."""
    return fetch(session, statements.READ_HISTORY, run_id=run_id, after=after)


def has_row(session: Session, row: HistoryRow) -> bool:
    """Tell whether it was committed: the group of a row is, as a whole, or nothing."""
    run_id, event_id, _, _, instant, data, _ = row
    found = fetch(session, statements.FIND_EVENT, run_id=run_id, event_id=event_id)
    # Another worker that drove the run meanwhile wrote the same, but later.
    return found == [(instant, data)]


def _history(session: Session, query: queries.ReadHistory) -> list[HistoryRow]:
    statement = statements.READ_HISTORY
    if query.limit is not None:
        statement = statement.limit(query.limit)
    return fetch(session, statement, run_id=query.run_id, after=query.after_event_id)


def _attempts(session: Session, query: queries.ReadAttempts) -> list[AttemptRecord]:
    rows = fetch(session, statements.LOAD_ATTEMPTS, run_ids=[query.run_id])
    return [salvage.to_attempt(row) for row in rows]


def _found(session: Session, asked: Sequence[Question]) -> list[RunRecord | None]:
    """Find all runs that are asked for."""
    wanted: list[queries.FindRun] = [question.query for question in asked]
    found: dict[queries.FindRun, RunRecord] = {}
    for page in _pages([query.run_id for query in wanted if query.run_id]):
        for row in fetch(session, statements.LOAD_RUNS, run_ids=page):
            run = salvage.salvage_run(row)
            found[queries.FindRun(run.namespace, run.workflow_id, run.run_id)] = run
    for namespace in {query.namespace for query in wanted if query.run_id is None}:
        left = {q.workflow_id for q in wanted if q.namespace == namespace}
        # Of each the open run, or else the newest.
        for statement in (statements.FIND_OPEN_RUNS, statements.FIND_NEWEST_RUNS):
            for page in _pages(sorted(left)):
                for workflow_id, *row in fetch(
                    session, statement, namespace=namespace, workflow_ids=page
                ):
                    key = queries.FindRun(namespace, workflow_id)
                    found[key] = salvage.salvage_run(row)
                    left.discard(workflow_id)
    return [found.get(query) for query in wanted]


def _started(session: Session, query: queries.FindStarted) -> RunRecord | None:
    key = {"namespace": query.namespace, "request_id": query.request_id}
    rows = fetch(session, outbox.FIND_STARTED, **key)
    return salvage.salvage_run(rows[0]) if rows else None


def _listed(session: Session, query: queries.ListRuns) -> list[RunRecord]:
    page = policies.page_size(query.where)
    statement = statements.list_runs(query.namespace, query.where, page)
    return [salvage.salvage_run(row) for row in fetch(session, statement)]


# --- what a worker looks for ----------------------------------------------------------


def _due(session: Session, query: queries.FindDueRuns, owner: str) -> list[str]:
    page = max(query.limit, 0)
    key = {"myself": owner, "until": query.until, "page": page}
    rows = fetch(session, statements.DUE_RUNS, **key)
    return [run_id for (run_id,) in rows if isinstance(run_id, str)]


def _mailed(session: Session, query: queries.FindMailedRuns, owner: str) -> list[str]:
    page = max(query.limit, 0)
    rows = fetch(session, statements.MAILED_RUNS, myself=owner, page=page)
    return [run_id for (run_id,) in rows if isinstance(run_id, str)]


def _closed(session: Session, query: queries.FindClosedRuns) -> list[str]:
    still_open: set[str] = set()
    for page in _pages(query.run_ids):
        rows = fetch(session, statements.OPEN_RUNS, run_ids=page)
        still_open.update(run_id for (run_id,) in rows)
    return [run_id for run_id in query.run_ids if run_id not in still_open]


def _next_wake_up(
    session: Session, query: queries.FindNextWakeUp, worker: WorkerRecord
) -> int | None:
    where = {
        "namespace": worker.namespace,
        "task_queue": worker.task_queue,
        "workflow_types": list(query.workflow_types),
        "versions": statements.served(query.versions),
    }
    own = fetch(session, statements.NEXT_OWN_WAKE_AT, myself=worker.worker_id)
    found = [at for (at,) in own] + at_rest.find_next(session, worker, where)
    return min(
        (at for at in found if isinstance(at, int) and at != NEVER), default=None
    )


def _stuck(
    session: Session, query: queries.FindStuckRuns, worker: WorkerRecord
) -> list[str]:
    rows = fetch(
        session,
        statements.FIND_STUCK,
        namespace=worker.namespace,
        task_queue=worker.task_queue,
        workflow_types=list(query.workflow_types),
        versions=statements.served(query.versions),
        after=query.after,
        page=max(query.limit, 0),
    )
    return [run_id for run_id, _ in rows if isinstance(run_id, str)]


def _unowned(session: Session, query: queries.FindUnowned) -> list[UnownedRun]:
    key = {"namespace": query.namespace, "until": query.until, "page": query.limit}
    rows = fetch(session, statements.UNOWNED_RUNS, **key)
    return [
        UnownedRun(
            _as_text(run_id),
            _as_text(workflow_id),
            _as_text(kind),
            _as_text(queue),
            None if version is None else _as_text(version),
            wake_at,
        )
        for run_id, workflow_id, kind, queue, version, wake_at in rows
    ]


def _due_versions(
    session: Session, query: queries.FindDueVersions, worker: WorkerRecord
) -> list[tuple[str, str]]:
    until = {"until": query.until}
    return _versions(session, statements.DUE_VERSIONS, query, worker, **until)


def _stuck_versions(
    session: Session, query: queries.FindStuckVersions, worker: WorkerRecord
) -> list[tuple[str, str]]:
    return _versions(session, statements.STUCK_VERSIONS, query, worker)


def _versions(
    session: Session,
    statement: Any,
    query: queries.FindDueVersions | queries.FindStuckVersions,
    worker: WorkerRecord,
    **more: int,
) -> list[tuple[str, str]]:
    rows = fetch(
        session,
        statement,
        namespace=worker.namespace,
        task_queue=worker.task_queue,
        workflow_types=list(query.workflow_types),
        **more,
    )
    return sorted((_as_text(kind), _as_text(version)) for kind, version in rows)


def _count_versions(
    session: Session, query: queries.CountVersions
) -> list[VersionCount]:
    rows = fetch(session, statements.COUNT_VERSIONS, namespace=query.namespace)
    return sort_versions(
        VersionCount(
            _as_text(kind), None if version is None else _as_text(version), runs, oldest
        )
        for kind, version, runs, oldest in rows
    )


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _namespaces(session: Session, _: queries.ListNamespaces) -> list[str]:
    # From one to the next, by the index.
    found: list[str] = []
    after: Any = ""
    while after is not None:
        ((after,),) = fetch(session, statements.NEXT_NAMESPACE, after=after)
        if after is not None:
            found.append(_as_text(after))
    return found


def _kinds(session: Session, query: queries.ReadAttributeKinds) -> dict[str, str]:
    rows = fetch(session, statements.READ_KINDS, namespace=query.namespace)
    return dict(rows)


def _created_namespaces(
    session: Session, query: queries.ReadNamespaces
) -> list[NamespaceRecord]:
    if query.namespace is None:
        rows = fetch(session, statements.READ_NAMESPACES)
    else:
        asked = query.namespace
        rows = fetch(session, statements.READ_NAMESPACE, namespace=asked)
    return [salvage.to_namespace(row) for row in rows]


def _workers(session: Session, _: queries.ListWorkers) -> list[WorkerRecord]:
    rows = fetch(session, statements.LIST_WORKERS)
    return [salvage.salvage_worker(row) for row in rows]


def _owned(session: Session, _: queries.CountOwnedRuns) -> dict[str, int]:
    rows = fetch(session, statements.COUNT_OWNED_RUNS)
    return {_as_text(owner): count for owner, count in rows}


# --- groups ---------------------------------------------------------------------------


class Question(NamedTuple):
    """A query, and the worker of the store that asks it."""

    query: Any
    worker: WorkerRecord | None


_Handler: TypeAlias = Callable[["Session", Sequence[Question]], list[Any]]


def _each(handler: Callable[[Session, Any], Any]) -> _Handler:
    return lambda session, asked: [handler(session, query) for query, _ in asked]


def _own(handler: Callable[[Session, Any, str], Any]) -> _Handler:
    # No worker has the empty id, so without one nothing is found.
    return lambda session, asked: [
        handler(session, query, "" if worker is None else worker.worker_id)
        for query, worker in asked
    ]


_HANDLERS: Final[dict[type[Query[Any]], _Handler]] = {
    queries.LoadRuns: _each(_loaded),
    queries.ReadMessages: _messages,
    queries.ReadReply: _each(_reply),
    queries.ReadNews: _news,
    queries.ReadHistory: _each(_history),
    queries.ReadAttempts: _each(_attempts),
    queries.FindRun: _found,
    queries.FindStarted: _each(_started),
    queries.ListRuns: _each(_listed),
    queries.SearchRuns: _each(searching.search),
    queries.CountRuns: _each(searching.count),
    queries.ReadAttributeKinds: _each(_kinds),
    queries.ReadNamespaces: _each(_created_namespaces),
    queries.ReadQueues: _each(task_reads.configured),
    queries.FindDueRuns: _own(_due),
    queries.FindMailedRuns: _own(_mailed),
    queries.FindClosedRuns: _each(_closed),
    queries.FindNextWakeUp: lambda session, asked: [
        None if worker is None else _next_wake_up(session, query, worker)
        for query, worker in asked
    ],
    queries.FindStuckRuns: lambda session, asked: [
        [] if worker is None else _stuck(session, query, worker)
        for query, worker in asked
    ],
    queries.FindDueVersions: lambda session, asked: [
        [] if worker is None else _due_versions(session, query, worker)
        for query, worker in asked
    ],
    queries.FindStuckVersions: lambda session, asked: [
        [] if worker is None else _stuck_versions(session, query, worker)
        for query, worker in asked
    ],
    queries.FindUnowned: _each(_unowned),
    queries.CountVersions: _each(_count_versions),
    queries.ReadBacklog: _each(backlog),
    queries.FindActivityTask: _each(task_reads.found),
    queries.ListActivityTasks: _each(task_reads.listed),
    queries.FindCancelledTasks: _own(task_reads.cancelled),
    queries.CountActivityTasks: _each(task_reads.counted),
    queries.CountRunTurns: _each(run_turns.counted),
    queries.FindRunTurn: _each(run_turns.found),
    queries.NextRunTurnAt: lambda session, asked: [
        None if worker is None else run_turns.next_at(session, query, worker)
        for query, worker in asked
    ],
    queries.NextActivityTaskAt: lambda session, asked: [
        None if worker is None else task_reads.next_at(session, query, worker)
        for query, worker in asked
    ],
    queries.ListNamespaces: _each(_namespaces),
    queries.ListWorkers: _each(_workers),
    queries.CountOwnedRuns: _each(_owned),
    queries.FindOutbox: _each(outbox.find),
    queries.ReadOutbox: _each(outbox.read),
    queries.ListOutbox: _each(outbox.page),
    queries.CheckIntegrity: _each(lambda session, _: session.check()),
}


def answer(session: Session, asked: Sequence[Question]) -> list[Any]:
    """Answer questions of one kind.

    Raises:
        Exception: the driver's, or what is wrong with one of the rows.
    """
    return _HANDLERS[type(asked[0].query)](session, asked)

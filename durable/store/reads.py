"""Everything that a SQL store reads, each as one function of a session."""

from __future__ import annotations

import itertools
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from durable import limits
from durable.errors import CorruptHistoryError
from durable.store import policies, salvage, statements
from durable.store.records import LoadedRun, RunNews, UnownedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from durable.store.database import Session
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        RunFilter,
        RunRecord,
        WorkerRecord,
    )

# The lists of ids must stay below every database's limit on parameters.
_RUNS_PER_QUERY: Final = 500
_RUN_ID_OF_MESSAGE: Final = salvage.MESSAGE_FIELDS.index("run_id")
_RUN_ID_OF_ATTEMPT: Final = salvage.ATTEMPT_FIELDS.index("run_id")
_Record = TypeVar("_Record")
# Values of `is_active`.
_EITHER: Final = (1, 0)


def fetch(session: Session, statement: Any, **values: Any) -> list[Any]:
    """Return bare tuples: building rows with names would take twice as long.

    Text that is none comes as bytes, and is somebody's damage.
    """
    try:
        return _fetch_once(session, statement, values)
    except Exception as error:
        tolerance = session.tolerate(error)
        if tolerance is None:
            raise
        with tolerance:
            return _fetch_once(session, statement, values)


def _fetch_once(session: Session, statement: Any, values: dict[str, Any]) -> list[Any]:
    result = session.connection.execute(statement, values)
    try:
        cursor = result.cursor
        return [] if cursor is None else list(cursor.fetchall())
    finally:
        result.close()


def load_runs(session: Session, run_ids: Sequence[str]) -> list[LoadedRun]:
    """Read all of these runs at one instant."""
    session.begin_reading()
    try:
        loaded: dict[str, LoadedRun] = {}
        for start in range(0, len(run_ids), _RUNS_PER_QUERY):
            _load(session, list(run_ids[start : start + _RUNS_PER_QUERY]), loaded)
    finally:
        session.rollback()
    return [loaded[run_id] for run_id in run_ids if run_id in loaded]


def _load(session: Session, run_ids: list[str], loaded: dict[str, LoadedRun]) -> None:
    records = [
        salvage.salvage_run(row)
        for row in fetch(session, statements.LOAD_RUNS, run_ids=run_ids)
    ]
    for run in records:
        loaded[run.run_id] = LoadedRun(record=run, rows=[], messages=[], attempts=[])
    whole = [run.run_id for run in records if run.checkpoint_event_id <= 1]
    partly = [run.run_id for run in records if run.checkpoint_event_id > 1]
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


def _load_rows(
    session: Session, statement: Any, run_ids: list[str], loaded: dict[str, LoadedRun]
) -> None:
    if run_ids:
        rows: list[HistoryRow] = fetch(session, statement, run_ids=run_ids)
        for run_id, group in itertools.groupby(rows, key=itemgetter(0)):
            loaded[run_id].rows.extend(group)


def read_messages(session: Session, run_id: str) -> list[MessageRecord]:
    """Read the messages that wait for a run."""
    rows = fetch(session, statements.LOAD_MESSAGES, run_ids=[run_id])
    return [salvage.to_message(row) for row in rows]


def read_reply(session: Session, run_id: str, request_id: str) -> str | None:
    """Read the reply to a message."""
    key = {"run_id": run_id, "request_id": request_id}
    rows = fetch(session, statements.READ_REPLY, **key)
    return rows[0][0] if rows else None


def read_news(session: Session, run_ids: Sequence[str]) -> list[RunNews]:
    """Read what is new of these runs, at one instant."""
    session.begin_reading()
    try:
        found: list[RunNews] = []
        for start in range(0, len(run_ids), _RUNS_PER_QUERY):
            page = list(run_ids[start : start + _RUNS_PER_QUERY])
            found += _read_news(session, page)
    finally:
        session.rollback()
    return found


def _read_news(session: Session, run_ids: list[str]) -> Iterator[RunNews]:
    replies: dict[str, list[str]] = {}
    for run_id, request_id in fetch(session, statements.FIND_REPLIES, run_ids=run_ids):
        replies.setdefault(run_id, []).append(request_id)
    rows = fetch(session, statements.READ_NEWS, run_ids=run_ids)
    for run_id, is_open, is_stuck, last in rows:
        last_row = None
        if not is_open and last is not None:
            (last_row,) = read_history(session, run_id, last - 1)
        yield RunNews(
            run_id=run_id,
            is_open=bool(is_open),
            is_stuck=bool(is_stuck),
            last_event_id=last or 0,
            replies=tuple(sorted(replies.get(run_id, ()))),
            last_row=last_row,
        )


def read_history(session: Session, run_id: str, after: int) -> list[HistoryRow]:
    """Read a run's rows after a position."""
    return fetch(session, statements.READ_HISTORY, run_id=run_id, after=after)


def read_attempts(session: Session, run_id: str) -> list[AttemptRecord]:
    """Read a run's attempts."""
    rows = fetch(session, statements.LOAD_ATTEMPTS, run_ids=[run_id])
    return [salvage.to_attempt(row) for row in rows]


def find_run(
    session: Session, namespace: str, workflow_id: str, run_id: str | None
) -> RunRecord | None:
    """Read one run; without `run_id` the open or newest of that workflow id."""
    key = {"namespace": namespace, "workflow_id": workflow_id}
    if run_id is None:
        rows = fetch(session, statements.FIND_OPEN_RUN, **key)
        rows = rows or fetch(session, statements.FIND_NEWEST_RUN, **key)
    else:
        rows = fetch(session, statements.FIND_RUN, **key, run_id=run_id)
    return salvage.salvage_run(rows[0]) if rows else None


def list_runs(session: Session, namespace: str, where: RunFilter) -> list[RunRecord]:
    """Read a page of runs."""
    statement = statements.list_runs(namespace, where, policies.page_size(where))
    return [salvage.salvage_run(row) for row in fetch(session, statement)]


def due_runs(session: Session, owner: str, until: int, limit: int) -> list[str]:
    """Read which of a worker's runs are due."""
    page = max(limit, 0)
    due: list[tuple[int, str]] = []
    for active in _EITHER:
        due += fetch(
            session,
            statements.DUE_RUNS,
            myself=owner,
            active=active,
            until=until,
            page=page,
        )
    due = [found for found in due if isinstance(found[1], str)]
    return [run_id for _, run_id in sorted(due)[:page]]


def mailed_runs(session: Session, owner: str, limit: int) -> list[str]:
    """Read which of a worker's runs have messages."""
    rows = fetch(session, statements.MAILED_RUNS, myself=owner, page=max(limit, 0))
    return [run_id for (run_id,) in rows if isinstance(run_id, str)]


def lost_runs(session: Session, owner: str, run_ids: Sequence[str]) -> list[str]:
    """Read which runs are closed or another worker's."""
    kept: set[str] = set()
    for start in range(0, len(run_ids), limits.LOAD_RUNS_MAX):
        page = list(run_ids[start : start + limits.LOAD_RUNS_MAX])
        rows = fetch(session, statements.KEPT_RUNS, myself=owner, run_ids=page)
        kept.update(run_id for (run_id,) in rows)
    return [run_id for run_id in run_ids if run_id not in kept]


def next_wake_at(session: Session, owner: str) -> int | None:
    """Read a worker's earliest wake-up."""
    return min(
        (
            wake_at
            for active in _EITHER
            for (wake_at,) in fetch(
                session, statements.NEXT_WAKE_AT, myself=owner, active=active
            )
            if isinstance(wake_at, int)
        ),
        default=None,
    )


def count_unowned(
    session: Session, worker: WorkerRecord, workflow_types: Sequence[str]
) -> int:
    """Count what a worker could claim."""
    rows = fetch(
        session,
        statements.COUNT_UNOWNED,
        namespace=worker.namespace,
        task_queue=worker.task_queue,
        workflow_types=list(workflow_types),
    )
    count: int = rows[0][0]
    return count


def unowned_runs(session: Session, namespace: str, limit: int) -> list[UnownedRun]:
    """Read the oldest open, unparked runs that no worker has."""
    rows = fetch(session, statements.UNOWNED_RUNS, namespace=namespace, page=limit)
    return [UnownedRun(*map(_as_text, row)) for row in rows]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def list_namespaces(session: Session) -> list[str]:
    """Read the namespaces that have runs: from one to the next, by the index."""
    found: list[str] = []
    after: Any = ""
    while after is not None:
        ((after,),) = fetch(session, statements.NEXT_NAMESPACE, after=after)
        if after is not None:
            found.append(_as_text(after))
    return found


def list_workers(session: Session) -> list[WorkerRecord]:
    """Read all workers."""
    rows = fetch(session, statements.LIST_WORKERS)
    return [salvage.salvage_worker(row) for row in rows]

"""The rows of a SQL database: what is looked at rarely, and what workers do.

Statements of SQLAlchemy, alike on all databases. Each adds `look` and `write` of its
own, which must be fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from durable.errors import CorruptHistoryError
from durable.store.sql import deleting, reads, salvage, statements
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import RUNS
from durable.store.sql.tasks import at_rest
from durable.store.sql.tasks import statements as task_statements
from durable.store.sql.tasks.run_turns import RunTurnTables
from durable.store.sql.tasks.task_tables import TaskTables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from durable.errors import DurableError
    from durable.store.database import Session
    from durable.store.deciding.deleting import Tie
    from durable.store.deciding.rows import ChainKey, End, NameKey, Seen
    from durable.store.records import (
        ClaimRuns,
        HistoryRow,
        MessageRecord,
        NamespaceRecord,
        RunRecord,
        WorkerRecord,
    )

# Lists of ids must stay below every database's limit on parameters.
_IDS_PER_STATEMENT: Final = 1_000
_ADOPT: Final = (
    sa.update(RUNS)
    .where(RUNS.c.run_id == sa.bindparam("adopted"))
    .values(parent_run_id=sa.bindparam("parent"))
)


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into lists that one statement may take."""
    return (
        ids[start : start + _IDS_PER_STATEMENT]
        for start in range(0, len(ids), _IDS_PER_STATEMENT)
    )


class SqlTables(TaskTables, RunTurnTables):
    """Implements `Tables` but for `look` and `write`."""

    _find_claimable = statements.FIND_CLAIMABLE
    _find_stuck = statements.FIND_STUCK

    def __init__(self, session: Session) -> None:
        """Work in the transactions of a session."""
        self._session = session

    def _fetch(self, statement: Any, **values: Any) -> list[Any]:
        return fetch(self._session, statement, **values)

    def _execute(self, statement: Any, **values: Any) -> Any:
        return self._session.connection.execute(statement, values)

    # --- what is looked at rarely -----------------------------------------------------

    def find_newest_of_chain(self, key: ChainKey) -> str | None:
        """Return the id of the newest run of a chain."""
        namespace, workflow_id, first_run_id = key
        rows = self._fetch(
            statements.FIND_NEWEST_RUN_OF_CHAIN,
            namespace=namespace,
            workflow_id=workflow_id,
            first_run_id=first_run_id,
        )
        return rows[0][0] if rows else None

    def look_rarely(self, rare: dict[str, dict[Any, None]], seen: Seen) -> None:
        """Bring what only `decide` has asked for, but for letters and chains."""
        run_ids = list(rare.get("records", ()))
        ends: dict[str, End] = {**seen.ends, **dict.fromkeys(run_ids, (0, 0, 0))}
        records: dict[str, RunRecord] = {}
        for page in chunks(run_ids):
            for row in self._fetch(statements.LOAD_RUNS, run_ids=page):
                # Ending it is a way out, whatever else of its row cannot be read.
                record = salvage.salvage_run(row)
                records[record.run_id] = record
            for row in self._fetch(statements.FIND_HISTORY_ENDS, run_ids=page):
                run_id, event_id, *others = row
                task_number, time = (n if isinstance(n, int) else 0 for n in others)
                ends[run_id] = (event_id, task_number, time)
        seen.records, seen.ends = records, ends
        seen.messages = {r: self._find_messages(r) for r in rare.get("messages", ())}
        first_data: dict[str, str | None] = {}
        for run_id in rare.get("first_data", ()):
            key = {"run_id": run_id, "event_id": 1}
            rows = self._fetch(statements.FIND_EVENT_DATA, **key)
            first_data[run_id] = rows[0][0] if rows else None
        seen.first_data = first_data
        if "kinds" in rare:
            seen.kinds = self._find_kinds(rare["kinds"])

    def _find_kinds(self, keys: dict[NameKey, None]) -> dict[NameKey, str | None]:
        kinds: dict[NameKey, str | None] = dict.fromkeys(keys)
        for namespace in {namespace for namespace, _ in keys}:
            names = [name for place, name in keys if place == namespace]
            for page in chunks(names):
                found = self._fetch(
                    statements.FIND_KINDS, namespace=namespace, names=page
                )
                kinds.update(((namespace, name), kind) for name, kind in found)
        return kinds

    def _find_messages(self, run_id: str) -> list[MessageRecord] | DurableError:
        rows = self._fetch(statements.LOAD_MESSAGES, run_ids=[run_id])
        try:
            return [salvage.to_message(row) for row in rows]
        except CorruptHistoryError as error:
            return error

    def adopt(self, parents: dict[str, str]) -> None:
        """See `Tables`."""
        rows = [{"adopted": run, "parent": parents[run]} for run in sorted(parents)]
        self._session.connection.execute(_ADOPT, rows)

    # --- what is done by itself -------------------------------------------------------

    def put_namespace(self, record: NamespaceRecord, *, is_new: bool) -> bool:
        """See `Tables`."""
        key = {"namespace_": record.namespace}
        if is_new == bool(self._fetch(statements.LOCK_NAMESPACE, **key)):
            return False
        said = {
            "retention_days": record.retention_days,
            "description": record.description,
            "defaults": record.defaults,
        }
        if is_new:
            own = {"namespace": record.namespace, "created_at": record.created_at}
            self._execute(statements.INSERT_NAMESPACE, **own, **said)
        else:
            self._execute(statements.UPDATE_NAMESPACE, **key, **said)
        return True

    def find_ties(self, run_ids: Sequence[str]) -> dict[str, Tie]:
        """See `Tables`."""
        return dict(
            map(deleting.to_tie, self._fetch(deleting.FIND_TIES, run_ids=run_ids))
        )

    def count_events(self, run_ids: Sequence[str]) -> dict[str, int]:
        """See `Tables`."""
        rows = self._fetch(deleting.COUNT_EVENTS, run_ids=run_ids)
        return {run_id: count or 0 for run_id, count in rows}

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """See `Tables`."""
        for statement in deleting.DELETIONS:
            self._execute(statement, run_ids=run_ids)

    def has_worker(self, worker_id: str) -> bool:
        """See `Tables`."""
        return bool(self._fetch(statements.FIND_WORKER, holder=worker_id))

    def insert_worker(self, worker: WorkerRecord) -> None:
        """See `Tables`."""
        fields = msgspec.to_builtins(worker)
        self._execute(
            statements.INSERT_WORKER,
            **{name: fields[name] for name in salvage.WORKER_FIELDS},
        )

    def renew_worker(self, worker_id: str, until: int, places: str | None) -> bool:
        """See `Tables`."""
        renewed = self._execute(
            statements.RENEW_LEASE, holder=worker_id, until=until, told=places
        )
        return bool(renewed.rowcount)

    def drain_worker(self, worker_id: str) -> None:
        """See `Tables`."""
        self._execute(statements.DRAIN_WORKER, holder=worker_id)

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """See `Tables`."""
        self._execute(statements.DISOWN_ALL_RUNS, owners=worker_ids, due=due)
        self._execute(statements.DELETE_WORKERS, worker_ids=worker_ids)

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """See `Tables`."""
        rows = self._fetch(
            statements.FIND_DEAD_WORKERS,
            myself=myself,
            now=now,
            presumed_dead=presumed_dead,
        )
        return [worker_id for (worker_id,) in rows if isinstance(worker_id, str)]

    def disown_strays(self, due: int) -> None:
        """See `Tables`."""
        self._execute(statements.DISOWN_STRAYS, due=due)

    def delete_replies(self, before: int) -> None:
        """See `Tables`."""
        self._execute(statements.DELETE_OLD_REPLIES, until=before)

    def find_claimable(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`."""
        where: dict[str, Any] = {
            "namespace": worker.namespace,
            "task_queue": worker.task_queue,
            "workflow_types": claim.workflow_types,
            "versions": statements.served(claim.versions),
        }
        limit, after = max(claim.limit, 0), claim.stuck_after
        rows: list[Any] = []
        if after is None:
            for found_in in at_rest.ranges(self._session, worker, now):
                page = limit - len(rows)
                if page or not rows:
                    key = {**where, **found_in, "page": page}
                    rows += self._fetch(self._find_claimable, **key)
        else:
            rows = self._fetch(self._find_stuck, **where, after=after, page=limit)
        return {
            run_id: epoch if isinstance(epoch, int) else 0
            for run_id, epoch in rows
            if isinstance(run_id, str)
        }

    def own_runs(self, run_ids: Sequence[str], owner: str) -> None:
        """See `Tables`."""
        for ids in chunks(run_ids):
            self._execute(statements.OWN_RUNS, run_ids=ids, new_owner=owner)

    def disown_runs(self, run_ids: Sequence[str], owner: str, due: int) -> None:
        """See `Tables`."""
        for ids in chunks(run_ids):
            self._execute(statements.DISOWN_RUNS, myself=owner, run_ids=ids, due=due)

    def find_positions(self, run_id: str) -> tuple[int, ...] | None:
        """See `Tables`."""
        if not self._fetch(statements.IS_OPEN, run_id=run_id):
            return None
        return tuple(row[1] for row in reads.read_rows(self._session, run_id))

    def repair_run(
        self,
        run_id: str,
        keep: int,
        rows: Sequence[HistoryRow],
        due: int,
        version: str | None,
    ) -> None:
        """See `Tables`."""
        for gone in (statements.DELETE_EVENTS_AFTER, task_statements.DELETE_AFTER):
            self._execute(gone, repaired=run_id, kept=keep)
        if rows:
            names = [column.name for column in statements.HISTORY_COLUMNS]
            values = [dict(zip(names, row, strict=True)) for row in rows]
            self._session.connection.execute(statements.INSERT_EVENTS, values)
        self._execute(statements.FREE_RUN, freed=run_id, due=due)
        if version is not None:
            self._execute(statements.MOVE_RUN, moved=run_id, new_version=version)

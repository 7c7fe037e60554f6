"""The rows of a MariaDB database, within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable.store.mysql import look as mysql_look
from durable.store.mysql.write import write
from durable.store.servers.server_tables import ServerTables
from durable.store.sql import statements
from durable.store.sql.sql_tables import SqlTables, chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable.store.deciding.rows import Rows
    from durable.store.deciding.wanted import Wanted
    from durable.store.mysql.session import MysqlSession
    from durable.store.records import ClaimRuns, WorkerRecord
    from durable.store.servers.locked_look import LockedLook


class MysqlTables(ServerTables):
    """Implements `Tables`; what is fast goes in packets of many statements.

    Whatever a locking statement walks is locked, even if it does not answer it. So rows
    are found without locks, and then locked by their keys.
    """

    _session: MysqlSession

    def _look(self, wanted: Wanted) -> LockedLook:
        session = self._session
        found = mysql_look.look(wanted, session.begin_with, session.send)
        found.seen.last_sequence = session.sequence
        return found

    def write(self, rows: Rows) -> None:
        """See `Tables`. They go together with the commit."""
        self._session.write_later(write(rows))

    # --- what workers do --------------------------------------------------------------

    def find_claimable(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`. What others are taking just now is theirs."""
        found = super().find_claimable(worker, claim, now)
        taken: dict[str, int] = {}
        for page in chunks(sorted(found)):
            taken.update(self._fetch(statements.TAKE_RUNS, run_ids=page))
        return {r: epoch for r, epoch in found.items() if taken.get(r) == epoch}

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """See `Tables`. One that is committing just now is not dead."""
        found = SqlTables.find_dead_workers(self, myself, now, presumed_dead)
        return [
            worker_id
            for one in found
            for (worker_id,) in self._fetch(
                statements.LOCK_DEAD_WORKER,
                candidate=one,
                myself=myself,
                now=now,
                presumed_dead=presumed_dead,
            )
        ]

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """See `Tables`."""
        for worker_id in sorted(worker_ids):
            self._fetch(statements.LOCK_WORKERS, worker_ids=[worker_id])
        runs = {
            worker_id: [
                run_id
                for (run_id,) in self._fetch(
                    statements.FIND_RUNS_OF_OWNERS, owners=[worker_id]
                )
            ]
            for worker_id in worker_ids
        }
        self._lock_runs([run_id for run_ids in runs.values() for run_id in run_ids])
        for worker_id, run_ids in runs.items():
            self.disown_runs(run_ids, worker_id, due)
            self._execute(statements.DELETE_WORKERS, worker_ids=[worker_id])

    def disown_strays(self, due: int) -> None:
        """See `Tables`. There are none, as a rule."""
        for run_id, owner in self._fetch(statements.FIND_STRAYS):
            if not self.has_worker(owner):
                self.disown_runs([run_id], owner, due)

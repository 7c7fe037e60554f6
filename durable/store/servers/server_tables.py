"""The rows of a database on a server: what is alike on all that lock rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from durable.store.sql import statements
from durable.store.sql.sql_tables import SqlTables, chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable.store.deciding.deleting import Tie
    from durable.store.deciding.rows import Seen
    from durable.store.deciding.wanted import Wanted
    from durable.store.records import HistoryRow
    from durable.store.servers.locked_look import LockedLook

_SEEN_BY_DECIDE = frozenset({"records", "messages", "first_data", "kinds"})


class ServerTables(SqlTables, ABC):
    """Implements `Tables` but for `write`, and for how rows are locked and read.

    Locks are taken in one order: workers, then runs by their ids.
    """

    _session: Any  # an `EnteringSession`, of each server its own

    @abstractmethod
    def _look(self, wanted: Wanted) -> LockedLook:
        """Lock what is wanted in a transaction that begins with it, and read it."""

    def look(self, wanted: Wanted) -> Seen:
        """See `Tables`. A second look begins the transaction anew."""
        found = self._look(wanted)
        seen, rare = found.seen, wanted.rare
        seen.last_sequence = self._session.sequence
        if not _SEEN_BY_DECIDE.isdisjoint(rare):
            self.look_rarely(rare, seen)
        if found.ending:
            ends = dict(seen.ends)
            for page in chunks(found.ending):
                ends.update(dict.fromkeys(page, (0, 0, 0)))
                for run_id, *end in self._fetch(
                    statements.FIND_HISTORY_ENDS, run_ids=page
                ):
                    ends[run_id] = (end[0], end[1] or 0, end[2])
            found.take_ends((run_id, ends[run_id][0]) for run_id in found.ending)
            seen.ends = ends
        return seen

    def find_ties(self, run_ids: Sequence[str]) -> dict[str, Tie]:
        """See `Tables`. Who else deletes them at the same time comes after this one."""
        self._lock_runs(run_ids)
        return super().find_ties(run_ids)

    # --- what workers do --------------------------------------------------------------

    def has_worker(self, worker_id: str) -> bool:
        """See `Tables`. Nobody can remove it before the end of the transaction."""
        return bool(self._fetch(statements.LOCK_WORKER, holder=worker_id))

    def _lock_runs(self, run_ids: Sequence[str]) -> None:
        for page in chunks(sorted(run_ids)):
            self._fetch(statements.LOCK_RUNS, run_ids=page)

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """See `Tables`."""
        for page in chunks(sorted(worker_ids)):
            self._fetch(statements.LOCK_WORKERS, worker_ids=page)
        for page in chunks(worker_ids):
            self._fetch(statements.LOCK_RUNS_OF_OWNERS, owners=page)
        super().remove_workers(worker_ids, due)

    def disown_strays(self, due: int) -> None:
        """See `Tables`. There are none, as a rule."""
        strays = [run_id for run_id, _ in self._fetch(statements.FIND_STRAYS)]
        if strays:
            self._lock_runs(strays)
            super().disown_strays(due)

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """See `Tables`. One that is committing just now is not dead."""
        rows = self._fetch(
            statements.LOCK_DEAD_WORKERS,
            myself=myself,
            now=now,
            presumed_dead=presumed_dead,
        )
        return [worker_id for (worker_id,) in rows]

    def disown_runs(self, run_ids: Sequence[str], owner: str, due: int) -> None:
        """See `Tables`."""
        self._lock_runs(run_ids)
        super().disown_runs(run_ids, owner, due)

    def find_positions(self, run_id: str) -> tuple[int, ...] | None:
        """See `Tables`."""
        self._lock_runs([run_id])
        return super().find_positions(run_id)

    def repair_run(
        self,
        run_id: str,
        keep: int,
        rows: Sequence[HistoryRow],
        due: int,
        version: str | None,
    ) -> None:
        """See `Tables`."""
        self._lock_runs([run_id])
        super().repair_run(run_id, keep, rows, due, version)

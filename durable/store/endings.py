"""Runs that are closed by others: terminated, or because their parent closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from durable import limits
from durable.store import family, policies, statements
from durable.store.records import Committed, RunStatus

if TYPE_CHECKING:
    from durable.store.database import Session
    from durable.store.family import Letter
    from durable.store.mail import Mail
    from durable.store.records import HistoryRow, RunRecord
    from durable.store.steady_clock import SteadyClock

# Lists of ids must stay below every database's limit on parameters.
_IDS_PER_STATEMENT: Final = 1_000


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into lists that one statement may take."""
    return (
        ids[start : start + _IDS_PER_STATEMENT]
        for start in range(0, len(ids), _IDS_PER_STATEMENT)
    )


class Endings:
    """Closes runs in one transaction, whoever owns them."""

    def __init__(
        self,
        session: Session,
        clock: SteadyClock,
        mail: Mail,
        next_fence: Callable[[], int],
    ) -> None:
        """Work in the transaction that `session` has begun."""
        self._connection = session.connection
        self._hot = session.hot
        self._clock = clock
        self._mail = mail
        self._next_fence = next_fence

    def terminate(self, run: RunRecord, data: str) -> Committed:
        """Close an open run; tell its parent, and part it from its children."""
        self._end([run.run_id], data)
        notified: tuple[str, ...] = ()
        letter = family.tell_parent(run)
        if letter is not None and self._is_open(letter[0]):
            self._mail.put([letter])
            notified = (letter[0],)
        ended, cancelled = self.part_from_children(run.run_id)
        return Committed(ended=ended, cancelled=cancelled, notified=notified)

    def part_from_children(
        self, run_id: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Apply the parent close policies of a closed run's open children.

        Returns:
            The runs that were terminated, and those that were asked to stop.
        """
        ended: list[str] = []
        cancelled: list[str] = []
        parents = [run_id]
        for _ in range(limits.CHILD_DEPTH_MAX):
            doomed: list[str] = []
            letters: list[Letter] = []
            for child, parent, policy in self._find_open_children(parents):
                if policy == family.TERMINATE:
                    doomed.append(child)
                elif policy == family.REQUEST_CANCEL:
                    letters.append(family.ask_to_stop(child, parent))
            if letters:
                self._mail.put(letters)
                cancelled += [letter[0] for letter in letters]
            if not doomed:
                break
            self._end(doomed, family.TERMINATED_BY_POLICY)
            ended += doomed
            parents = doomed
        return tuple(ended), tuple(cancelled)

    def _find_open_children(self, parents: list[str]) -> list[tuple[str, str, str]]:
        found: list[tuple[Any, str, str, str]] = []
        for run_ids in chunks(parents):
            found += [
                (started_at, run_id, parent, policy)
                for run_id, parent, policy, started_at in self._execute(
                    statements.FIND_OPEN_CHILDREN, run_ids=run_ids
                )
            ]
        # One that is damaged must not keep its parent from closing.
        found.sort(key=lambda c: (c[0] if isinstance(c[0], int) else 0, c[1]))
        return [child[1:] for child in found]

    def _is_open(self, run_id: str) -> bool:
        found = self._execute(statements.IS_OPEN, run_id=run_id)
        return found.first() is not None

    def _end(self, run_ids: list[str], data: str) -> None:
        now = self._clock.now()
        ends: dict[str, tuple[int, int, int]] = {}
        for group in chunks(run_ids):
            for row in self._execute(statements.FIND_HISTORY_ENDS, run_ids=group):
                run_id, event_id, *others = row
                task_number, time = (n if isinstance(n, int) else 0 for n in others)
                ends[run_id] = (event_id, task_number, time)
        rows: list[HistoryRow] = []
        for run_id in run_ids:
            event_id, task_number, latest = ends.get(run_id, (0, 0, 0))
            rows.append(
                (
                    run_id,
                    event_id + 1,
                    task_number + 1,
                    policies.TERMINATED_EVENT,
                    # Times never fall along a run, even if the run's worker had a
                    # faster clock.
                    max(now, latest),
                    data,
                    0,
                )
            )
        self._hot.append_history([(rows, self._next_fence())])
        self._connection.execute(
            statements.TERMINATE_RUN,
            [{"terminated": row[0], "ended_at": row[4]} for row in rows],
        )
        self._hot.delete_inboxes(run_ids)
        status = RunStatus.TERMINATED.value
        self._mail.note_closings((row[0], status, row[4], 0) for row in rows)

    def _execute(self, statement: Any, **values: Any) -> Any:
        return self._connection.execute(statement, values)

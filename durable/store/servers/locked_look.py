"""What a look on a server has brought: rows that were locked, and what was read then.

A statement that waits for a lock goes on with the picture it had before the waiting.
So all runs are locked first, in the order of their ids; messages, children and ends of
histories are read by later statements. What has moved in between is looked at anew.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding.family import TERMINATE
from durable.store.deciding.rows import Name, Run, Seen, age_of
from durable.store.deciding.wanted import ADDRESSED, CLOSED
from durable.store.records import RUNNING, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from durable.store.deciding.rows import RequestKey
    from durable.store.deciding.wanted import Wanted

ABANDON: Final = "abandon"
_STATUSES: Final = {status.value: status for status in RunStatus}

RUN_COLUMNS: Final = (
    "{0}.run_id, {0}.namespace, {0}.workflow_id, {0}.first_run_id, {0}.status,"
    " {0}.closed_at, {0}.owner, {0}.started_at, {0}.parent_run_id,"
    " {0}.parent_close_policy, {0}.wake_at, {0}.epoch, {0}.request_id"
)
"""What `LockedLook` reads of a run; {0} is the table."""


class RowsMovedError(Exception):
    """Rows changed between two steps of a look: the group is to be repeated."""


class LockedLook:
    """Makes a `Seen` of locked rows, and of what was read after that.

    Attributes:
        locked: how strongly each run is locked, as `Wanted.runs` says it.
        ending: open children that end with their parents: their ends are to be read.
    """

    def __init__(self, wanted: Wanted) -> None:
        """Begin with nothing seen."""
        self.wanted = wanted
        # Anything may wait in some inbox: counting all of them would be dear.
        self.seen = Seen(first_sequence=0, most_waiting=0)
        self.locked: dict[str, int] = {}
        self.ending: list[str] = []

    def take_first(self, answers: Mapping[str, Iterable[Any]]) -> None:
        """Take what was locked, and what was read at once, by these names.

        Raises:
            RowsMovedError: something has changed meanwhile.
        """
        self.seen.has_worker = bool(answers["worker"])
        self._take_outbox(answers.get("outbox", ()))
        self._take_locked(answers["locked"])
        self._take_newest(answers.get("newest", ()))
        self.take_ends(answers.get("ends", ()))

    def take_rest(self, answers: Mapping[str, Iterable[Any]]) -> None:
        """Take what was read after that; raises likewise."""
        self._take_mail(*(answers.get(kind, ()) for kind in ("mail", "letters")))
        if "waiting" in answers:
            ((self.seen.most_waiting,),) = answers["waiting"]
        if self.wanted.families:
            self._take_children(answers["children"])
        chains = enumerate(self.wanted.rare.get("chains", ()))
        self.seen.chains = {
            key: next(map(self._take_unlocked, answers[f"chain{number}"]), None)
            for number, key in chains
        }

    def _take_locked(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take runs that are locked: mode, whether by a key, `RUN_COLUMNS`.

        One that is only addressed comes twice if its row may be written to.

        Raises:
            RowsMovedError: one was not what it was found by any more.
        """
        seen, wanted = self.seen, self.wanted
        runs, names, requests = seen.runs, seen.names, seen.requests
        names.update((key, Name()) for key in wanted.names)
        requests.update(dict.fromkeys(wanted.requests))
        weak: dict[str, Run] = {}
        for mode, is_keyed, *row in rows:
            run = _to_run(row)
            run_id = run.run_id
            if run_id in runs:
                weak.pop(run_id, None)
                continue
            runs[run_id] = run
            self.locked[run_id] = mode
            key = (run.namespace, run.workflow_id)
            if run.status is not RUNNING:
                if is_keyed:  # its id may have another run now
                    raise RowsMovedError
            elif key in names:
                names[key].open = run
            request = (run.namespace, row[12])
            if request in requests:
                requests[request] = run
            if mode == ADDRESSED:
                weak[run_id] = run
        if any(map(_needs_waking, weak.values())):
            raise RowsMovedError
        for run_id in wanted.runs:
            runs.setdefault(run_id, None)

    def _take_newest(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take the newest run of each name: `RUN_COLUMNS`.

        Raises:
            RowsMovedError: one has begun since runs were locked, or is gone.
        """
        for row in rows:
            run = self._take_unlocked(row)
            self.seen.names[run.namespace, run.workflow_id].newest = run

    def _take_unlocked(self, row: Sequence[Any]) -> Run:
        run = self.seen.runs.get(row[0])
        if run is None:
            run = _to_run(row)
            # One that was looked for, and was not there to be locked, is deleted.
            if run.status is RUNNING or row[0] in self.seen.runs:
                raise RowsMovedError
            self.seen.runs[run.run_id] = run
        return run

    def take_ends(self, rows: Iterable[tuple[str, int | None]]) -> None:
        """Take the newest event of runs: run id, event id."""
        for run_id, event_id in rows:
            run = self.seen.runs[run_id]
            if run is not None:
                run.last_event_id = event_id or 0

    def _take_mail(self, *found: Iterable[tuple[str, str, int, str]]) -> None:
        """Take messages: run id, request id, sequence, kind."""
        mail: dict[str, dict[str, tuple[int, str]]] = {}
        for run_id, request_id, sequence, kind in itertools.chain(*found):
            mail.setdefault(run_id, {})[request_id] = (sequence, kind)
        self.seen.mail = mail
        self.seen.all_mail = self.wanted.mail

    def _take_outbox(self, rows: Iterable[Sequence[int]]) -> None:
        """Take rows of the outbox: sequence, tries."""
        if "outbox" in self.wanted.rare:
            looked: dict[int, int | None] = dict.fromkeys(self.wanted.rare["outbox"])
            self.seen.outbox = looked | {sequence: tries for sequence, tries in rows}

    def find_letters(self) -> list[RequestKey]:
        """Return the run and request of each message that will be put, if it can be."""
        self.seen.looked = found = self.wanted.find_letters(self.seen.find_open)
        return sorted(found)

    def find_further(self) -> list[str]:
        """Return the runs beside those named by id that may be written to."""
        runs = self.wanted.runs
        return [
            run_id
            for run_id, mode in self.locked.items()
            if mode != ADDRESSED and run_id not in runs
        ]

    def _take_children(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take the open children of families: `RUN_COLUMNS`.

        Raises:
            RowsMovedError: one has begun since runs were locked.
        """
        seen = self.seen
        children: dict[str, dict[str, Run]] = {r: {} for r in self.wanted.families}
        for row in rows:
            run_id, policy = row[0], row[9]
            mode = self.locked.get(run_id, -1)
            if policy != ABANDON and mode < (CLOSED if policy == TERMINATE else 0):
                raise RowsMovedError
            run = seen.runs.get(run_id)
            if run is None:
                seen.runs[run_id] = run = _to_run(row)
            children.setdefault(run.parent_run_id or "", {})[run_id] = run
            if policy == TERMINATE:
                children.setdefault(run_id, {})
                self.ending.append(run_id)
        seen.children = {
            parent: sorted(found.values(), key=age_of)
            for parent, found in children.items()
        }


def _to_run(row: Sequence[Any]) -> Run:
    run_id, namespace, workflow_id, first_run_id, status, *others = row
    closed_at, owner, started_at, parent_run_id, policy, wake_at, epoch, _ = others
    return Run(
        *(run_id, namespace, workflow_id, first_run_id, _STATUSES.get(status)),
        *(closed_at, owner, started_at, parent_run_id, policy, 0, wake_at, epoch),
    )


def _needs_waking(run: Run) -> bool:
    return (
        run.status is RUNNING
        and run.owner is None
        and (run.wake_at is None or run.wake_at >= 0)
    )

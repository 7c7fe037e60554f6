"""Runs that are closed by others: terminated, or because their parent closed: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable import limits
from durable.store.deciding import family, policies
from durable.store.deciding.rows import age_of
from durable.store.deciding.tasks import Tasks
from durable.store.records import RUNNING, Committed, RunStatus

if TYPE_CHECKING:
    from durable.store.deciding.draft import Draft
    from durable.store.deciding.inboxes import Inboxes
    from durable.store.deciding.rows import Run


class Endings:
    """Closes runs of one group, whoever owns them."""

    def __init__(self, draft: Draft, inboxes: Inboxes) -> None:
        """Decide in this draft."""
        self._draft = draft
        self._inboxes = inboxes
        self._tasks: Tasks | None = None

    @property
    def tasks(self) -> Tasks:
        """The tasks that end with runs, and all others; most groups need none."""
        if self._tasks is None:
            self._tasks = Tasks(self._draft, self._inboxes)
        return self._tasks

    def terminate(self, run: Run, data: str) -> Committed:
        """Close an open run; tell its parent, and part it from its children."""
        draft = self._draft
        self.tasks.foresee(run)
        letter = family.tell_parent(draft.find_record(run))
        self.end(run, data)
        notified: tuple[str, ...] = ()
        if letter is not None:
            parent = draft.find_run(letter[0])
            if parent is not None and parent.status is RUNNING:
                self._inboxes.put(parent, letter)
                notified = (parent.run_id,)
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
            children = [c for p in parents for c in self._draft.find_children(p)]
            children.sort(key=age_of)
            doomed: list[str] = []
            for child in children:
                if child.parent_close_policy == family.TERMINATE:
                    self.tasks.foresee(child)
            for child in children:
                policy = child.parent_close_policy
                if policy == family.REQUEST_CANCEL:
                    parent = child.parent_run_id or ""
                    letter = family.ask_to_stop(child.run_id, parent)
                    self._inboxes.put(child, letter)
                    cancelled.append(child.run_id)
                elif policy == family.TERMINATE:
                    doomed.append(child.run_id)
                    self.end(child, family.TERMINATED_BY_POLICY)
            if not doomed:
                break
            ended += doomed
            parents = doomed
        return tuple(ended), tuple(cancelled)

    def end(self, run: Run, data: str) -> None:
        """Close an open run, and tell nobody."""
        draft = self._draft
        event_id, task_number, latest = draft.find_end(run)
        # Times never fall along a run, even if the run's worker had a faster clock.
        now = max(draft.now, latest)
        row = (
            run.run_id,
            event_id + 1,
            task_number + 1,
            policies.TERMINATED_EVENT,
            now,
            data,
            0,
        )
        self.tasks.close(run)
        draft.append(run, [row])
        self._inboxes.empty(run)
        draft.close(run, RunStatus.TERMINATED, now)

"""Runs that go on from what another has done, in its place or beside it: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from durable.errors import WorkflowNotFoundError
from durable.store.deciding import policies
from durable.store.records import RUNNING, Committed, MessageKind, Started

if TYPE_CHECKING:
    from durable.store.deciding.draft import Draft
    from durable.store.deciding.endings import Endings
    from durable.store.deciding.inboxes import Inboxes
    from durable.store.deciding.rows import Run
    from durable.store.records import CommitTask, MessageRecord, ResetRun, RunRecord


class Resets:
    """Creates runs of one group that go on from others."""

    def __init__(self, draft: Draft, inboxes: Inboxes, endings: Endings) -> None:
        """Decide in this draft."""
        self._draft = draft
        self._inboxes = inboxes
        self._endings = endings

    def reset(self, operation: ResetRun) -> Started | None:
        """See `ResetRun`. All that can stand in the way is looked at first."""
        draft, record = self._draft, operation.record
        same = draft.find_request((record.namespace, record.request_id))
        if same is not None:
            return Started(same.run_id, False)
        base = draft.find_run(operation.base_run_id)
        if base is None:
            raise WorkflowNotFoundError(f"There is no run {operation.base_run_id!r}.")
        if any(not self._is_at(*place) for place in operation.expected):
            return None
        name = draft.find_name((record.namespace, record.workflow_id))
        old = name.open
        if old is not None and (
            operation.is_fork or old.first_run_id != base.first_run_id
        ):
            raise policies.already_running(old)
        known = {place[0] for place in operation.expected}
        if old is not None and old.run_id not in known:
            return None
        children = [] if operation.is_fork else draft.find_children(base.run_id)
        listed = {*operation.kept_children, *operation.undone_children}
        if any(child.first_run_id not in listed for child in children):
            return None
        if draft.find_run(record.run_id) is not None:
            raise policies.run_id_taken(record.run_id)
        if record.attributes is not None:
            draft.check_attributes(record.namespace, record.attributes)
        waiting = [] if old is None else self._inboxes.waiting_for(old)
        if old is not None:
            self._endings.end(old, operation.terminated_data)
        run = draft.create(operation, name)
        if not operation.is_fork and base.run_id == base.first_run_id:
            draft.mark_reset(base, run.run_id)
        for child in children:
            if child.first_run_id in operation.kept_children:
                draft.adopt(child, run)
        ended: tuple[str, ...] = ()
        cancelled: tuple[str, ...] = ()
        for parent in () if operation.is_fork else {base.run_id: 0, **_id_of(old)}:
            parted = self._endings.part_from_children(parent)
            ended, cancelled = ended + parted[0], cancelled + parted[1]
        self._give(run, operation, waiting)
        for attempt in operation.attempts:
            key = (attempt.run_id, attempt.scheduled_event_id, attempt.attempt)
            draft.rows.attempts[key] = attempt
        return Started(
            run_id=run.run_id,
            created=True,
            terminated_run_id=None if old is None else old.run_id,
            committed=Committed(ended=ended, cancelled=cancelled),
        )

    def _is_at(self, run_id: str, last_event_id: int, is_open: bool) -> bool:
        run = self._draft.find_run(run_id)
        return (
            run is not None
            and run.last_event_id == last_event_id
            and (run.status is RUNNING) is is_open
        )

    def _give(
        self, run: Run, operation: ResetRun, waiting: list[MessageRecord]
    ) -> None:
        """Put what it is to hear again, and then what nobody has heard."""
        letters = [(m.request_id, m.kind, m.data) for m in operation.messages]
        letters += [
            (m.request_id, m.kind, m.data)
            for m in waiting
            if m.kind in operation.moved_kinds
        ]
        for request_id, kind, data in letters:
            self._inboxes.put(run, (run.run_id, request_id, kind, data))


def _id_of(run: Run | None) -> dict[str, int]:
    return {} if run is None else {run.run_id: 0}


def readdress(run: Run, operation: CommitTask) -> CommitTask:
    """Let a run speak to the parent that has adopted it: its worker knows the first."""
    parent = run.parent_run_id
    if parent is None or not (operation.messages or operation.starts):
        return operation

    def moves(record: RunRecord) -> bool:
        return (
            record.continued_from_run_id == run.run_id
            and record.parent_run_id is not None
            and record.parent_run_id != parent
        )

    messages: list[Any] = [
        msgspec.structs.replace(message, run_id=parent)
        if message.kind == MessageKind.CHILD.value and message.run_id != parent
        else message
        for message in operation.messages
    ]
    starts = [
        msgspec.structs.replace(
            start, record=msgspec.structs.replace(start.record, parent_run_id=parent)
        )
        if moves(start.record)
        else start
        for start in operation.starts
    ]
    return msgspec.structs.replace(
        operation, messages=tuple(messages), starts=tuple(starts)
    )

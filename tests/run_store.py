"""What a store keeps of one run, as a list and a few dicts."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from durable.core.history.codec import Row, decode_rows
from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
)
from durable.errors import HistoryTakenError
from durable.store.deciding import policies
from durable.store.records import (
    AttemptRecord,
    CommitTask,
    Committed,
    LoadedRun,
    MailArrived,
    MessageRecord,
    ParkRun,
    ReplyRecord,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
)

RUN: Final = "run"
AT_ONCE: Final = 0
"""When a run is due that has mail which it has not seen."""


class RunStore:
    """One run's rows.

    Attributes:
        rows: its committed events.
        record: its row, once it was created.
        inbox: its messages, by sequence.
        attempt_rows: rows of attempts, by scheduled event and attempt.
        replies: those to refused updates, by request id.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.record: RunRecord | None = None
        self.inbox: dict[int, MessageRecord] = {}
        self.attempt_rows: dict[tuple[int, int], AttemptRecord] = {}
        self.replies: dict[str, ReplyRecord] = {}
        self.sequence = 0

    # --- what is committed ------------------------------------------------------------

    def events(self) -> list[HistoryEvent]:
        """What was committed."""
        return decode_rows(self.rows)

    def keys(self) -> list[str]:
        """The request ids of committed messages and updates, in order."""
        found: list[str] = []
        for event in self.events():
            what = event.attributes
            if isinstance(what, WorkflowExecutionUpdateAccepted):
                found.append(what.update_id)
            elif isinstance(what, WorkflowExecutionSignaled):
                found.append(what.request_id)
        return found

    def is_committed(self, key: str) -> bool:
        """Whether a message is in the history."""
        return key in self.keys()

    @property
    def is_open(self) -> bool:
        """The run has not closed."""
        return self.record is not None and self.record.status is RunStatus.RUNNING

    def loaded(self) -> LoadedRun | None:
        """What a reader finds."""
        if self.record is None:
            return None
        rows = sorted(self.attempt_rows.items())
        return LoadedRun(
            record=self.record,
            rows=[*self.rows],
            messages=[*self.inbox.values()],
            attempts=[row for _, row in rows],
        )

    # --- writes ----------------------------------------------------------------------

    def apply(self, operation: Any, worker_id: str) -> Any:
        """Take a write of this worker, or refuse it."""
        if isinstance(operation, StartRun):
            if self.record is not None:
                return Started(self.record.run_id, created=False)
            self.record, self.rows = operation.record, [*operation.rows]
            return Started(RUN, created=True)
        if self.record is None or not self.is_open:
            raise HistoryTakenError("closed")
        was_at_rest = self.record.owner is None
        if self.record.owner not in (None, worker_id):
            raise HistoryTakenError("another's")
        if self.record.epoch != operation.epoch:
            raise HistoryTakenError("another's since")
        change: dict[str, Any] = {}
        result: Any = None
        if isinstance(operation, CommitTask):
            result = self._commit(operation, change, worker_id)
            if isinstance(result, MailArrived):
                return result
        elif isinstance(operation, ParkRun):
            change = {"stuck": operation.stuck, "owner": None, "wake_at": None}
        else:
            self._put_attempts(operation.attempts)
            change = self._move(operation, worker_id)
        if was_at_rest or change.get("owner", "") is None:
            change["epoch"] = self.record.epoch + 1
        self.record = msgspec.structs.replace(self.record, **change)
        return result

    def _move(self, operation: Any, worker_id: str) -> dict[str, Any]:
        """Whose it is from now on, and when it is due: at once for unseen mail."""
        if operation.is_active:
            return {"owner": worker_id, "wake_at": operation.wake_at}
        unseen = self.inbox.keys() - {*operation.known}
        return {"owner": None, "wake_at": AT_ONCE if unseen else operation.wake_at}

    def _commit(
        self, operation: CommitTask, change: dict[str, Any], worker_id: str
    ) -> Any:
        if operation.status is not None or operation.sees_all_mail:
            unseen = policies.find_unseen(operation, [*self.inbox.values()])
            if unseen:
                return MailArrived(messages=unseen)
        positions = [row[1] for row in operation.rows]
        expected = range(len(self.rows) + 1, len(self.rows) + 1 + len(positions))
        if positions != [*expected]:
            raise HistoryTakenError("position")
        self.rows += operation.rows
        self._put_attempts(operation.attempts)
        for reply in operation.replies:
            self.replies[reply.request_id] = reply
        for number, message in [*self.inbox.items()]:
            if (
                number in operation.consumed
                or message.request_id in operation.consumed_requests
            ):
                del self.inbox[number]
        if operation.status is not None:
            assert not [m for m in self.inbox.values() if m.kind != "query"]
            self.inbox.clear()
            change |= {
                "status": operation.status,
                "owner": None,
                "wake_at": None,
            }
        elif operation.update_run:
            change |= {**self._move(operation, worker_id), "stuck": None}
        parts = operation.has_children and operation.status is not None
        if not (parts or operation.messages or operation.starts):
            return None
        return Committed(deliveries=("other run",) * len(operation.messages))

    def _put_attempts(self, attempts: tuple[AttemptRecord, ...]) -> None:
        scheduled = {row[1] for row in self.rows if row[3] == "ActivityTaskScheduled"}
        for row in attempts:
            assert row.scheduled_event_id in scheduled, "of what is not recorded"
            self.attempt_rows[row.scheduled_event_id, row.attempt] = row

    def write_mail(self, kind: str, request_id: str, data: str) -> int:
        """Put a row into the inbox, unless that request is there."""
        if any(m.request_id == request_id for m in self.inbox.values()):
            return self.sequence
        self.sequence += 1
        self.inbox[self.sequence] = MessageRecord(
            run_id=RUN,
            kind=kind,
            request_id=request_id,
            data=data,
            created_at=0,
            sequence=self.sequence,
        )
        return self.sequence

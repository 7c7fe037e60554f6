"""The rows of many operations, sorted by the statement that writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from durable.store import policies
from durable.store.records import (
    CommitTask,
    DropReplies,
    RecordAttempts,
    StartRun,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable.store.database import (
        Closing,
        HotPath,
        Place,
        Published,
        RequestKey,
        WakeUp,
    )
    from durable.store.family import Letter
    from durable.store.mail import Mail
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        ReplyRecord,
        WorkerRecord,
    )
    from durable.store.steady_clock import SteadyClock

Writing: TypeAlias = StartRun | CommitTask | RecordAttempts | DropReplies


class StaleViewError(Exception):
    """A commit was for a run that its worker does not own, or not as far as it thinks.

    Which one is found by looking before writing.
    """


class Work:
    """What some operations write about their own runs, and the messages they put.

    No two of the operations may name the same run.
    """

    def __init__(
        self,
        hot: HotPath,
        mail: Mail,
        clock: SteadyClock,
        worker: WorkerRecord | None,
    ) -> None:
        """Write as `worker`, whose lease is known to stand if it matters."""
        self._hot = hot
        self._mail = mail
        self._clock = clock
        self._fence = 0 if worker is None else worker.fence
        self._owner = "" if worker is None else worker.worker_id
        self._starts: list[StartRun] = []
        self._history: list[tuple[list[HistoryRow], int]] = []
        self._closings: list[Closing] = []
        self._updates: list[WakeUp] = []
        self._wake_ups: list[WakeUp] = []
        self._appended: list[Place] = []
        self._attempts: list[AttemptRecord] = []
        self._published: list[Published] = []
        self._replies: list[ReplyRecord] = []
        self._read_replies: list[RequestKey] = []
        self._consumed: list[tuple[str, int]] = []
        self._consumed_requests: list[RequestKey] = []
        self._letters: list[Letter] = []

    def add(self, operation: Writing) -> None:
        """Take in what an operation writes about its own run."""
        if isinstance(operation, CommitTask):
            self._add_commit(operation)
        elif isinstance(operation, StartRun):
            fence = 0 if operation.record.owner is None else self._fence
            self._starts.append(operation)
            self._history.append((operation.rows, fence))
        elif isinstance(operation, RecordAttempts):
            self._attempts += operation.attempts
            wake_up = (operation.run_id, operation.is_active, operation.wake_at, 0)
            self._wake_ups.append(wake_up)
        else:
            self._read_replies += operation.keys

    def _add_commit(self, operation: CommitTask) -> None:
        run_id = operation.run_id
        self._history.append((operation.rows, self._fence))
        follows = policies.find_predecessor(operation.rows)
        if operation.attempts:
            self._attempts += operation.attempts
        if operation.replies:
            self._replies += operation.replies
        if operation.state is not None or operation.checkpoint_event_id is not None:
            published = (run_id, operation.state, operation.checkpoint_event_id)
            self._published.append(published)
        if operation.status is not None:
            closed_at = operation.closed_at
            if closed_at is None:
                closed_at = self._clock.now()
            self._closings.append((run_id, operation.status.value, closed_at, follows))
            # Its inbox is emptied, whatever it consumed.
            return
        if operation.consumed:
            self._consumed += [(run_id, s) for s in operation.consumed]
        if operation.consumed_requests:
            self._consumed_requests += [
                (run_id, r) for r in operation.consumed_requests
            ]
        if operation.update_run:
            wake_up = (run_id, operation.is_active, operation.wake_at, follows)
            self._updates.append(wake_up)
        else:
            self._appended.append((run_id, follows))

    def add_letters(self, letters: Iterable[Letter]) -> None:
        """Take in messages for runs that are open and not written by these operations.

        They keep the order in which they were added.
        """
        self._letters += letters

    def write(self) -> None:
        """Write everything.

        Raises:
            StaleViewError: some run was not this worker's, or has no such end.
            Exception: the driver's.
        """
        hot = self._hot
        if self._starts:
            records = [start.record for start in self._starts]
            hot.insert_runs(records)
            self._mail.note_starts(records)
        if self._history:
            hot.append_history(self._history)
        self._write_runs()
        if self._attempts:
            hot.put_attempts(self._attempts)
        if self._published:
            hot.publish(self._published)
        if self._replies:
            hot.put_replies(self._replies)
        if self._read_replies:
            hot.delete_replies(self._read_replies)
        self._empty_inboxes()
        if self._letters:
            self._mail.put(self._letters)

    def _write_runs(self) -> None:
        hot = self._hot
        owned = 0
        if self._closings:
            owned += hot.close_runs(self._closings, self._owner)
            self._mail.note_closings(self._closings)
        if self._updates:
            owned += hot.update_runs(self._updates, self._owner)
        if self._wake_ups:
            owned += hot.wake_runs(self._wake_ups, self._owner)
        if self._appended:
            owned += len(hot.find_writable(self._appended, self._owner))
        expected = len(self._closings) + len(self._updates)
        expected += len(self._wake_ups) + len(self._appended)
        if owned != expected:
            raise StaleViewError

    def _empty_inboxes(self) -> None:
        hot = self._hot
        if self._consumed:
            hot.delete_messages(self._consumed)
        if self._consumed_requests:
            hot.delete_requests(self._consumed_requests)
        if self._closings and self._mail.has_any:
            hot.delete_inboxes([closing[0] for closing in self._closings])

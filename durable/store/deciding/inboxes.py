"""Messages of one group of operations: whom they reach, and which wait: pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from durable import limits
from durable.errors import DurableError
from durable.store.deciding import policies
from durable.store.deciding.rows import CREATED
from durable.store.records import NEVER, MessageKind, MessageRecord

if TYPE_CHECKING:
    from durable.store.deciding.draft import Draft
    from durable.store.deciding.family import Letter
    from durable.store.deciding.rows import Run
    from durable.store.records import (
        CommitTask,
        PutMessage,
        RecordAttempts,
        TerminateRun,
    )

_QUERY: Final = MessageKind.QUERY.value
_RESUME: Final = MessageKind.RESUME.value
_place: Final = attrgetter("sequence")


class Inboxes:
    """The inboxes as they are after some of a group's operations."""

    def __init__(self, draft: Draft) -> None:
        """Begin with what was seen."""
        self._draft = draft
        self._seen = draft.seen
        self._put: dict[str, dict[str, MessageRecord]] = {}
        self._count = 0
        self.has_any = draft.seen.first_sequence is not None
        """Whether anything may wait in any inbox."""

    def find(self, request: PutMessage | TerminateRun) -> Run:
        """Return the open run that a request is for.

        Raises:
            WorkflowNotFoundError, WorkflowClosedError: it reaches nobody.
        """
        draft = self._draft
        run: Run | None
        if request.run_id is not None:
            run = draft.find_run(request.run_id)
            if run is not None and not policies.is_addressed(request, run):
                run = None
            return policies.get_open_target(request, run)
        key = (request.namespace, request.workflow_id)
        name = draft.find_name(key)
        run = name.open
        if request.first_run_id is None:
            run = run or name.newest
        elif run is None or run.first_run_id != request.first_run_id:
            run = draft.find_newest_of_chain((*key, request.first_run_id))
        return policies.get_open_target(request, run)

    def send(self, run: Run, message: PutMessage) -> str:
        """Put a message for an open run, unless its request waits already.

        Raises:
            InboxFullError: too many wait.
        """
        run_id, request_id = run.run_id, message.request_id
        if not self.waits(run, request_id):
            if policies.is_bounded(message) and self._is_full(run):
                raise policies.inbox_full(message)
            self._add(run, request_id, message.kind, message.data)
        return run_id

    def put(self, run: Run, letter: Letter) -> None:
        """Put what no bound refuses, unless its request waits already."""
        if not self.waits(run, letter[1]):
            self._add(run, *letter[1:])

    def waits(self, run: Run, request_id: str) -> bool:
        """Whether a message of that request waits for an open run."""
        run_id = run.run_id
        put = self._put.get(run_id)
        if put is not None and request_id in put:
            return True
        seen = self._seen
        if seen.first_sequence is None or run.changes & CREATED:
            return False
        mail = seen.mail.get(run_id)
        if mail is not None and request_id in mail:
            return True
        if run_id in seen.all_mail or (run_id, request_id) in seen.looked:
            return False
        self._draft.lack("looked", (run_id, request_id))

    def _is_full(self, run: Run) -> bool:
        seen, run_id = self._seen, run.run_id
        most, waiting = limits.INBOX_MESSAGES_MAX, 0
        if seen.first_sequence is not None and not run.changes & CREATED:
            most_waiting = seen.most_waiting
            if most_waiting is None:
                # No more can wait in all inboxes together.
                most_waiting = self._last_sequence() - seen.first_sequence + 1
            waiting = most_waiting
            if waiting + self._count >= most:
                if run_id not in seen.all_mail:
                    self._draft.lack("mail", run_id)
                waiting = len(seen.mail.get(run_id, ()))
        return waiting + len(self._put.get(run_id, ())) >= most

    def _last_sequence(self) -> int:
        last = self._seen.last_sequence
        if last is None:
            self._draft.lack("sequence", None)
        return last

    def _add(self, run: Run, request_id: str, kind: str, data: str) -> None:
        run_id = run.run_id
        if run.wake_at != NEVER or kind == _RESUME:
            self._draft.wake(run)
        self._seen.last_sequence = sequence = self._last_sequence() + 1
        self._count += 1
        self.has_any = True
        self._put.setdefault(run_id, {})[request_id] = MessageRecord(
            run_id=run_id,
            kind=kind,
            request_id=request_id,
            data=data,
            created_at=self._draft.now,
            sequence=sequence,
        )

    def _find_mail(self, run_id: str) -> dict[str, tuple[int, str]] | None:
        """Return all that waited for a run, as `Seen.mail` has it."""
        mail = self._seen.mail.get(run_id)
        if mail is None and run_id not in self._seen.all_mail:
            run = self._draft.find_run(run_id)
            if run is not None and not run.changes & CREATED:
                self._draft.lack("mail", run_id)
        return mail

    def find_unseen(self, operation: CommitTask) -> list[MessageRecord]:
        """Return the messages that keep a run from closing, oldest first."""
        seen, run_id = self._seen, operation.run_id
        waiting: list[MessageRecord] = []
        if seen.first_sequence is not None:
            mail = self._find_mail(run_id)
            if mail and _has_unseen(operation, mail):
                messages = seen.messages.get(run_id)
                if messages is None:
                    self._draft.lack("messages", run_id)
                if isinstance(messages, DurableError):
                    raise messages
                waiting = [m for m in messages if m.request_id in mail]
        put = self._put.get(run_id)
        if put:
            waiting += put.values()
        return policies.find_unseen(operation, waiting) if waiting else waiting

    def waiting_for(self, run: Run) -> list[MessageRecord]:
        """Return all that waits for an open run, oldest first."""
        seen, run_id = self._seen, run.run_id
        waiting: list[MessageRecord] = []
        if seen.first_sequence is not None and not run.changes & CREATED:
            mail = seen.mail.get(run_id)
            if mail is None and run_id not in seen.all_mail:
                self._draft.lack("mail", run_id)
            if mail:
                messages = seen.messages.get(run_id)
                if messages is None:
                    self._draft.lack("messages", run_id)
                if isinstance(messages, DurableError):
                    raise messages
                waiting = [m for m in messages if m.request_id in mail]
        return [*waiting, *self._put.get(run_id, {}).values()]

    def has_kind(self, run_id: str, kind: str) -> bool:
        """Whether a message of a kind waits for a run."""
        seen = self._seen
        put = self._put.get(run_id, {}).values()
        if seen.first_sequence is not None:
            mail = seen.mail.get(run_id)
            if mail is None and run_id not in seen.all_mail:
                self._draft.lack("mail", run_id)
            if mail and any(found == kind for _, found in mail.values()):
                return True
        return any(message.kind == kind for message in put)

    def has_more(self, operation: CommitTask | RecordAttempts) -> bool:
        """Whether messages wait for a run that it does not know of."""
        if not self.has_any:
            return False
        seen, run_id = self._seen, operation.run_id
        known = frozenset(operation.known)
        if seen.first_sequence is not None:
            mail = self._find_mail(run_id)
            if mail and any(sequence not in known for sequence, _ in mail.values()):
                return True
        put = self._put.get(run_id)
        return put is not None and any(m.sequence not in known for m in put.values())

    def consume(self, operation: CommitTask) -> None:
        """Take away the messages that a commit has taken up."""
        run_id, rows = operation.run_id, self._draft.rows
        sequences, requests = operation.consumed, operation.consumed_requests
        if self._seen.first_sequence is not None:
            rows.consumed += [(run_id, sequence) for sequence in sequences]
            rows.consumed_requests += [(run_id, request) for request in requests]
            mail = self._seen.mail.get(run_id)
            if mail:
                taken = frozenset(sequences)
                for request in [r for r, (s, _) in mail.items() if s in taken]:
                    del mail[request]
                for request in requests:
                    mail.pop(request, None)
        put = self._put.get(run_id)
        if put:
            taken = frozenset(sequences)
            for request in [r for r, m in put.items() if m.sequence in taken]:
                del put[request]
            for request in requests:
                put.pop(request, None)

    def empty(self, run: Run) -> None:
        """Take away whatever waits for a run that closes."""
        seen, run_id = self._seen, run.run_id
        if seen.first_sequence is not None and not run.changes & CREATED:
            is_empty = run_id in seen.all_mail and not seen.mail.get(run_id)
            if not is_empty:
                self._draft.rows.emptied.append(run_id)
        if self._put:
            self._put.pop(run_id, None)

    def finish(self) -> None:
        """Put all that waits of this group into the rows to write."""
        if self._count:
            rows = self._draft.rows
            letters = [m for put in self._put.values() for m in put.values()]
            letters.sort(key=_place)
            rows.letters = letters
            rows.last_sequence = self._seen.last_sequence


def _has_unseen(operation: CommitTask, mail: dict[str, tuple[int, str]]) -> bool:
    sequences = frozenset(operation.consumed)
    requests = frozenset(operation.consumed_requests)
    return any(
        kind != _QUERY and sequence not in sequences and request not in requests
        for request, (sequence, kind) in mail.items()
    )

"""What a group of operations does to the rows that it has looked at: pure.

Operations take effect one after the other, each on what those before it have left, so
it does not matter how they are grouped. What one of them is refused for is known
before anything of it is done, and a refused one harms no neighbour. This is the only
place that decides: every database looks and writes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from durable.errors import CorruptHistoryError, DurableError
from durable.options import ALLOW_DUPLICATE
from durable.store.activity_tasks import (
    BeatActivityTask,
    CancelArrived,
    CompleteActivity,
    SettleActivityTask,
    UpdateActivityTask,
)
from durable.store.deciding import family, policies
from durable.store.deciding.draft import Draft, UnseenError
from durable.store.deciding.endings import Endings
from durable.store.deciding.inboxes import Inboxes
from durable.store.deciding.resets import Resets, readdress
from durable.store.records import (
    NEVER,
    RUNNING,
    CommitTask,
    Committed,
    Delivered,
    DeliverOutbox,
    DropReplies,
    FoundRun,
    ImportRun,
    MailArrived,
    MessageKind,
    ParkRun,
    PutMessage,
    RecordAttempts,
    ResetRun,
    SettleOutbox,
    Started,
    StartRun,
    Terminated,
    TerminateRun,
    at_once,
)

if TYPE_CHECKING:
    from durable.store.deciding.rows import Rows, Run, Seen
    from durable.store.deciding.wanted import Lack
    from durable.store.records import Properties, WorkerRecord

Outcomes: TypeAlias = list[tuple[Any, BaseException | None]]

_PENDING: Final = (None, None)
_RESUME: Final = MessageKind.RESUME.value


class Decided(msgspec.Struct, frozen=True):
    """What becomes of a group.

    Attributes:
        outcomes: of each operation its result, or why it was refused.
        is_lost: an operation has found the lease gone.
    """

    outcomes: Outcomes
    rows: Rows
    is_lost: bool


def decide(
    operations: Iterable[Any],
    seen: Seen,
    now: int | None,
    worker: WorkerRecord | None,
) -> Decided | list[Lack]:
    """Carry operations out, in order.

    Args:
        operations: those of `DECIDED`.
        seen: what look brought for them; it is used up.
        now: the database's time; None if `Wanted.has_time` was not set.
        worker: this store's worker, if one is registered.

    Returns:
        What becomes of them; or what else must be looked at before that is known.
    """
    draft = Draft(seen, now)
    decision = _Decision(draft, worker)
    attempt = decision.attempt
    outcomes: Outcomes = [attempt(operation) for operation in operations]
    if draft.lacking:
        return draft.lacking
    decision.inboxes.finish()
    return Decided(outcomes, draft.finish(), decision.is_lost)


class _Decision:
    def __init__(self, draft: Draft, worker: WorkerRecord | None) -> None:
        self._draft = draft
        self._seen = draft.seen
        self._worker = worker
        has_lease = worker is not None and draft.seen.has_worker
        # No worker has the empty id.
        self._owner = worker.worker_id if worker is not None and has_lease else ""
        self.inboxes = Inboxes(draft)
        self._endings = Endings(draft, self.inboxes)
        self.is_lost = False

    def attempt(self, operation: Any) -> tuple[Any, DurableError | None]:
        """Carry an operation out, and return its outcome."""
        try:
            return self.HANDLERS[type(operation)](self, operation), None
        except DurableError as error:
            # Its frames lead back to the outcomes that hold it: a cycle that would keep
            # the whole run for the collector.
            return None, error.with_traceback(None)
        except UnseenError:
            return _PENDING

    def _attempt_each(self, operations: Iterable[Any]) -> tuple[Any, ...]:
        outcomes = map(self.attempt, operations)
        return tuple(result if error is None else error for result, error in outcomes)

    def _refuse_lease(self) -> DurableError:
        self.is_lost = self._worker is not None
        return policies.lease_lost(self._worker)

    def _get_writable(self, operation: CommitTask | RecordAttempts | ParkRun) -> Run:
        """Return a run that this store's worker may write to.

        Raises:
            LeaseLostError, HistoryTakenError: it may not.
        """
        if not self._owner:
            raise self._refuse_lease()
        run = self._draft.find_run(operation.run_id)
        parks = type(operation) is ParkRun
        # One whose row nobody can read must not be tried for ever.
        if run is None or not (run.status is RUNNING or (parks and run.status is None)):
            raise policies.not_owner(operation.run_id)
        # That this worker owns it says nothing of what it remembers: it may have taken
        # the run just now, after others had it.
        is_as_known = run.epoch == operation.epoch or (
            parks and not policies.is_position(run.epoch)
        )
        if not is_as_known or run.owner not in (None, self._owner):
            raise policies.not_owner(operation.run_id)
        return run

    def _move(self, run: Run, operation: CommitTask | RecordAttempts) -> None:
        """Leave a run to this worker or at rest, and say when it is to be woken.

        At rest it is due at once for what it has not seen.
        """
        owner: str | None = self._owner
        wake_at = operation.wake_at
        if not operation.is_active:
            owner = None
            if self.inboxes.has_more(operation):
                wake_at = at_once(self._draft.now)
        # A worker whose write was refused may have others on their way. The epoch that
        # they name must not come again, though the run be at rest once more.
        if run.owner is None or owner is None:
            run.epoch += 1
        self._draft.move(run, owner, wake_at)

    # --- tasks ------------------------------------------------------------------------

    def _commit(self, operation: CommitTask) -> MailArrived | Committed | None:
        draft, run_id = self._draft, operation.run_id
        run = self._seen.runs.get(run_id)
        if run is None or run.owner != self._owner or run.epoch != operation.epoch:
            run = self._get_writable(operation)
        rows, status = operation.rows, operation.status
        follows = policies.find_predecessor(rows) if rows else run.last_event_id
        if not 0 <= follows <= run.last_event_id:
            raise policies.position_missing(run.run_id)
        inboxes = self.inboxes
        if inboxes.has_any and (status is not None or operation.sees_all_mail):
            unseen = inboxes.find_unseen(operation)
            if unseen:
                return MailArrived(messages=unseen)
        if follows != run.last_event_id:
            raise policies.position_taken(run.run_id)
        properties = operation.properties
        if properties is not None:
            self._describe(run, properties)
        if rows:
            draft.append(run, rows)
        if operation.attempts:
            self._put_attempts(operation)
        if operation.replies:
            for reply in operation.replies:
                draft.rows.replies[reply.run_id, reply.request_id] = reply
        if operation.state is not None or operation.checkpoint_event_id is not None:
            draft.publish(run, operation.state, operation.checkpoint_event_id)
        stopped: tuple[int, ...] = ()
        if operation.tasks or operation.withdrawn or operation.cancels:
            stopped = self._endings.tasks.apply(run, operation)
        if status is not None:
            if operation.has_tasks:
                self._endings.tasks.close(run)
            closed_at = operation.closed_at
            if inboxes.has_any:
                inboxes.empty(run)
            draft.close(run, status, draft.now if closed_at is None else closed_at)
        else:
            if inboxes.has_any:
                inboxes.consume(operation)
            if operation.update_run:
                self._move(run, operation)
                draft.park(run, None)
            elif run.owner is None:
                run.epoch += 1
                draft.move(run, None, run.wake_at)
        parts = operation.has_children and status is not None
        if not (parts or operation.messages or operation.starts or operation.cancels):
            return None
        operation = readdress(run, operation)
        deliveries = self._attempt_each(operation.messages)
        ended: tuple[str, ...] = ()
        cancelled: tuple[str, ...] = ()
        if parts:
            ended, cancelled = self._endings.part_from_children(run.run_id)
        return Committed(
            deliveries=deliveries,
            started=self._attempt_each(operation.starts),
            ended=ended,
            cancelled=cancelled,
            stopped=stopped,
        )

    def _describe(self, run: Run, properties: Properties) -> None:
        if properties.attributes is not None:
            self._draft.check_attributes(properties.namespace, properties.attributes)
        self._draft.describe(run, properties)

    def _put_attempts(self, operation: CommitTask | RecordAttempts | ImportRun) -> None:
        attempts = self._draft.rows.attempts
        for attempt in operation.attempts:
            key = (attempt.run_id, attempt.scheduled_event_id, attempt.attempt)
            attempts[key] = attempt

    def _record_attempts(self, operation: RecordAttempts) -> Committed | None:
        run = self._get_writable(operation)
        self._put_attempts(operation)
        stopped: tuple[int, ...] = ()
        if operation.tasks or operation.withdrawn or operation.cancels:
            stopped = self._endings.tasks.apply(run, operation)
        self._move(run, operation)
        return Committed(stopped=stopped) if operation.cancels else None

    def _park(self, operation: ParkRun) -> None:
        run = self._get_writable(operation)
        run.epoch = operation.epoch + 1
        wake_at = operation.wake_at
        if wake_at == NEVER and self.inboxes.has_kind(run.run_id, _RESUME):
            wake_at = at_once(self._draft.now)  # nobody has seen it
        self._draft.move(run, None, wake_at)
        self._draft.park(run, operation.stuck)

    # --- starts -----------------------------------------------------------------------

    def _start(self, operation: StartRun) -> Started:
        draft, record = self._draft, operation.record
        driver = record.owner or (operation.driver if operation.starts else None)
        if driver is not None:
            if not self._owner:
                raise self._refuse_lease()
            if driver != self._owner:
                raise policies.owner_gone(driver, record.run_id)
        policies.check_beginning(operation)
        name = draft.find_name((record.namespace, record.workflow_id))
        same = draft.find_request((record.namespace, record.request_id))
        open_run = name.open
        if same is not None or name.newest is not None or open_run is not None:
            answer = policies.find_start_answer(
                operation,
                same_request=same,
                open_run=open_run,
                newest=None
                if operation.reuse_policy is ALLOW_DUPLICATE
                else name.newest,
            )
            if answer is not None:
                return self._answer(operation, answer)
        if record.parent_run_id is not None:
            guardian = policies.guardian_of(operation)
            if guardian is not None:
                parent = self.inboxes.find(guardian)
                if open_run is not None:
                    self._check_ancestors(parent, open_run)
        # One that was not looked for is refused by its key.
        if self._seen.runs.get(record.run_id) is not None:
            raise policies.run_id_taken(record.run_id)
        if record.attributes is not None:
            draft.check_attributes(record.namespace, record.attributes)
        committed = Committed()
        if open_run is not None:
            committed = self._endings.terminate(open_run, operation.terminated_data)
        draft.create(operation, name)
        for task in operation.tasks:
            self._endings.tasks.put(task)
        if operation.messages or operation.starts:
            committed = msgspec.structs.replace(
                committed,
                deliveries=self._attempt_each(operation.messages),
                started=self._attempt_each(operation.starts),
            )
        elif open_run is None:
            return Started(record.run_id, True)
        return Started(
            run_id=record.run_id,
            created=True,
            terminated_run_id=None if open_run is None else open_run.run_id,
            committed=committed if committed != Committed() else None,
        )

    def _check_ancestors(self, parent: Run, doomed: Run) -> None:
        """Return unless a start would end what it is to be a child of."""
        run: Run | None = parent
        while run is not None:
            if run is doomed:
                raise policies.already_running(doomed)
            is_bound = run.parent_close_policy == family.TERMINATE
            above = run.parent_run_id if is_bound else None
            run = None if above is None else self._draft.find_run(above)

    def _answer(self, operation: StartRun, answer: Started) -> Started:
        draft, message = self._draft, operation.message_if_open
        existing = draft.find_run(answer.run_id)
        assert existing is not None  # noqa: S101 - it was found by its id or request
        if operation.wants_found:
            record = draft.find_record(existing)
            if record.damage is not None:
                raise CorruptHistoryError(record.damage)
            first_data = draft.find_first_data(record.first_run_id)
            found = FoundRun(record, first_data)
            answer = msgspec.structs.replace(answer, found=found)
        if message is None or existing.status is not RUNNING:
            return answer
        committed = Committed(deliveries=(self.inboxes.send(existing, message),))
        return msgspec.structs.replace(answer, committed=committed)

    # --- whoever asks -----------------------------------------------------------------

    def _put_message(self, operation: PutMessage) -> str:
        return self.inboxes.send(self.inboxes.find(operation), operation)

    def _terminate(self, operation: TerminateRun) -> Terminated:
        run = self.inboxes.find(operation)
        committed = self._endings.terminate(run, operation.data)
        return Terminated(run_id=run.run_id, committed=committed)

    def _reset(self, operation: ResetRun) -> Started | None:
        resets = Resets(self._draft, self.inboxes, self._endings)
        return resets.reset(operation)

    def _import(self, operation: ImportRun) -> None:
        draft, record = self._draft, operation.record
        policies.check_beginning(operation)
        there = draft.find_run(record.run_id)
        there = there or draft.find_request((record.namespace, record.request_id))
        if there is not None:
            raise policies.run_exists(record, there)
        name = draft.find_name((record.namespace, record.workflow_id))
        if record.attributes is not None:
            keeps = not operation.is_dry
            draft.check_attributes(record.namespace, record.attributes, keeps=keeps)
        if operation.is_dry:
            return
        newest = name.newest
        run = draft.create(operation, name)
        self._put_attempts(operation)
        # A reset is told by a mark, which is no part of what was exported.
        first: Run | None = run
        if record.first_run_id != record.run_id:
            first = draft.find_run(record.first_run_id)
        elif newest is None or newest.first_run_id != record.run_id:
            first = None
        if first is not None:
            draft.mark_reset(first, "")

    # --- activities -------------------------------------------------------------------

    def _settle(self, operation: SettleActivityTask) -> bool | CancelArrived:
        if not self._owner:
            raise self._refuse_lease()
        return self._endings.tasks.settle(operation, self._owner)

    def _complete(self, operation: CompleteActivity) -> str:
        return self._endings.tasks.complete(operation)

    def _beat(self, operation: BeatActivityTask) -> str | None:
        if not (self._owner or operation.is_external):
            raise self._refuse_lease()
        return self._endings.tasks.beat(operation, self._owner)

    def _update_task(self, operation: UpdateActivityTask) -> bool:
        return self._endings.tasks.update(operation)

    def _drop_replies(self, operation: DropReplies) -> None:
        self._draft.rows.replies.update(dict.fromkeys(operation.keys))

    def _deliver(
        self, operation: DeliverOutbox
    ) -> tuple[Delivered | DurableError, ...]:
        draft = self._draft
        outcomes: list[Delivered | DurableError] = []
        for item in operation.items:
            if draft.find_tries(item.sequence) is None:
                outcomes.append(Delivered(is_gone=True))
                continue
            result: Any = None
            if item.operation is not None:
                result, error = self.attempt(item.operation)
                if error is not None:
                    return (*outcomes, error)
            is_gone = not (isinstance(result, Started) and result.found is not None)
            outcomes.append(Delivered(is_gone=is_gone, result=result))
            if not is_gone:
                break
            draft.rows.delivered[item.sequence] = None
            draft.rows.settled.pop(item.sequence, None)
        return tuple(outcomes)

    def _settle_outbox(self, operation: SettleOutbox) -> bool:
        tries = self._draft.find_tries(operation.sequence)
        if tries is None or operation.expected not in (None, tries):
            return False
        self._draft.rows.settled[operation.sequence] = operation
        return True

    HANDLERS: ClassVar[dict[type[Any], Callable[[_Decision, Any], Any]]] = {
        StartRun: _start,
        CommitTask: _commit,
        RecordAttempts: _record_attempts,
        ParkRun: _park,
        PutMessage: _put_message,
        TerminateRun: _terminate,
        ResetRun: _reset,
        ImportRun: _import,
        DropReplies: _drop_replies,
        SettleActivityTask: _settle,
        CompleteActivity: _complete,
        BeatActivityTask: _beat,
        UpdateActivityTask: _update_task,
        DeliverOutbox: _deliver,
        SettleOutbox: _settle_outbox,
    }


DECIDED: Final = frozenset(_Decision.HANDLERS)
"""The kinds of operations that are decided here."""

# size: one tree, so that whoever catches errors finds all of them in one place.
"""Every exception that `durable` raises on purpose, in one tree.

    DurableError
    ├── InvalidInputError (ValueError)  refused at the call, before any write
    │   ├── DefinitionError           a decorator was put on something it cannot serve
    │   ├── InvalidIdError
    │   ├── InvalidDurationError
    │   ├── InvalidOptionError
    │   ├── InvalidCallError          arguments do not fit the signature
    │   ├── WrongDatabaseError        a connection leads to another database
    │   ├── TransactionEndedError     an activity has ended its own transaction
    │   ├── InvalidScheduleError      a cron text, calendar or interval means nothing
    │   ├── InvalidResetError         a run cannot go on from the place that was named
    │   ├── NotRegisteredError        no workflow or activity of that name here
    │   ├── AttributeTypeError        an attribute of that name has another type
    │   ├── QuerySyntaxError          the text of a query cannot be read; says where
    │   ├── VersionDeprecatedError    its version may not be started any more
    │   ├── MigrationError            no rule makes a call that of another version
    │   └── PayloadError              a value cannot be recorded as it is
    │       └── PayloadTooLargeError
    ├── QueryTooBroadError            a query would have looked at too many runs
    ├── NamespaceNotFoundError
    ├── NamespaceExistsError
    ├── QueueNotFoundError            nobody has configured that queue
    ├── WorkflowNotFoundError
    ├── ScheduleNotFoundError
    ├── ScheduleExistsError           another schedule has that id
    ├── WorkflowAlreadyStartedError
    ├── WorkflowClosedError           the run can no longer take this request
    ├── ActivityNotFoundError         nobody waits for that activity
    ├── AttemptOverError              that attempt of an activity was over before
    ├── ResetConflictError            the run went on whenever it was to be reset
    ├── RunNeededError                the run cannot be deleted yet; says why
    ├── RunExistsError                a run to be imported is there already
    ├── ArchiveError                  a file of exported runs cannot be used
    ├── InboxFullError                too many messages wait for the run
    ├── NotCommittedError             nothing is known of a start in a transaction
    ├── OutboxRefusedError            what a transaction asked for cannot be done
    ├── WorkflowFailedError           what `result()` raises; the cause is chained
    │   ├── WorkflowCancelledError
    │   ├── WorkflowTerminatedError
    │   └── WorkflowTimedOutError (TimeoutError)
    ├── WorkflowStuckError            parked until the code is mended
    ├── WorkflowPausedError           its code answers nothing until it is resumed
    ├── ResultTimeoutError (TimeoutError)  the wait ended, the run goes on
    ├── QueryFailedError              the run's code cannot answer; the run is unharmed
    ├── UpdateFailedError             what `update()` raises; the cause is chained
    │   └── UpdateRejectedError       its validator refused it; nothing was recorded
    ├── NoAnswerError (TimeoutError)  no worker has answered in time
    ├── EntityDeadlockError           a call of an entity could only wait for itself
    ├── FailureError                  failures as workflow code sees them
    │   ├── ApplicationError          raise it to choose type, details, retry
    │   ├── RemoteError               an exception whose class is not known here
    │   ├── ActivityError
    │   │   ├── ActivityTimeoutError (TimeoutError)
    │   │   └── OutcomeUnknown        an attempt in doubt that must not be repeated
    │   ├── ChildWorkflowError        a child ended without a result
    │   ├── CompensationFailed        steps of a saga could not be undone
    │   └── IllegalTransition         an event that a state machine's state forbids
    ├── WorkflowTaskError             workflow code cannot go on; the run parks
    │   ├── NondeterminismError
    │   ├── UndecodableError          a recorded value does not fit today's types
    │   ├── NotInWorkflowError
    │   ├── ReadOnlyError             a query or validator tried to change the run
    │   ├── ForbiddenInWorkflowError  threads, sockets, blocking calls
    │   └── WorkflowBlockedError      the code held the thread too long
    ├── StoreError
    │   ├── DatabaseUnavailableError
    │   ├── DatabaseReadOnlyError
    │   ├── DatabaseFullError
    │   ├── NotADatabaseError
    │   ├── SchemaRevisionError
    │   ├── CorruptHistoryError       rows no release of this library wrote
    │   ├── LeaseLostError
    │   ├── HistoryTakenError
    │   └── CommitUnknownError        the answer to a commit was lost
    ├── ResourceError                 an engine lacks what its activities take
    ├── EngineClosedError
    └── InternalError                 a broken invariant; please report it

Each class carries a stable `code`, used by the command line and in the errors
reference. Errors survive pickling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datetime import timedelta


class DurableError(Exception):
    """Root of every error of this library."""

    code: ClassVar[str] = "durable_error"
    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message and, apart from it, what to do about it."""
        super().__init__(message if hint is None else f"{message} {hint}")
        self.message = message
        if hint is not None:
            self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, so that constructors may take what they like."""
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    cls: type[DurableError], args: tuple[Any, ...], state: dict[str, Any]
) -> DurableError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


# --- refused at the call --------------------------------------------------------------


class InvalidInputError(DurableError, ValueError):
    """A call was refused before anything was written."""

    code = "invalid_input"


class DefinitionError(InvalidInputError):
    """`@workflow` or `@activity` was applied to something it cannot serve."""

    code = "invalid_definition"


class InvalidIdError(InvalidInputError):
    """An id is empty, too long, or holds characters that no database keeps alike."""

    code = "invalid_id"


class InvalidDurationError(InvalidInputError):
    """A duration is negative, not finite, out of range, or not a duration at all."""

    code = "invalid_duration"


class InvalidOptionError(InvalidInputError):
    """An option has a value that its rule forbids, or no option has that name."""

    code = "invalid_option"


class VersionDeprecatedError(InvalidInputError):
    """A workflow was started in a version whose last day is over."""

    code = "version_deprecated"


class MigrationError(InvalidInputError):
    """No rule makes what an older version goes on with that of a newer one.

    A run whose rule fails parks, untouched, until the rule is mended.
    """

    code = "migration_failed"


class InvalidCallError(InvalidInputError):
    """The arguments do not fit the signature of the workflow or activity."""

    code = "invalid_call"


class WrongDatabaseError(InvalidInputError):
    """A caller's connection does not lead to the database of the engine's runs."""

    code = "wrong_database"


class TransactionEndedError(InvalidInputError):
    """An activity's own code has ended the transaction that it was given."""

    code = "transaction_ended"


class InvalidResetError(InvalidInputError):
    """A run cannot go on from the place that was named."""

    code = "invalid_reset"


class InvalidScheduleError(InvalidInputError):
    """A cron text, calendar, interval or policy of a schedule means nothing.

    Attributes:
        field: which field is wrong, such as "hour"; empty if it is none of them.
        position: where in its text the fault is, from 1; 0 if it has no place.
    """

    code = "invalid_schedule"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        field: str = "",
        position: int = 0,
    ) -> None:
        """Keep the message, and where the fault is."""
        super().__init__(message, hint=hint)
        self.field = field
        self.position = position


class NotRegisteredError(InvalidInputError):
    """No workflow or activity of that name is known to this program."""

    code = "not_registered"


class AttributeTypeError(InvalidInputError):
    """A name is an attribute's of another type in this namespace."""

    code = "attribute_type"


class QuerySyntaxError(InvalidOptionError):
    """The text of a query cannot be read.

    Attributes:
        position: where, from 1; 0 if it is not of one place.
    """

    code = "query_syntax"
    position: int = 0


class QueryTooBroadError(DurableError):
    """A query would have looked at more runs than one may, and has ended."""

    code = "query_too_broad"


class NamespaceNotFoundError(DurableError):
    """Nobody has created a namespace of that name, and no run is in it."""

    code = "namespace_not_found"


class NamespaceExistsError(DurableError):
    """A namespace of that name was created before."""

    code = "namespace_exists"


class QueueNotFoundError(DurableError):
    """Nobody has configured a queue of that name."""

    code = "queue_not_found"


class PayloadError(InvalidInputError):
    """A value cannot be recorded, or would come back as something else."""

    code = "invalid_payload"


class PayloadTooLargeError(PayloadError):
    """A value is larger than `limits.PAYLOAD_BYTES_MAX` once encoded."""

    code = "payload_too_large"


# --- runs as a client sees them -------------------------------------------------------


class WorkflowNotFoundError(DurableError):
    """There is no run with that workflow id (and run id)."""

    code = "workflow_not_found"
    workflow_id: str | None = None
    """The id of which there is no run, if nothing else was asked for."""


class ScheduleNotFoundError(DurableError):
    """There is no schedule of that id, or it was deleted."""

    code = "schedule_not_found"


class ScheduleExistsError(DurableError):
    """A schedule of that id exists, and says something else."""

    code = "schedule_exists"


class WorkflowAlreadyStartedError(DurableError):
    """The workflow id is taken, and the chosen policies do not allow a new run."""

    code = "workflow_already_started"

    def __init__(
        self, message: str, *, hint: str | None = None, workflow_id: str, run_id: str
    ) -> None:
        """Name the run that holds the id."""
        super().__init__(message, hint=hint)
        self.workflow_id = workflow_id
        self.run_id = run_id


class WorkflowClosedError(DurableError):
    """The run has closed and takes no more requests."""

    code = "workflow_closed"


class ActivityNotFoundError(DurableError):
    """Nobody waits for that activity: it has ended, or its run has, or never was."""

    code = "activity_not_found"


class AttemptOverError(DurableError):
    """An attempt of an activity was over before: what was said of it was refused.

    Another attempt has its place, or none.
    """

    code = "attempt_over"


class ResetConflictError(DurableError):
    """A run has gone on each time it was to be reset; nothing was done."""

    code = "reset_conflict"


class RunNeededError(DurableError):
    """A run was not deleted, as it is open, or an open run may need it.

    Attributes:
        need: why: "open", "child" (one of it is open), "parent" (it is open and has
            work), "chain" (others of it must go first) or "reply" (one waits).
    """

    code = "run_needed"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        workflow_id: str,
        run_id: str,
        need: str = "",
    ) -> None:
        """Name the run, and why it stays."""
        super().__init__(message, hint=hint)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.need = need


class RunExistsError(DurableError):
    """A run that is to be imported is there already, by its run id or request id."""

    code = "run_exists"

    def __init__(
        self, message: str, *, hint: str | None = None, workflow_id: str, run_id: str
    ) -> None:
        """Name the run."""
        super().__init__(message, hint=hint)
        self.workflow_id = workflow_id
        self.run_id = run_id


class ArchiveError(DurableError):
    """A file of exported runs cannot be written, or cannot be read as one.

    Attributes:
        line: of which line; None if of the whole.
    """

    code = "archive"

    def __init__(
        self, message: str, *, hint: str | None = None, line: int | None = None
    ) -> None:
        """Keep the line."""
        super().__init__(message, hint=hint)
        self.line = line


class InboxFullError(DurableError):
    """Too many messages wait for the run; this one was not taken."""

    code = "inbox_full"


class NotCommittedError(DurableError):
    """A run that a transaction starts is not there, and nothing of it waits.

    The transaction is not committed yet, was rolled back, or its row was dropped.
    """

    code = "not_committed"


class OutboxRefusedError(DurableError):
    """What a committed transaction has asked for was refused, and is set aside.

    Attributes:
        sequence: its row in the outbox.
    """

    code = "outbox_refused"

    def __init__(self, message: str, *, hint: str | None = None, sequence: int) -> None:
        """Name the row."""
        super().__init__(message, hint=hint)
        self.sequence = sequence


class WorkflowFailedError(DurableError):
    """A run ended without a result; the failure is chained as `__cause__`."""

    code = "workflow_failed"

    def __init__(
        self, message: str, *, hint: str | None = None, workflow_id: str, run_id: str
    ) -> None:
        """Name the run."""
        super().__init__(message, hint=hint)
        self.workflow_id = workflow_id
        self.run_id = run_id


class WorkflowCancelledError(WorkflowFailedError):
    """The run ended as cancelled."""

    code = "workflow_cancelled"


class WorkflowTerminatedError(WorkflowFailedError):
    """The run was terminated from outside."""

    code = "workflow_terminated"


class WorkflowTimedOutError(WorkflowFailedError, TimeoutError):
    """The run passed its run timeout or its execution timeout."""

    code = "workflow_timed_out"


class WorkflowStuckError(DurableError):
    """Workflow code raised a bug; the run is parked, whole, until the code is mended.

    The traceback is in the message and the exception itself is chained as
    `__cause__`. The run goes on by itself once a worker starts with right code.
    """

    code = "workflow_stuck"

    def __init__(
        self, message: str, *, hint: str | None = None, workflow_id: str, run_id: str
    ) -> None:
        """Name the run."""
        super().__init__(message, hint=hint)
        self.workflow_id = workflow_id
        self.run_id = run_id


class WorkflowPausedError(DurableError):
    """Somebody has paused the run: its code answers nothing until it is resumed."""

    code = "workflow_paused"


class ResultTimeoutError(DurableError, TimeoutError):
    """Waiting for a result took longer than `timeout`; the run itself goes on."""

    code = "result_timeout"


# --- asking a run ---------------------------------------------------------------------


class QueryFailedError(DurableError):
    """A run's code cannot answer a query; the run is unharmed.

    What the handler raised is chained as `__cause__`.
    """

    code = "query_failed"


class UpdateFailedError(DurableError):
    """An update ended without a result; why is chained as `__cause__`.

    Attributes:
        update_id: the update's id.
    """

    code = "update_failed"

    def __init__(
        self, message: str, *, hint: str | None = None, update_id: str = ""
    ) -> None:
        """Name the update."""
        super().__init__(message, hint=hint)
        self.update_id = update_id


class UpdateRejectedError(UpdateFailedError):
    """A validator refused an update, or nothing handles it; nothing was recorded."""

    code = "update_rejected"


class NoAnswerError(DurableError, TimeoutError):
    """No worker has answered in time; the request may still be served later."""

    code = "no_answer"


class EntityDeadlockError(DurableError):
    """A call of an entity, or a critical section, could wait for itself for ever."""

    code = "entity_deadlock"


# --- failures as workflow code sees them ----------------------------------------------


class FailureError(DurableError):
    """Base of the failures that are recorded in a history."""

    code = "failure"


class ApplicationError(FailureError):
    """A failure whose type, details and retry behaviour you choose.

    Args:
        message: what went wrong, for people.
        details: values kept with the failure; JSON-like data.
        type: the failure's type name; the class name by default.
        non_retryable: True stops all retries whatever the policy says.
        next_retry_delay: replaces the policy's next interval once; `timedelta`,
            seconds, or text like "30s".
    """

    code = "application_error"

    def __init__(
        self,
        message: str,
        *details: Any,
        type: str | None = None,
        non_retryable: bool = False,
        next_retry_delay: timedelta | float | str | None = None,
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.details = details
        self.type = type if type is not None else self.__class__.__name__
        self.non_retryable = non_retryable
        self.next_retry_delay = next_retry_delay


class RemoteError(FailureError):
    """An exception raised elsewhere whose class is not known in this program."""

    code = "remote_error"

    def __init__(self, message: str, *, type: str) -> None:
        """Keep the type's name apart from the message."""
        super().__init__(message)
        self.type = type


class ActivityError(FailureError):
    """An activity ended without a result; why is chained as `__cause__`.

    Attributes:
        activity_type: the activity's name.
        activity_id: its id within the run.
        attempt: the last attempt's number, counted from 1.
        retry_state: why there was no further attempt.
    """

    code = "activity_error"

    def __init__(
        self,
        message: str,
        *,
        activity_type: str,
        activity_id: str,
        attempt: int = 1,
        retry_state: str = "",
    ) -> None:
        """Name the activity and its last attempt."""
        super().__init__(message)
        self.activity_type = activity_type
        self.activity_id = activity_id
        self.attempt = attempt
        self.retry_state = retry_state


class ActivityTimeoutError(ActivityError, TimeoutError):
    """An activity passed one of its timeouts; `timeout_type` says which.

    If it was silent for too long, `heartbeat_details` are what its last heartbeat said,
    as plain data.
    """

    code = "activity_timeout"
    timeout_type: str = ""
    heartbeat_details: tuple[Any, ...] = ()


class OutcomeUnknown(ActivityError):
    """An attempt began, its outcome was lost, and it must not be run again blindly."""

    code = "outcome_unknown"


class ChildWorkflowError(FailureError):
    """A child workflow ended without a result; why is chained as `__cause__`.

    Attributes:
        workflow_type: the child's workflow.
        workflow_id: its workflow id.
        run_id: its run id.
    """

    code = "child_workflow_error"

    def __init__(
        self, message: str, *, workflow_type: str, workflow_id: str, run_id: str
    ) -> None:
        """Name the child."""
        super().__init__(message)
        self.workflow_type = workflow_type
        self.workflow_id = workflow_id
        self.run_id = run_id


class CompensationFailed(FailureError):
    """Steps of a saga could not be undone; what failed at first is `__cause__`.

    Attributes:
        errors: what each failed compensation raised, in the order of undoing.
    """

    code = "compensation_failed"

    def __init__(self, message: str, *, errors: tuple[BaseException, ...] = ()) -> None:
        """Keep every error."""
        super().__init__(message)
        self.errors = errors


class IllegalTransition(FailureError):
    """An event is not possible in the present state of a state machine.

    Attributes:
        state: the state.
        event: the event.
    """

    code = "illegal_transition"

    def __init__(self, message: str, *, state: str, event: str) -> None:
        """Name the state and the event."""
        super().__init__(message)
        self.state = state
        self.event = event


# --- workflow code that cannot go on --------------------------------------------------


class WorkflowTaskError(DurableError):
    """Workflow code cannot be driven further; the run parks, nothing is lost."""

    code = "workflow_task_error"


class NondeterminismError(WorkflowTaskError):
    """Workflow code asks for something else than its history holds."""

    code = "nondeterminism"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        event_id: int | None = None,
        recorded: str | None = None,
        found: str | None = None,
        recorded_at: str | None = None,
        found_at: str | None = None,
    ) -> None:
        """Name the position, both sides, and the `file:line` of each."""
        super().__init__(message, hint=hint)
        self.event_id = event_id
        self.recorded = recorded
        self.found = found
        self.recorded_at = recorded_at
        self.found_at = found_at


class UndecodableError(WorkflowTaskError):
    """A recorded value cannot be read as the type that the code asks for now."""

    code = "undecodable"


class NotInWorkflowError(WorkflowTaskError, RuntimeError):
    """A call that only has a meaning inside a workflow was made outside of one."""

    code = "not_in_workflow"


class ForbiddenInWorkflowError(WorkflowTaskError, NotImplementedError):
    """Workflow code called something that cannot be replayed."""

    code = "forbidden_in_workflow"


class ReadOnlyError(WorkflowTaskError):
    """A query or an update's validator tried to change the run."""

    code = "read_only"


class WorkflowBlockedError(WorkflowTaskError):
    """Workflow code held its thread for longer than the watchdog allows."""

    code = "workflow_blocked"

    def __init__(
        self,
        message: str = "Workflow code held its thread for too long.",
        *,
        hint: str | None = "Move the work into an activity; the log names the line.",
    ) -> None:
        """Needs no argument: a thread is interrupted with the class itself."""
        super().__init__(message, hint=hint)


# --- the store ------------------------------------------------------------------------


class StoreError(DurableError):
    """The database refused, or could not be reached."""

    code = "store_error"
    is_told = False
    """Whether the log has it already: an outage is two lines, not thousands."""
    may_pass = False  # whether the same may succeed soon, as the server is only away


class DatabaseUnavailableError(StoreError):
    """The database cannot be reached, or stayed locked for too long."""

    code = "database_unavailable"


class DatabaseReadOnlyError(StoreError):
    """The database file, or its folder, cannot be written."""

    code = "database_read_only"


class DatabaseFullError(StoreError):
    """The disk is full; nothing half-written is kept."""

    code = "database_full"


class NotADatabaseError(StoreError):
    """The URL names no database, or the file is something else."""

    code = "not_a_database"


class SchemaRevisionError(StoreError):
    """The database's schema is not the one this release works with."""

    code = "schema_revision"


class CorruptHistoryError(StoreError):
    """A row does not hold what this library wrote there; its run is parked."""

    code = "corrupt_history"


class LeaseLostError(StoreError):
    """This worker's lease was taken over; what it wanted to write was refused.

    Attributes:
        worker_id: whose lease is gone; empty if there was none.
    """

    code = "lease_lost"

    def __init__(
        self, message: str, *, hint: str | None = None, worker_id: str = ""
    ) -> None:
        """Keep the message, and whose lease it speaks of."""
        super().__init__(message, hint=hint)
        self.worker_id = worker_id


class HistoryTakenError(StoreError):
    """A history position is written already; this writer's view of the run is old."""

    code = "history_taken"


class CommitUnknownError(StoreError):
    """The answer to a commit was lost and re-reading did not settle it."""

    code = "commit_unknown"


class ResourceError(DurableError):
    """The engine lacks what an activity takes as a resource, or cannot open it."""

    code = "resource_missing"


class EngineClosedError(DurableError):
    """The engine is closed, or was never opened."""

    code = "engine_closed"


class InternalError(DurableError):
    """An invariant of this library is broken. Please report it with the message."""

    code = "internal_error"

"""The public names, frozen: a change here is a change that users see."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import durable
from durable import errors

ROOT = Path(__file__).parent.parent

PUBLIC_TEXT = """
ActivityHandle StandaloneActivityDescription SyncActivityHandle
ActivityAttempt ActivityExecution ActivityExecutor SyncActivityExecution
SyncActivityExecutor
CancelWorkflowInput ContextPropagator ContinueAsNewInput ExecuteActivityInput
ExecuteWorkflowInput HandleQueryInput HandleSignalInput HandleUpdateInput Intercepted
Interceptor Next NextPlain QueryWorkflowInput SignalExternalWorkflowInput
SignalWorkflowInput StartActivityInput StartChildWorkflowInput StartUpdateInput
StartWorkflowInput TerminateWorkflowInput
heartbeat ActivityNotFoundError AttemptOverError ExternalPromise Later QueuedActivity
complete_later complete_later_sync external_promise
ActivityCancellationReason activity_cancellation_reason activity_logger
is_worker_stopping shield_cancellation wait_for_worker_stopping
wait_for_worker_stopping_sync
Attribute AttributeTypeError Condition NamespaceDescription NamespaceExistsError
NamespaceNotFoundError QuerySyntaxError QueryTooBroadError Run RunCount get_attribute
AsyncWithin Done NotCommittedError NotDone Outbox OutboxDescription OutboxHandle
OutboxRefusedError
SyncOutboxHandle SyncWithin TransactionEndedError Within WrongDatabaseError
QueueDescription QueueNotFoundError Rate
memo upsert_attributes upsert_memo Timer WorkflowBuilder start_timer
InvalidResetError ResetConflictError ResetPlan WorkflowPausedError before
Comparison compare ArchiveError Batch BatchDescription BatchHandle
Exported Imported RetentionRule RunExistsError RunNeededError Swept
Activity ActivityCancellationType ActivityDescription ActivityError ActivityInfo
ActivityState ActivityTimeoutError
ApplicationError Calendar ChildCancellationType ChildHandle ChildWorkflowError
CompensationFailed
DeadLetter DefinitionError DurableError Engine Entity EntityCall EntityDeadlockError
ExternalHandle FailureError Flow Handle HandlerUnfinishedPolicy IdConflictPolicy
IdReusePolicy IllegalTransition InboxFullError Interval InvalidInputError
InvalidScheduleError
NoAnswerError
NondeterminismError OutcomeUnknown ParentClosePolicy PayloadError QueryCall
QueryFailedError RemoteError ResourceError ResultTimeoutError RetryBudget RetryPolicy
RunDescription RunStatus
Saga ScheduleDefinition ScheduleDescription ScheduleExistsError ScheduleHandle
ScheduleNotFoundError ScheduleOverlap ScheduleSpec Signal SignalCall StackFrame
StateMachine StoreError SyncEngine SyncHandle
TaskStack UndecodableError UpdateCall UpdateFailedError UpdateHandle UpdateInfo
UpdateRejectedError WorkerDescription WorkerHealth Workflow WorkflowAlreadyStartedError
WorkflowCall
WorkflowCancelledError WorkflowClosedError WorkflowFailedError WorkflowInfo
WorkflowNotFoundError WorkflowStuckError WorkflowTaskError WorkflowTerminatedError
WorkflowTimedOutError activity activity_client activity_info all_handlers_finished
activity_method allow
checkpoint choice continue_as_new current_update deprecate_patch entity entity_key
exclusive external fail has_last_result in_activity in_workflow info
is_activity_cancelled last_failure
last_result locked logger
meter need never now par patched provide query random register_exception resource run
schedule schedule_spec seq
set_query_handler set_signal_handler set_state set_update_handler shared signal skip
sleep span start_child step update uuid4 wait_condition workflow
"""
PUBLIC = re.findall(r"\w+", PUBLIC_TEXT)

ALL_ERRORS = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, errors.DurableError)
]


def test_the_public_names_are_these() -> None:
    assert sorted(durable.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(durable, name) is not None
    assert name in dir(durable)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        durable.nonsense  # type: ignore[attr-defined]  # the test  # noqa: B018 - too


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, durable, durable.api.workflows.workflow;"
        "import durable.api.activities.activity;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for heavy in ("sqlalchemy", "alembic", "opentelemetry", "click", "rich", "sqlite3"):
        assert f"'{heavy}'" not in loaded


@pytest.mark.parametrize("cls", ALL_ERRORS)
def test_every_error_is_in_the_reference_with_its_code(
    cls: type[errors.DurableError],
) -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    assert re.search(rf"\| `{cls.__name__}` \| `{cls.code}` \|", text)


def test_every_code_is_used_once() -> None:
    codes = [cls.code for cls in ALL_ERRORS]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", ALL_ERRORS)
def test_every_error_survives_pickling(cls: type[errors.DurableError]) -> None:
    error = cls.__new__(cls)
    error.args = ("what happened",)
    error.__dict__.update(message="what happened", hint="do this", workflow_id="w")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a line above
    assert type(copy) is cls
    assert copy.args == error.args
    assert vars(copy) == vars(error)

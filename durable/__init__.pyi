# Every public name once, with the module that it lives in. Type checkers and editors
# read this file, and so does `durable.lazy_names` when the package is imported.

from durable.api.activities.activity import Activity as Activity
from durable.api.activities.activity import activity as activity
from durable.api.activities.activity_context import (
    ActivityCancellationReason as ActivityCancellationReason,
)
from durable.api.activities.activity_context import ActivityInfo as ActivityInfo
from durable.api.activities.activity_context import (
    activity_cancellation_reason as activity_cancellation_reason,
)
from durable.api.activities.activity_context import activity_info as activity_info
from durable.api.activities.activity_context import in_activity as in_activity
from durable.api.activities.activity_context import (
    is_activity_cancelled as is_activity_cancelled,
)
from durable.api.activities.activity_context import (
    is_worker_stopping as is_worker_stopping,
)
from durable.api.activities.activity_context import (
    shield_cancellation as shield_cancellation,
)
from durable.api.activities.activity_context import (
    wait_for_worker_stopping as wait_for_worker_stopping,
)
from durable.api.activities.activity_context import (
    wait_for_worker_stopping_sync as wait_for_worker_stopping_sync,
)
from durable.api.activities.activity_method import activity_method as activity_method
from durable.api.activities.completion import Later as Later
from durable.api.activities.completion import complete_later as complete_later
from durable.api.activities.completion import complete_later_sync as complete_later_sync
from durable.api.activities.effects import Done as Done
from durable.api.activities.effects import NotDone as NotDone
from durable.api.activities.heartbeats import heartbeat as heartbeat
from durable.api.activities.promises import ExternalPromise as ExternalPromise
from durable.api.activities.promises import external_promise as external_promise
from durable.api.activities.step import step as step
from durable.api.allowing import allow as allow
from durable.api.entities.entity import Entity as Entity
from durable.api.entities.entity import entity as entity
from durable.api.entities.entity_call import EntityCall as EntityCall
from durable.api.entities.entity_caller import entity_key as entity_key
from durable.api.entities.entity_lock import locked as locked
from durable.api.entities.entity_method import exclusive as exclusive
from durable.api.entities.entity_method import shared as shared
from durable.api.flows.flow import Flow as Flow
from durable.api.flows.flow import choice as choice
from durable.api.flows.flow import fail as fail
from durable.api.flows.flow import need as need
from durable.api.flows.flow import never as never
from durable.api.flows.flow import par as par
from durable.api.flows.flow import provide as provide
from durable.api.flows.flow import seq as seq
from durable.api.flows.flow import skip as skip
from durable.api.flows.workflow_builder import WorkflowBuilder as WorkflowBuilder
from durable.api.interceptors.interceptor import (
    CancelWorkflowInput as CancelWorkflowInput,
)
from durable.api.interceptors.interceptor import (
    ContinueAsNewInput as ContinueAsNewInput,
)
from durable.api.interceptors.interceptor import (
    ExecuteActivityInput as ExecuteActivityInput,
)
from durable.api.interceptors.interceptor import (
    ExecuteWorkflowInput as ExecuteWorkflowInput,
)
from durable.api.interceptors.interceptor import HandleQueryInput as HandleQueryInput
from durable.api.interceptors.interceptor import HandleSignalInput as HandleSignalInput
from durable.api.interceptors.interceptor import HandleUpdateInput as HandleUpdateInput
from durable.api.interceptors.interceptor import Intercepted as Intercepted
from durable.api.interceptors.interceptor import Interceptor as Interceptor
from durable.api.interceptors.interceptor import Next as Next
from durable.api.interceptors.interceptor import NextPlain as NextPlain
from durable.api.interceptors.interceptor import (
    QueryWorkflowInput as QueryWorkflowInput,
)
from durable.api.interceptors.interceptor import (
    SignalExternalWorkflowInput as SignalExternalWorkflowInput,
)
from durable.api.interceptors.interceptor import (
    SignalWorkflowInput as SignalWorkflowInput,
)
from durable.api.interceptors.interceptor import (
    StartActivityInput as StartActivityInput,
)
from durable.api.interceptors.interceptor import (
    StartChildWorkflowInput as StartChildWorkflowInput,
)
from durable.api.interceptors.interceptor import StartUpdateInput as StartUpdateInput
from durable.api.interceptors.interceptor import (
    StartWorkflowInput as StartWorkflowInput,
)
from durable.api.interceptors.interceptor import (
    TerminateWorkflowInput as TerminateWorkflowInput,
)
from durable.api.interceptors.propagation import ContextPropagator as ContextPropagator
from durable.api.messages.handlers import set_query_handler as set_query_handler
from durable.api.messages.handlers import set_signal_handler as set_signal_handler
from durable.api.messages.handlers import set_update_handler as set_update_handler
from durable.api.messages.messages import QueryCall as QueryCall
from durable.api.messages.messages import Signal as Signal
from durable.api.messages.messages import SignalCall as SignalCall
from durable.api.messages.messages import UpdateCall as UpdateCall
from durable.api.resources import resource as resource
from durable.api.sagas.saga import Saga as Saga
from durable.api.state_machines.state_machine import StateMachine as StateMachine
from durable.api.telemetry import meter as meter
from durable.api.telemetry import span as span
from durable.api.timers import Timer as Timer
from durable.api.timers import start_timer as start_timer
from durable.api.workflows.attributes import get_attribute as get_attribute
from durable.api.workflows.attributes import memo as memo
from durable.api.workflows.attributes import upsert_attributes as upsert_attributes
from durable.api.workflows.attributes import upsert_memo as upsert_memo
from durable.api.workflows.children import ChildHandle as ChildHandle
from durable.api.workflows.children import ExternalHandle as ExternalHandle
from durable.api.workflows.children import external as external
from durable.api.workflows.children import start_child as start_child
from durable.api.workflows.continuation import checkpoint as checkpoint
from durable.api.workflows.continuation import continue_as_new as continue_as_new
from durable.api.workflows.methods import query as query
from durable.api.workflows.methods import run as run
from durable.api.workflows.methods import signal as signal
from durable.api.workflows.methods import update as update
from durable.api.workflows.operations import UpdateInfo as UpdateInfo
from durable.api.workflows.operations import activity_logger as activity_logger
from durable.api.workflows.operations import (
    all_handlers_finished as all_handlers_finished,
)
from durable.api.workflows.operations import current_update as current_update
from durable.api.workflows.operations import deprecate_patch as deprecate_patch
from durable.api.workflows.operations import has_last_result as has_last_result
from durable.api.workflows.operations import in_workflow as in_workflow
from durable.api.workflows.operations import info as info
from durable.api.workflows.operations import last_failure as last_failure
from durable.api.workflows.operations import last_result as last_result
from durable.api.workflows.operations import logger as logger
from durable.api.workflows.operations import now as now
from durable.api.workflows.operations import patched as patched
from durable.api.workflows.operations import random as random
from durable.api.workflows.operations import set_state as set_state
from durable.api.workflows.operations import sleep as sleep
from durable.api.workflows.operations import uuid4 as uuid4
from durable.api.workflows.operations import wait_condition as wait_condition
from durable.api.workflows.workflow import Workflow as Workflow
from durable.api.workflows.workflow import WorkflowCall as WorkflowCall
from durable.api.workflows.workflow import workflow as workflow
from durable.batches.batches import Batch as Batch
from durable.batches.batches import BatchDescription as BatchDescription
from durable.batches.batches import BatchHandle as BatchHandle
from durable.client.activities.activities import QueuedActivity as QueuedActivity
from durable.client.descriptions.activities import (
    ActivityDescription as ActivityDescription,
)
from durable.client.descriptions.activities import ActivityState as ActivityState
from durable.client.descriptions.description import RunDescription as RunDescription
from durable.client.descriptions.searching import RunCount as RunCount
from durable.client.descriptions.workers import (
    WorkerDescription as WorkerDescription,
)
from durable.client.handle import Handle as Handle
from durable.client.keeping.archive import Exported as Exported
from durable.client.keeping.archive import Imported as Imported
from durable.client.keeping.retention import RetentionRule as RetentionRule
from durable.client.keeping.retention import Swept as Swept
from durable.client.namespaces import NamespaceDescription as NamespaceDescription
from durable.client.outbox.handles import OutboxHandle as OutboxHandle
from durable.client.outbox.outbox import Outbox as Outbox
from durable.client.outbox.outbox import OutboxDescription as OutboxDescription
from durable.client.outbox.within import AsyncWithin as AsyncWithin
from durable.client.outbox.within import Within as Within
from durable.client.queues.queues import QueueDescription as QueueDescription
from durable.client.queues.queues import Rate as Rate
from durable.client.resets.comparing import Comparison as Comparison
from durable.client.resets.controls import before as before
from durable.client.resets.controls import compare as compare
from durable.client.resets.planning import ResetPlan as ResetPlan
from durable.client.updates import UpdateHandle as UpdateHandle
from durable.converter.failures import register_exception as register_exception
from durable.core.loop.stacks import StackFrame as StackFrame
from durable.core.loop.stacks import TaskStack as TaskStack
from durable.core.machines.fact import DeadLetter as DeadLetter
from durable.core.runtime import WorkflowInfo as WorkflowInfo
from durable.engine import Engine as Engine
from durable.engine import activity_client as activity_client
from durable.errors import ActivityError as ActivityError
from durable.errors import ActivityNotFoundError as ActivityNotFoundError
from durable.errors import ActivityTimeoutError as ActivityTimeoutError
from durable.errors import ApplicationError as ApplicationError
from durable.errors import ArchiveError as ArchiveError
from durable.errors import AttemptOverError as AttemptOverError
from durable.errors import AttributeTypeError as AttributeTypeError
from durable.errors import ChildWorkflowError as ChildWorkflowError
from durable.errors import CompensationFailed as CompensationFailed
from durable.errors import DefinitionError as DefinitionError
from durable.errors import DurableError as DurableError
from durable.errors import EntityDeadlockError as EntityDeadlockError
from durable.errors import FailureError as FailureError
from durable.errors import IllegalTransition as IllegalTransition
from durable.errors import InboxFullError as InboxFullError
from durable.errors import InvalidInputError as InvalidInputError
from durable.errors import InvalidResetError as InvalidResetError
from durable.errors import InvalidScheduleError as InvalidScheduleError
from durable.errors import NamespaceExistsError as NamespaceExistsError
from durable.errors import NamespaceNotFoundError as NamespaceNotFoundError
from durable.errors import NoAnswerError as NoAnswerError
from durable.errors import NondeterminismError as NondeterminismError
from durable.errors import NotCommittedError as NotCommittedError
from durable.errors import OutboxRefusedError as OutboxRefusedError
from durable.errors import OutcomeUnknown as OutcomeUnknown
from durable.errors import PayloadError as PayloadError
from durable.errors import QueryFailedError as QueryFailedError
from durable.errors import QuerySyntaxError as QuerySyntaxError
from durable.errors import QueryTooBroadError as QueryTooBroadError
from durable.errors import QueueNotFoundError as QueueNotFoundError
from durable.errors import RemoteError as RemoteError
from durable.errors import ResetConflictError as ResetConflictError
from durable.errors import ResourceError as ResourceError
from durable.errors import ResultTimeoutError as ResultTimeoutError
from durable.errors import RunExistsError as RunExistsError
from durable.errors import RunNeededError as RunNeededError
from durable.errors import ScheduleExistsError as ScheduleExistsError
from durable.errors import ScheduleNotFoundError as ScheduleNotFoundError
from durable.errors import StoreError as StoreError
from durable.errors import TransactionEndedError as TransactionEndedError
from durable.errors import UndecodableError as UndecodableError
from durable.errors import UpdateFailedError as UpdateFailedError
from durable.errors import UpdateRejectedError as UpdateRejectedError
from durable.errors import WorkflowAlreadyStartedError as WorkflowAlreadyStartedError
from durable.errors import WorkflowCancelledError as WorkflowCancelledError
from durable.errors import WorkflowClosedError as WorkflowClosedError
from durable.errors import WorkflowFailedError as WorkflowFailedError
from durable.errors import WorkflowNotFoundError as WorkflowNotFoundError
from durable.errors import WorkflowPausedError as WorkflowPausedError
from durable.errors import WorkflowStuckError as WorkflowStuckError
from durable.errors import WorkflowTaskError as WorkflowTaskError
from durable.errors import WorkflowTerminatedError as WorkflowTerminatedError
from durable.errors import WorkflowTimedOutError as WorkflowTimedOutError
from durable.errors import WrongDatabaseError as WrongDatabaseError
from durable.options import ActivityCancellationType as ActivityCancellationType
from durable.options import ChildCancellationType as ChildCancellationType
from durable.options import HandlerUnfinishedPolicy as HandlerUnfinishedPolicy
from durable.options import IdConflictPolicy as IdConflictPolicy
from durable.options import IdReusePolicy as IdReusePolicy
from durable.options import ParentClosePolicy as ParentClosePolicy
from durable.options import RetryBudget as RetryBudget
from durable.options import RetryPolicy as RetryPolicy
from durable.schedules.cron import schedule_spec as schedule_spec
from durable.schedules.declared import schedule as schedule
from durable.schedules.definition import ScheduleDefinition as ScheduleDefinition
from durable.schedules.definition import ScheduleOverlap as ScheduleOverlap
from durable.schedules.schedules import ScheduleDescription as ScheduleDescription
from durable.schedules.schedules import ScheduleHandle as ScheduleHandle
from durable.schedules.spec import Calendar as Calendar
from durable.schedules.spec import Interval as Interval
from durable.schedules.spec import ScheduleSpec as ScheduleSpec
from durable.search.conditions import Attribute as Attribute
from durable.search.conditions import Condition as Condition
from durable.search.run_fields import Run as Run
from durable.standalone.standalone import ActivityHandle as ActivityHandle
from durable.standalone.standalone import (
    StandaloneActivityDescription as StandaloneActivityDescription,
)
from durable.standalone.sync_standalone import SyncActivityHandle as SyncActivityHandle
from durable.store.records import RunStatus as RunStatus
from durable.sync import SyncEngine as SyncEngine
from durable.sync import SyncHandle as SyncHandle
from durable.sync import SyncOutboxHandle as SyncOutboxHandle
from durable.sync import SyncWithin as SyncWithin
from durable.worker.health import WorkerHealth as WorkerHealth
from durable.worker.standalone.executor import ActivityAttempt as ActivityAttempt
from durable.worker.standalone.executor import ActivityExecution as ActivityExecution
from durable.worker.standalone.executor import ActivityExecutor as ActivityExecutor
from durable.worker.standalone.sync_executor import (
    SyncActivityExecution as SyncActivityExecution,
)
from durable.worker.standalone.sync_executor import (
    SyncActivityExecutor as SyncActivityExecutor,
)

__version__: str
# Literally what is imported above: a second list would have to be kept equal.
__all__: list[str]  # noqa: PYI035

"""Durable execution for Python: workflows that survive the death of their process.

    from durable import Engine, activity, workflow

`@workflow` and `@activity` turn plain functions into replayable coroutines; an `Engine`
runs them on a database. See the documentation for a tutorial.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable.api.activity import Activity, activity
    from durable.api.activity_context import (
        ActivityInfo,
        activity_info,
        in_activity,
        is_activity_cancelled,
    )
    from durable.api.activity_method import activity_method
    from durable.api.allowing import allow
    from durable.api.children import ChildHandle, ExternalHandle, external, start_child
    from durable.api.continuation import checkpoint, continue_as_new
    from durable.api.entity import Entity, entity
    from durable.api.entity_call import EntityCall
    from durable.api.entity_caller import entity_key
    from durable.api.entity_lock import locked
    from durable.api.entity_method import exclusive, shared
    from durable.api.flow import (
        Flow,
        choice,
        fail,
        need,
        never,
        par,
        provide,
        seq,
        skip,
    )
    from durable.api.handlers import (
        set_query_handler,
        set_signal_handler,
        set_update_handler,
    )
    from durable.api.messages import QueryCall, Signal, SignalCall, UpdateCall
    from durable.api.methods import query, run, signal, update
    from durable.api.operations import (
        UpdateInfo,
        all_handlers_finished,
        current_update,
        deprecate_patch,
        in_workflow,
        info,
        logger,
        now,
        patched,
        random,
        set_state,
        sleep,
        uuid4,
        wait_condition,
    )
    from durable.api.resources import resource
    from durable.api.saga import Saga
    from durable.api.state_machine import StateMachine
    from durable.api.workflow import Workflow, WorkflowCall, workflow
    from durable.client.description import RunDescription
    from durable.client.handle import Handle
    from durable.client.updates import UpdateHandle
    from durable.converter.failures import register_exception
    from durable.core.machines.fact import DeadLetter
    from durable.core.runtime import WorkflowInfo
    from durable.core.stacks import StackFrame, TaskStack
    from durable.engine import Engine, activity_client
    from durable.errors import (
        ActivityError,
        ActivityTimeoutError,
        ApplicationError,
        ChildWorkflowError,
        CompensationFailed,
        DefinitionError,
        DurableError,
        EntityDeadlockError,
        FailureError,
        IllegalTransition,
        InboxFullError,
        InvalidInputError,
        NoAnswerError,
        NondeterminismError,
        OutcomeUnknown,
        PayloadError,
        QueryFailedError,
        RemoteError,
        ResourceError,
        ResultTimeoutError,
        StoreError,
        UndecodableError,
        UpdateFailedError,
        UpdateRejectedError,
        WorkflowAlreadyStartedError,
        WorkflowCancelledError,
        WorkflowClosedError,
        WorkflowFailedError,
        WorkflowNotFoundError,
        WorkflowStuckError,
        WorkflowTaskError,
        WorkflowTerminatedError,
        WorkflowTimedOutError,
    )
    from durable.options import (
        ActivityCancellationType,
        ChildCancellationType,
        HandlerUnfinishedPolicy,
        IdConflictPolicy,
        IdReusePolicy,
        ParentClosePolicy,
        RetryPolicy,
    )
    from durable.store.records import RunStatus
    from durable.sync import SyncEngine, SyncHandle

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityCancellationType",
    "ActivityError",
    "ActivityInfo",
    "ActivityTimeoutError",
    "ApplicationError",
    "ChildCancellationType",
    "ChildHandle",
    "ChildWorkflowError",
    "CompensationFailed",
    "DeadLetter",
    "DefinitionError",
    "DurableError",
    "Engine",
    "Entity",
    "EntityCall",
    "EntityDeadlockError",
    "ExternalHandle",
    "FailureError",
    "Flow",
    "Handle",
    "HandlerUnfinishedPolicy",
    "IdConflictPolicy",
    "IdReusePolicy",
    "IllegalTransition",
    "InboxFullError",
    "InvalidInputError",
    "NoAnswerError",
    "NondeterminismError",
    "OutcomeUnknown",
    "ParentClosePolicy",
    "PayloadError",
    "QueryCall",
    "QueryFailedError",
    "RemoteError",
    "ResourceError",
    "ResultTimeoutError",
    "RetryPolicy",
    "RunDescription",
    "RunStatus",
    "Saga",
    "Signal",
    "SignalCall",
    "StackFrame",
    "StateMachine",
    "StoreError",
    "SyncEngine",
    "SyncHandle",
    "TaskStack",
    "UndecodableError",
    "UpdateCall",
    "UpdateFailedError",
    "UpdateHandle",
    "UpdateInfo",
    "UpdateRejectedError",
    "Workflow",
    "WorkflowAlreadyStartedError",
    "WorkflowCall",
    "WorkflowCancelledError",
    "WorkflowClosedError",
    "WorkflowFailedError",
    "WorkflowInfo",
    "WorkflowNotFoundError",
    "WorkflowStuckError",
    "WorkflowTaskError",
    "WorkflowTerminatedError",
    "WorkflowTimedOutError",
    "activity",
    "activity_client",
    "activity_info",
    "activity_method",
    "all_handlers_finished",
    "allow",
    "checkpoint",
    "choice",
    "continue_as_new",
    "current_update",
    "deprecate_patch",
    "entity",
    "entity_key",
    "exclusive",
    "external",
    "fail",
    "in_activity",
    "in_workflow",
    "info",
    "is_activity_cancelled",
    "locked",
    "logger",
    "need",
    "never",
    "now",
    "par",
    "patched",
    "provide",
    "query",
    "random",
    "register_exception",
    "resource",
    "run",
    "seq",
    "set_query_handler",
    "set_signal_handler",
    "set_state",
    "set_update_handler",
    "shared",
    "signal",
    "skip",
    "sleep",
    "start_child",
    "update",
    "uuid4",
    "wait_condition",
    "workflow",
]

# Names are imported at first use (PEP 562), so that `import durable` stays light: the
# database layer alone takes ten times as long as everything a decorator needs.
_HOMES = {
    "durable.api.activity": ("Activity", "activity"),
    "durable.api.activity_context": (
        "ActivityInfo",
        "activity_info",
        "in_activity",
        "is_activity_cancelled",
    ),
    "durable.api.activity_method": ("activity_method",),
    "durable.api.allowing": ("allow",),
    "durable.api.children": (
        "ChildHandle",
        "ExternalHandle",
        "external",
        "start_child",
    ),
    "durable.api.continuation": ("checkpoint", "continue_as_new"),
    "durable.api.entity": ("Entity", "entity"),
    "durable.api.entity_call": ("EntityCall",),
    "durable.api.entity_caller": ("entity_key",),
    "durable.api.entity_lock": ("locked",),
    "durable.api.entity_method": ("exclusive", "shared"),
    "durable.api.flow": (
        "Flow",
        "choice",
        "fail",
        "need",
        "never",
        "par",
        "provide",
        "seq",
        "skip",
    ),
    "durable.api.handlers": (
        "set_query_handler",
        "set_signal_handler",
        "set_update_handler",
    ),
    "durable.api.messages": ("QueryCall", "Signal", "SignalCall", "UpdateCall"),
    "durable.api.methods": ("query", "run", "signal", "update"),
    "durable.api.operations": (
        "UpdateInfo",
        "all_handlers_finished",
        "current_update",
        "deprecate_patch",
        "in_workflow",
        "info",
        "logger",
        "now",
        "patched",
        "random",
        "set_state",
        "sleep",
        "uuid4",
        "wait_condition",
    ),
    "durable.api.resources": ("resource",),
    "durable.api.saga": ("Saga",),
    "durable.api.state_machine": ("StateMachine",),
    "durable.api.workflow": ("Workflow", "WorkflowCall", "workflow"),
    "durable.client.description": ("RunDescription",),
    "durable.client.handle": ("Handle",),
    "durable.client.updates": ("UpdateHandle",),
    "durable.core.machines.fact": ("DeadLetter",),
    "durable.core.stacks": ("StackFrame", "TaskStack"),
    "durable.converter.failures": ("register_exception",),
    "durable.core.runtime": ("WorkflowInfo",),
    "durable.engine": ("Engine", "activity_client"),
    "durable.options": (
        "ActivityCancellationType",
        "ChildCancellationType",
        "HandlerUnfinishedPolicy",
        "IdConflictPolicy",
        "IdReusePolicy",
        "ParentClosePolicy",
        "RetryPolicy",
    ),
    "durable.store.records": ("RunStatus",),
    "durable.sync": ("SyncEngine", "SyncHandle"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        if name not in __all__:
            raise AttributeError(f"module 'durable' has no attribute {name!r}")
        home = "durable.errors"
    try:
        value = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as error:
        from durable.namesakes import explain

        text = explain(error)
        if text is None:
            raise
        raise ImportError(text, name=__name__, path=__file__) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

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
    from durable.api.operations import (
        deprecate_patch,
        in_workflow,
        info,
        logger,
        now,
        patched,
        random,
        sleep,
        uuid4,
        wait_condition,
    )
    from durable.api.workflow import Workflow, WorkflowCall, workflow
    from durable.client.handle import Handle, RunDescription
    from durable.converter.failures import register_exception
    from durable.core.runtime import WorkflowInfo
    from durable.engine import Engine
    from durable.errors import (
        ActivityError,
        ActivityTimeoutError,
        ApplicationError,
        DurableError,
        FailureError,
        InvalidInputError,
        NondeterminismError,
        OutcomeUnknown,
        RemoteError,
        ResultTimeoutError,
        StoreError,
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
        IdConflictPolicy,
        IdReusePolicy,
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
    "DurableError",
    "Engine",
    "FailureError",
    "Handle",
    "IdConflictPolicy",
    "IdReusePolicy",
    "InvalidInputError",
    "NondeterminismError",
    "OutcomeUnknown",
    "RemoteError",
    "ResultTimeoutError",
    "RetryPolicy",
    "RunDescription",
    "RunStatus",
    "StoreError",
    "SyncEngine",
    "SyncHandle",
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
    "activity_info",
    "deprecate_patch",
    "in_activity",
    "in_workflow",
    "info",
    "is_activity_cancelled",
    "logger",
    "now",
    "patched",
    "random",
    "register_exception",
    "sleep",
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
    "durable.api.operations": (
        "deprecate_patch",
        "in_workflow",
        "info",
        "logger",
        "now",
        "patched",
        "random",
        "sleep",
        "uuid4",
        "wait_condition",
    ),
    "durable.api.workflow": ("Workflow", "WorkflowCall", "workflow"),
    "durable.client.handle": ("Handle", "RunDescription"),
    "durable.converter.failures": ("register_exception",),
    "durable.core.runtime": ("WorkflowInfo",),
    "durable.engine": ("Engine",),
    "durable.options": (
        "ActivityCancellationType",
        "IdConflictPolicy",
        "IdReusePolicy",
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
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

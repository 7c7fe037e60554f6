"""Classes of this library keep the names by which rows know them, wherever they lie."""

import dataclasses
import enum
import inspect

import msgspec
import pytest

import durable
from durable.converter import hints
from durable.converter.exception_classes import ExceptionClasses, home_of

RECORDED = {
    "ActivityAttempt": "durable.worker.standalone.executor",
    "ActivityCancellationReason": "durable.api.activity_context",
    "ActivityCancellationType": "durable.options",
    "ActivityDescription": "durable.client.activities",
    "ActivityInfo": "durable.api.activity_context",
    "ActivityState": "durable.client.activities",
    "BatchDescription": "durable.batches.batches",
    "Calendar": "durable.schedules.spec",
    "CancelWorkflowInput": "durable.api.interceptors.interceptor",
    "ChildCancellationType": "durable.options",
    "Comparison": "durable.client.resets.comparing",
    "Condition": "durable.search.conditions",
    "ContinueAsNewInput": "durable.api.interceptors.interceptor",
    "DeadLetter": "durable.core.machines.fact",
    "Done": "durable.api.activities.effects",
    "ExecuteActivityInput": "durable.api.interceptors.interceptor",
    "ExecuteWorkflowInput": "durable.api.interceptors.interceptor",
    "Exported": "durable.client.keeping.archive",
    "HandleQueryInput": "durable.api.interceptors.interceptor",
    "HandleSignalInput": "durable.api.interceptors.interceptor",
    "HandleUpdateInput": "durable.api.interceptors.interceptor",
    "HandlerUnfinishedPolicy": "durable.options",
    "IdConflictPolicy": "durable.options",
    "IdReusePolicy": "durable.options",
    "Imported": "durable.client.keeping.archive",
    "Intercepted": "durable.api.interceptors.interceptor",
    "Interval": "durable.schedules.spec",
    "Later": "durable.api.activities.completion",
    "NamespaceDescription": "durable.client.namespaces",
    "NotDone": "durable.api.activities.effects",
    "OutboxDescription": "durable.client.outbox.outbox",
    "ParentClosePolicy": "durable.options",
    "QueryCall": "durable.api.messages",
    "QueryWorkflowInput": "durable.api.interceptors.interceptor",
    "QueueDescription": "durable.client.queues.queues",
    "QueuedActivity": "durable.client.activities.activities",
    "Rate": "durable.client.queues.queues",
    "ResetPlan": "durable.client.resets.planning",
    "RetentionRule": "durable.client.keeping.retention",
    "RetryBudget": "durable.options",
    "RetryPolicy": "durable.options",
    "RunCount": "durable.client.descriptions.searching",
    "RunDescription": "durable.client.description",
    "RunStatus": "durable.store.records",
    "ScheduleDefinition": "durable.schedules.definition",
    "ScheduleDescription": "durable.schedules.schedules",
    "ScheduleOverlap": "durable.schedules.definition",
    "ScheduleSpec": "durable.schedules.spec",
    "SignalCall": "durable.api.messages",
    "SignalExternalWorkflowInput": "durable.api.interceptors.interceptor",
    "SignalWorkflowInput": "durable.api.interceptors.interceptor",
    "StackFrame": "durable.core.stacks",
    "StandaloneActivityDescription": "durable.standalone.standalone",
    "StartActivityInput": "durable.api.interceptors.interceptor",
    "StartChildWorkflowInput": "durable.api.interceptors.interceptor",
    "StartUpdateInput": "durable.api.interceptors.interceptor",
    "StartWorkflowInput": "durable.api.interceptors.interceptor",
    "Swept": "durable.client.keeping.retention",
    "TaskStack": "durable.core.stacks",
    "TerminateWorkflowInput": "durable.api.interceptors.interceptor",
    "UpdateCall": "durable.api.messages",
    "UpdateInfo": "durable.api.operations",
    "WorkerDescription": "durable.client.descriptions.workers",
    "WorkerHealth": "durable.worker.health",
    "WorkflowInfo": "durable.core.runtime",
}


def is_data(value: object) -> bool:
    return inspect.isclass(value) and (
        issubclass(value, msgspec.Struct | enum.Enum | BaseException)
        or dataclasses.is_dataclass(value)
    )


def test_every_public_class_that_is_data_has_a_recorded_name() -> None:
    data = [name for name in durable.__all__ if is_data(getattr(durable, name))]
    assert {name: home_of(getattr(durable, name)) for name in data} == {
        **{name: "durable.errors" for name in data if hasattr(durable.errors, name)},
        **RECORDED,
    }


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_name_leads_to_its_class(name: str) -> None:
    cls = getattr(durable, name)
    assert hints.tag_of(cls, is_full=True) == f"{RECORDED[name]}:{name}"
    classes = ExceptionClasses()
    assert classes.reach(RECORDED[name], name) is None
    classes.add_scope({"durable": durable})
    assert classes.reach(RECORDED[name], name) is cls

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
    "ActivityCancellationReason": "durable.api.activity_context",
    "ActivityCancellationType": "durable.options",
    "ActivityDescription": "durable.client.activities",
    "ActivityInfo": "durable.api.activity_context",
    "ActivityState": "durable.client.activities",
    "BatchDescription": "durable.batches.batches",
    "Calendar": "durable.schedules.spec",
    "ChildCancellationType": "durable.options",
    "Comparison": "durable.client.resets.comparing",
    "Condition": "durable.search.conditions",
    "DeadLetter": "durable.core.machines.fact",
    "Exported": "durable.client.keeping.archive",
    "HandlerUnfinishedPolicy": "durable.options",
    "IdConflictPolicy": "durable.options",
    "IdReusePolicy": "durable.options",
    "Imported": "durable.client.keeping.archive",
    "Interval": "durable.schedules.spec",
    "Later": "durable.api.activities.completion",
    "NamespaceDescription": "durable.client.namespaces",
    "OutboxDescription": "durable.client.outbox.outbox",
    "ParentClosePolicy": "durable.options",
    "QueryCall": "durable.api.messages",
    "QueueDescription": "durable.client.queues.queues",
    "QueuedActivity": "durable.client.activities.activities",
    "Rate": "durable.client.queues.queues",
    "ResetPlan": "durable.client.resets.planning",
    "RetentionRule": "durable.client.keeping.retention",
    "RetryPolicy": "durable.options",
    "RunCount": "durable.client.descriptions.searching",
    "RunDescription": "durable.client.description",
    "RunStatus": "durable.store.records",
    "ScheduleDefinition": "durable.schedules.definition",
    "ScheduleDescription": "durable.schedules.schedules",
    "ScheduleOverlap": "durable.schedules.definition",
    "ScheduleSpec": "durable.schedules.spec",
    "SignalCall": "durable.api.messages",
    "StackFrame": "durable.core.stacks",
    "StandaloneActivityDescription": "durable.standalone.standalone",
    "Swept": "durable.client.keeping.retention",
    "TaskStack": "durable.core.stacks",
    "UpdateCall": "durable.api.messages",
    "UpdateInfo": "durable.api.operations",
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

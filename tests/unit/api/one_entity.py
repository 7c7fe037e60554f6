"""One entity in the hands of a test: the real core, no engine."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from durable import EntityCall, WorkflowCall
from durable.api.entity_caller import NOBODY, Caller, with_caller
from durable.api.messages import QueryCall, UpdateCall
from durable.converter import json
from durable.core.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    CheckpointRecorded,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.payload import Payload
from durable.core.workflow_task import UpdateRequest, WorkflowTask
from tests.unit.api.one_run import OneRun

T = TypeVar("T")


class OneEntity(OneRun):
    def __init__(self, entity: Any) -> None:
        self.target = entity.durable_target
        super().__init__(WorkflowCall(self.target.definition, ()))
        self._started = msgspec.structs.replace(
            self._started, workflow_id=self.target.workflow_id
        )
        self._calls = 0
        self.start()

    def request(self, call: EntityCall[Any], caller: Caller = NOBODY) -> UpdateRequest:
        self._calls += 1
        input = with_caller(caller, call.input)
        return UpdateRequest(f"call-{self._calls}", call.method, input)

    def call(self, call: EntityCall[T], caller: Caller = NOBODY) -> T:
        """Call an exclusive method that answers in the same turn."""
        made = self.request(call, caller)
        return self.update(
            UpdateCall(made.update_name, made.input, call.decode_result),
            made.update_id,
        )

    def ask(self, call: EntityCall[T]) -> T:
        return self.query(QueryCall(call.method, call.input, call.decode_result))

    def scheduled(self) -> list[tuple[int, ActivityTaskScheduled]]:
        return [
            (e.event_id, e.attributes)
            for e in self.history
            if isinstance(e.attributes, ActivityTaskScheduled)
        ]

    def completed(self, value: Any, number: int = -1) -> ActivityTaskCompleted:
        event_id, _ = self.scheduled()[number]
        return ActivityTaskCompleted(
            scheduled_event_id=event_id,
            result=json.encode(value, Any, "the result"),
            attempt=1,
            started_at=self.now,
        )

    def reload(self) -> None:
        """Load it as a worker does: from its newest checkpoint on."""
        ids = [
            index
            for index, event in enumerate(self.history)
            if isinstance(event.attributes, CheckpointRecorded)
        ]
        self.history = [self.history[0], *self.history[ids[-1] :]]
        self.replayer = self._make_replayer()
        done = self.replayer.process(
            WorkflowTask(self.now, (), tuple(self.history), is_replay_only=True)
        )
        if done.failure is not None:
            error: BaseException = done.failure.error
            raise error

    def answers(self) -> dict[str, Payload | str]:
        """What each call was answered, or the type of what it raised."""
        return {
            e.update_id: e.failure.type if e.failure else (e.result or Payload())
            for e in self.events(WorkflowExecutionUpdateCompleted)
        }

"""One entity in the hands of a test: the real core, no engine."""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeVar

import msgspec

from durable import (
    Entity,
    EntityCall,
    WorkflowCall,
    activity,
    continue_as_new,
    entity,
    entity_key,
    exclusive,
    shared,
)
from durable.api.entities.entity_caller import NOBODY, Caller, with_caller
from durable.api.messages.messages import QueryCall, UpdateCall
from durable.converter import json
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    CheckpointRecorded,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Payload
from durable.core.workflow_task import UpdateRequest, WorkflowTask
from durable.errors import WorkflowBlockedError
from tests.unit.api.one_run import OneRun

T = TypeVar("T")


@activity(name="entities.price")
async def price(item: str) -> int:
    raise AssertionError("Nothing runs here.")


@entity(name="unit.Cart", version="1.0.0", task_queue="carts")
class Cart(Entity):
    """A cart."""

    items: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @exclusive
    async def add(self, item: str, n: int = 1) -> int:
        """Add an item."""
        self.items[item] = self.items.get(item, 0) + n
        return self.total()

    @exclusive
    async def weigh(self, item: str) -> int:
        self.log.append(f"begin {item}")
        self.items[item] = await price(item)
        self.log.append(f"end {item}")
        return self.items[item]

    @exclusive(name="break")
    def break_it(self, how: str) -> Any:
        self.items["broken"] = 1
        self.log = ["broken"]
        if how == "type":
            return len(5)  # type: ignore[arg-type]  # the fault under test
        if how == "value":
            raise ValueError("as asked")
        if how == "group":
            raise ExceptionGroup("many", [TypeError("one")])
        if how == "undeclared":
            self.color = "red"
        if how == "state":
            self.items["bad"] = "text"  # type: ignore[assignment]  # the fault under test
        if how == "result":
            return object()
        if how == "continue":
            continue_as_new(1)
        if how == "blocked":
            raise WorkflowBlockedError
        return None

    @exclusive
    async def again(self, item: str) -> int:
        return await self.add(item) + await Cart[entity_key()].add(item)

    @exclusive
    async def pass_on(self, other: str) -> int:
        return await Cart[other].add("x")

    @shared
    def total(self) -> int:
        return sum(self.items.values())

    @shared
    def history(self) -> list[str]:
        return [entity_key(), *self.log]

    @exclusive
    def add_plainly(self, item: str) -> Any:
        return self.add(item)

    @shared
    def await_nothing(self) -> Any:
        return self.add("x")

    @shared
    def spoil(self) -> int:
        self.items["spoilt"] = 1
        return 1


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

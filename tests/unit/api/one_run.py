"""One run in the hands of a test: the real core, no engine.

Every turn is checked: a fresh replayer has to come through the history so far.
"""

from __future__ import annotations

from typing import Any, TypeVar

from durable import Workflow, WorkflowCall
from durable.api.messages.messages import QueryCall, SignalCall, UpdateCall
from durable.converter.failures import exception_of
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import (
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
)

RUN_ID = "01942000-0000-7000-8000-000000000000"
START = 1_700_000_000_000_000
T = TypeVar("T")


class OneRun:
    def __init__(self, call: WorkflowCall[Any], **started: Any) -> None:
        self.definition: Workflow[Any, Any] = call.definition
        self.now = START
        self.history: list[HistoryEvent] = []
        self.logged: list[dict[str, Any]] = []
        self.replayer = self._make_replayer()
        self._started = WorkflowExecutionStarted(
            workflow_type=call.definition.name,
            input=call.input,
            task_queue="default",
            workflow_id="the-run",
            run_id=RUN_ID,
            first_run_id=RUN_ID,
            request_id=RUN_ID,
            **started,
        )
        self._count = 0

    def _make_replayer(self) -> Replayer:
        return Replayer(lambda _: self.definition, on_unhandled=self.logged.append)

    # --- turns ------------------------------------------------------------------------

    def start(self, *inputs: Attributes | UpdateRequest) -> WorkflowTaskCompletion:
        return self.turn(self._started, *inputs)

    def turn(self, *inputs: Attributes | UpdateRequest) -> WorkflowTaskCompletion:
        done = self.replayer.process(WorkflowTask(self.now, inputs))
        if done.failure is not None:
            error: BaseException = done.failure.error
            raise error
        self.history += done.events
        again = self._make_replayer()
        seen = tuple(self.history)
        replayed = again.process(WorkflowTask(self.now, (), seen, is_replay_only=True))
        if replayed.failure is not None:
            error = replayed.failure.error
            raise error
        again.tear_down()
        return done

    def signalled(self, call: SignalCall) -> WorkflowExecutionSignaled:
        self._count += 1
        return WorkflowExecutionSignaled(
            call.name, call.input, request_id=f"signal-{self._count}"
        )

    def signal(self, *calls: SignalCall) -> WorkflowTaskCompletion:
        return self.turn(*map(self.signalled, calls))

    def cancel(self) -> WorkflowTaskCompletion:
        return self.turn(WorkflowExecutionCancelRequested(reason="", request_id="c"))

    def update(self, call: UpdateCall[T], update_id: str = "update-1") -> T:
        """Send an update and give its answer; raise why it was rejected or failed."""
        done = self.turn(UpdateRequest(update_id, call.name, call.input))
        for rejected, failure in done.rejected:
            assert rejected == update_id
            raise exception_of(failure)
        for event in done.events:
            answer = event.attributes
            if isinstance(answer, WorkflowExecutionUpdateCompleted):
                if answer.failure is not None:
                    raise exception_of(answer.failure)
                assert answer.result is not None
                return call.decode_result(answer.result)
        raise AssertionError("The update was not answered in this turn.")

    def query(self, call: QueryCall[T]) -> T:
        return call.decode_result(self.replayer.query(call.name, call.input))

    # --- what can be seen -------------------------------------------------------------

    def events(self, kind: type[T]) -> list[T]:
        return [e.attributes for e in self.history if isinstance(e.attributes, kind)]

    def event_id(self, kind: type[Attributes]) -> int:
        """The id of the newest event of a kind."""
        found = [e.event_id for e in self.history if isinstance(e.attributes, kind)]
        return found[-1]

    def result(self) -> Any:
        last = self.history[-1].attributes
        if isinstance(last, WorkflowExecutionFailed):
            raise exception_of(last.failure)
        assert isinstance(last, WorkflowExecutionCompleted), last
        return self.definition.call_signature.decode_result(last.result)

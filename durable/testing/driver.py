"""Drives one run's code by hand: no engine, no store, no event loop, no waiting.

    driver = Driver(place_order(order))
    driver.start()
    (charge,) = driver.pending
    driver.complete(charge, receipt)
    driver.advance("3d")
    assert driver.result() == receipt

Messages come with `signal`, `update` and `query`. `children` are what the run has asked
for and waits for, and `deliveries` what it has sent to other runs: their methods make
the inputs that answer them, as in `driver.turn(driver.children[0].completed(5))`.

Each call is one workflow task. `driver.history` is everything that an engine would have
recorded by then, and `driver.crash()` forgets the live code, so that the next task has
to replay it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar, overload

from durable.api.activities.step import Step
from durable.api.interceptors.chains import Interceptors
from durable.api.interceptors.interceptor import Interceptor
from durable.api.interceptors.workflow_side import InterceptedCode
from durable.api.messages.messages import (
    QueryCall,
    SignalCall,
    UpdateCall,
    query_call,
    signal_call,
    update_call,
)
from durable.api.registry import REGISTRY
from durable.api.workflows.workflow import WorkflowCall
from durable.converter import json
from durable.converter.failures import exception_of, failure_of, show_remote
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    Attributes,
    HistoryEvent,
    UnreadSignal,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload
from durable.core.machines.machine import State
from durable.core.machines.retry import MAXIMUM_ATTEMPTS_REACHED
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import (
    TaskInput,
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
)
from durable.errors import (
    InternalError,
    NotRegisteredError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from durable.options import Duration
from durable.testing.clock import DEFAULT_START, VirtualClock
from durable.testing.pending import PendingActivity, PendingChild, PendingDelivery
from durable.worker.guards.guards import install_guards

R = TypeVar("R")
RUN_ID: Final = "01942000-0000-7000-8000-000000000000"


class Driver:
    """One run in the hands of a test.

    Args:
        call: the call of the workflow.
        run_id: seeds the run's randomness; equal for all runs by default, so that a
            test draws the same numbers every time.
        workflow_id: the workflow id.
        clock: the run's clock; it moves by `advance` alone.
        interceptors: as for `Engine`; those of workflow code count.
    """

    def __init__(
        self,
        call: WorkflowCall[Any],
        *,
        run_id: str = RUN_ID,
        workflow_id: str = "workflow",
        clock: VirtualClock | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        self._call = call
        self._code: Any = call.definition
        within = Interceptors(interceptors)
        if within.of_workflows:
            self._code = InterceptedCode(call.definition, within)
        self._run_id = run_id
        self._workflow_id = workflow_id
        self._replayer: Replayer | None = None
        self._cancel_requests = 0
        self._messages = 0
        self.clock = clock or VirtualClock(DEFAULT_START)
        self.history: list[HistoryEvent] = []
        self.unhandled: list[dict[str, Any]] = []
        """What asyncio would have logged: exceptions that nobody retrieved."""

    # --- workflow tasks ---------------------------------------------------------------

    def start(self) -> WorkflowTaskCompletion:
        """Drive the first workflow task."""
        return self.turn(self.started())

    def turn(self, *inputs: TaskInput) -> WorkflowTaskCompletion:
        """Drive one workflow task with these inputs and whatever timers are due.

        Updates that the run refuses are in the completion's `rejected`.

        Raises whatever parks the run: a bug of its code, `NondeterminismError`. The
        inputs are then recorded for the next task, as an engine does.
        """
        task = WorkflowTask(self.clock.now(), inputs, self._unseen())
        completion = self._live().process(task)
        self.history += completion.events
        if completion.failure is not None:
            self.crash()
            error: BaseException = completion.failure.error
            raise error
        return completion

    def record(self, *inputs: Attributes) -> None:
        """Record inputs without driving the code, as a draining worker does.

        Not updates: they are no events until the run has accepted them.
        """
        self.replay()
        self.history += self._live().unprocessed_events(self.clock.now(), inputs)
        self.crash()

    def replay(self) -> None:
        """Replay now what is recorded, if the code is not live.

        Raises: as `turn`.
        """
        unseen = self._unseen()
        if unseen:
            task = WorkflowTask(self.clock.now(), (), unseen, is_replay_only=True)
            completion = self._live().process(task)
            if completion.failure is not None:
                self.crash()
                error: BaseException = completion.failure.error
                raise error

    def crash(self) -> None:
        """Forget the live code; the next task replays it from the history."""
        replayer, self._replayer = self._replayer, None
        if replayer is not None:
            replayer.tear_down()

    def _live(self) -> Replayer:
        if self._replayer is None:
            install_guards()
            code = self._code
            self._replayer = Replayer(
                lambda _: code, on_unhandled=self.unhandled.append
            )
        return self._replayer

    def _unseen(self) -> list[HistoryEvent]:
        return self.history[self._live().event_count :]

    # --- shorthands -------------------------------------------------------------------

    def complete(
        self, activity: PendingActivity | int, value: Any = None
    ) -> WorkflowTaskCompletion:
        """Complete an activity in a task of its own."""
        return self.turn(self.completed(activity, value))

    def fail(
        self, activity: PendingActivity | int, error: BaseException
    ) -> WorkflowTaskCompletion:
        """Fail an activity in a task of its own."""
        return self.turn(self.failed(activity, error))

    def cancel(self, reason: str = "") -> WorkflowTaskCompletion:
        """Request the run's cancellation in a task of its own."""
        return self.turn(self.cancel_requested(reason))

    def signal(self, call: SignalCall | str, *args: Any) -> WorkflowTaskCompletion:
        """Send a signal in a task of its own; by its name with plain arguments."""
        return self.turn(self.signalled(call, *args))

    def update(
        self, call: UpdateCall[Any] | str, *args: Any, update_id: str | None = None
    ) -> WorkflowTaskCompletion:
        """Send an update in a task of its own; by its name with plain arguments."""
        return self.turn(self.requested(call, *args, update_id=update_id))

    @overload
    def query(self, call: QueryCall[R], /) -> R: ...
    @overload
    def query(self, call: str, /, *args: Any) -> Any: ...
    def query(self, call: QueryCall[Any] | str, /, *args: Any) -> Any:
        """Ask the code; nothing is recorded.

        Raises:
            QueryFailedError: nothing handles that query.
            ReadOnlyError: its handler tried to change the run.
        """
        self.replay()
        made = query_call(call, args)
        return made.decode_result(self._live().query(made.name, made.input))

    def advance(self, duration: Duration) -> WorkflowTaskCompletion | None:
        """Let time pass, and drive a task if a timer is due then."""
        self.clock.advance(duration)
        self.replay()
        if self._live().has_due_timer(self.clock.now()):
            return self.turn()
        return None

    def fire_next_timer(self) -> WorkflowTaskCompletion:
        """Let time pass until the next timer is due, and drive its task."""
        due_at = self.next_timer_at
        if due_at is None:
            raise InternalError("No timer is pending.")
        self.clock.advance_to(due_at)
        return self.turn()

    # --- inputs -----------------------------------------------------------------------

    def started(self) -> WorkflowExecutionStarted:
        """The first input."""
        definition = self._call.definition
        return WorkflowExecutionStarted(
            workflow_type=definition.name,
            input=self._call.input,
            task_queue="default",
            workflow_id=self._workflow_id,
            run_id=self._run_id,
            first_run_id=self._run_id,
            request_id=self._run_id,
            root_workflow_id=self._workflow_id,
            root_run_id=self._run_id,
            version=definition.own_version,
        )

    def completed(
        self, activity: PendingActivity | int, value: Any = None, *, attempt: int = 1
    ) -> ActivityTaskCompleted:
        """The input that an activity has returned.

        Raises:
            PayloadError: the value does not fit the activity's annotation.
        """
        number, at, scheduled = self._scheduled(activity)
        machine = self._live().find_activity(number)
        body = None if machine is None else machine.target.body
        result = _encode(scheduled.activity_type, value, body)
        return ActivityTaskCompleted(number, result, attempt, at)

    def failed(
        self, activity: PendingActivity | int, error: BaseException, *, attempt: int = 1
    ) -> ActivityTaskFailed:
        """The input that an activity has raised for the last time."""
        number, at, _ = self._scheduled(activity)
        return ActivityTaskFailed(
            number, failure_of(error), attempt, at, MAXIMUM_ATTEMPTS_REACHED
        )

    def timed_out(
        self, activity: PendingActivity | int, timeout_type: str = "start_to_close"
    ) -> ActivityTaskTimedOut:
        """The input that an activity has run out of time for good."""
        number, at, _ = self._scheduled(activity)
        failure = Failure(
            message=f"{timeout_type}_timeout passed",
            kind="timeout",
            type="TimeoutError",
            timeout_type=timeout_type,
        )
        return ActivityTaskTimedOut(number, failure, 1, at, MAXIMUM_ATTEMPTS_REACHED)

    def cancelled(self, activity: PendingActivity | int) -> ActivityTaskCanceled:
        """The input that an activity has stopped because it was asked to."""
        number, at, _ = self._scheduled(activity)
        return ActivityTaskCanceled(number, 1, at)

    def cancel_requested(self, reason: str = "") -> WorkflowExecutionCancelRequested:
        """The input that somebody asked the run to stop."""
        self._cancel_requests += 1
        return WorkflowExecutionCancelRequested(
            reason=reason, request_id=f"cancel-{self._cancel_requests}"
        )

    def signalled(
        self, call: SignalCall | str, *args: Any
    ) -> WorkflowExecutionSignaled:
        """The input that somebody sent a signal."""
        made = signal_call(call, args)
        self._messages += 1
        return WorkflowExecutionSignaled(
            made.name, made.input, request_id=f"signal-{self._messages}"
        )

    def requested(
        self, call: UpdateCall[Any] | str, *args: Any, update_id: str | None = None
    ) -> UpdateRequest:
        """The input that somebody sent an update."""
        made = update_call(call, args)
        self._messages += 1
        return UpdateRequest(
            update_id or f"update-{self._messages}", made.name, made.input
        )

    def _scheduled(
        self, activity: PendingActivity | int
    ) -> tuple[int, int, ActivityTaskScheduled]:
        """The event that schedules an activity: its number, its time, what it says."""
        number = activity if isinstance(activity, int) else activity.scheduled_event_id
        event = self.history[number - 1]
        if not isinstance(event.attributes, ActivityTaskScheduled):
            raise InternalError(f"Event {number} schedules no activity.")
        return number, event.time, event.attributes

    # --- what can be seen -------------------------------------------------------------

    @property
    def pending(self) -> list[PendingActivity]:
        """Activities that are recorded and have no outcome, in order."""
        self.replay()
        found: list[PendingActivity] = []
        for machine in self._live().pending_activities():
            scheduled = self._scheduled(machine.scheduled_event_id)[2]
            found.append(
                PendingActivity(
                    machine.scheduled_event_id,
                    scheduled.activity_type,
                    scheduled.activity_id,
                    scheduled.input,
                    machine.state is State.CANCEL_REQUESTED,
                )
            )
        return found

    @property
    def children(self) -> list[PendingChild]:
        """Child workflows that are recorded and have no outcome, in order."""
        self.replay()
        return [
            PendingChild(
                machine.initiated_event_id,
                machine.target.workflow_type,
                machine.workflow_id,
                machine.run_id,
                machine.input,
                machine.state is State.CANCEL_REQUESTED,
            )
            for machine in self._live().pending_children()
        ]

    @property
    def deliveries(self) -> list[PendingDelivery]:
        """Messages to other runs that are recorded and have no answer, in order."""
        self.replay()
        return [
            PendingDelivery(
                machine.initiated_event_id,
                command.workflow_id,
                command.run_id,
                getattr(command, "signal_name", None),
                getattr(command, "input", ()),
            )
            for machine in self._live().pending_deliveries()
            for command in [machine.sent]
        ]

    def unread_signals(self) -> tuple[UnreadSignal, ...]:
        """The signals that the code has not received, in order of arrival."""
        self.replay()
        return self._live().unread_signals()

    @property
    def next_timer_at(self) -> int | None:
        """When the next timer is due, in microseconds since 1970."""
        self.replay()
        return self._live().next_timer_at()

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        self.replay()
        return self._live().is_closed

    def result(self) -> Any:
        """The run's result.

        Raises:
            WorkflowFailedError: it failed or was cancelled; why is the cause.
            InternalError: it has not ended.
        """
        return result_of(self.history, self._call.definition.call_signature)


def result_of(history: Iterable[HistoryEvent], signature: Any) -> Any:
    """The decoded result that ends a history.

    Raises:
        WorkflowFailedError: it ends with a failure or a cancellation.
        InternalError: it does not end.
    """
    *_, last = history
    terminal = last.attributes
    if isinstance(terminal, WorkflowExecutionCompleted):
        return signature.decode_result(terminal.result)
    ids = {"workflow_id": "", "run_id": ""}
    if isinstance(terminal, WorkflowExecutionFailed):
        failed = WorkflowFailedError("The run failed.", **ids)
        failed.__cause__ = show_remote(exception_of(terminal.failure))
        raise failed
    if isinstance(terminal, WorkflowExecutionCanceled):
        raise WorkflowCancelledError("The run was cancelled.", **ids)
    raise InternalError(f"The history ends with {type(terminal).__name__}.")


def _encode(activity_type: str, value: Any, body: Step | None) -> Payload:
    try:
        activity = body or REGISTRY.get_activity(activity_type)
        signature = activity.call_signature
    except NotRegisteredError:
        return json.encode(value, Any, f"the result of {activity_type!r}")
    return signature.encode_result(value)

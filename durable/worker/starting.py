"""Starts runs: drives the first turn, then commits it with the run's creation.

So a run that one engine starts and runs itself costs no commit of its own. Children are
started the same way once their parent's turn is committed; asking again, after a crash
in between, finds the same child by its request id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import msgspec

from durable.core.codec import encode_event
from durable.core.events import (
    CHILD_OUTCOMES,
    Attributes,
    ChildWorkflowExecutionStarted,
    HistoryEvent,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionStarted,
)
from durable.core.workflow_task import (
    TaskInput,
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from durable.errors import CommitUnknownError, DurableError, StoreError
from durable.options import IdConflictPolicy, IdReusePolicy
from durable.store.records import RUNNING, Committed, Started, StartRun
from durable.store.store import Store
from durable.worker.live_run import LiveRun
from durable.worker.outgoing import (
    child_begun,
    child_start,
    has_work,
    published_state,
    starts_of,
    unowned_start,
)
from durable.worker.workflow_tasks import STATUS_OF, WorkflowTasks

Done = Callable[[Started | None, BaseException | None, bool], None]
"""Receives the outcome of a start, and whether a parent hears how that ended."""


class Host(Protocol):
    """What starting runs asks of the worker around it."""

    worker_id: str

    def can_run(self, task_queue: str, workflow_type: str) -> bool:
        """Whether this worker would take such a run itself."""
        ...

    def find(self, run_id: str) -> LiveRun | None:
        """The run, if it is in memory."""
        ...

    def enter(self, run: LiveRun) -> None:
        """Keep a run in memory."""
        ...

    def drop(self, run: LiveRun) -> None:
        """Take a run out of memory."""
        ...

    def new_run(
        self,
        started: WorkflowExecutionStarted,
        started_at: int,
        parent_close_policy: str | None,
    ) -> LiveRun:
        """A live run that begins with this event."""
        ...

    def new_run_id(self) -> str:
        """An id for a run that is about to be started."""
        ...

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        ...

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs."""
        ...

    def spread(self, committed: Committed, told: str | None = None) -> None:
        """A commit did something to other runs."""
        ...

    def closed_elsewhere(self, run_id: str) -> None:
        """A run was closed by a write that is not this worker's."""
        ...

    def wake_by(self, instant: int) -> None:
        """Look for due runs no later than this."""
        ...

    def look_around(self) -> None:
        """There may be runs that nobody owns."""
        ...

    def wake(self, run_ids: Iterable[str]) -> None:
        """Go on with these runs, if they are ours."""
        ...


class Starts:
    """Starts runs for one worker."""

    def __init__(
        self, store: Store, host: Host, tasks: WorkflowTasks, *, max_tries: int
    ) -> None:
        self._store = store
        self._host = host
        self._tasks = tasks
        self._max_tries = max_tries

    def start(
        self,
        started: WorkflowExecutionStarted,
        request: StartRun,
        inputs: tuple[TaskInput, ...],
    ) -> asyncio.Future[Started]:
        """Start a run for a client; `request` holds its row and the policies.

        `inputs` are what the first turn sees beside the start. What is given says
        whether the policies forbid it (`WorkflowAlreadyStartedError`).
        """
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()

        def settle(
            result: Started | None, error: BaseException | None, _: bool
        ) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif result is not None:
                done.set_result(result)

        self._submit(started, request, settle, inputs)
        return done

    def _submit(
        self,
        started: WorkflowExecutionStarted,
        request: StartRun,
        done: Done,
        inputs: tuple[TaskInput, ...] = (),
    ) -> None:
        """Drive the first turn and submit it together with the run's creation."""
        record = request.record
        run = self._host.new_run(started, record.started_at, record.parent_close_policy)
        task = WorkflowTask(record.started_at, (started, *inputs))
        completion = self._tasks.process(run, task)
        events, closes = completion.events, completion.is_closed
        kinds = {type(event.attributes) for event in events}
        begins_work = has_work(kinds) or completion.failure is not None
        run.is_active, run.wake_at = (
            (False, None) if closes else run.wanted_row(begins_work=begins_work)
        )
        status, closed_at = RUNNING, None
        if closes:
            status = STATUS_OF[type(events[-1].attributes)]
            closed_at = events[-1].time
        operation = msgspec.structs.replace(
            request,
            record=msgspec.structs.replace(
                record,
                owner=None if closes else self._host.worker_id,
                is_active=run.is_active,
                wake_at=run.wake_at,
                status=status,
                closed_at=closed_at,
                state=published_state(events) if StateTransitioned in kinds else None,
            ),
            rows=[encode_event(run.run_id, event) for event in events],
            messages=self._tasks.messages(run, completion, kinds),
            starts=starts_of(run, events, self._host) if closes else (),
        )
        run.is_committing = True
        # Others see it once it is committed, which is before its outcome is heard here:
        # what they bring must find it, or it would be loaded beside itself. A start
        # whose answer was lost may be asked again for what was loaded since.
        if self._host.find(run.run_id) is None:
            self._host.enter(run)
        self._store.submit(
            operation, partial(self._started, run, completion, inputs, done)
        )

    def _started(
        self,
        run: LiveRun,
        completion: WorkflowTaskCompletion,
        inputs: tuple[TaskInput, ...],
        done: Done,
        result: Started | None,
        error: BaseException | None,
    ) -> None:
        run.is_committing = False
        if error is not None or result is None or not result.created:
            self._host.drop(run)
            if result is not None and result.committed is not None:
                self._host.spread(result.committed)
            if isinstance(error, CommitUnknownError):
                # If it took place, what it started is ours perhaps, or waits for all.
                self._host.wake_by(self._store.now())
                self._host.look_around()
        else:
            if result.terminated_run_id is not None:
                self._host.closed_elsewhere(result.terminated_run_id)
            if run.is_dropped:  # with the lease under which it was committed
                if completion.is_closed:
                    self._host.closed_elsewhere(run.run_id)
                done(result, error, False)
                self._tasks.give_back(run, inputs)
                return
            # A child that goes on as a new run has not ended for its parent.
            last = completion.events[-1].attributes
            has_ended = completion.is_closed and not isinstance(
                last, WorkflowExecutionContinuedAsNew
            )
            done(result, error, has_ended)
            if completion.failure is not None:
                updates = [i for i in inputs if isinstance(i, UpdateRequest)]
                run.inputs = [*updates, *run.inputs]
                self._after_failed_start(run, completion.failure)
            else:
                self._tasks.after_start(run, completion, result.committed)
            return
        done(result, error, False)

    def _after_failed_start(self, run: LiveRun, failure: WorkflowTaskFailure) -> None:
        run.failed_tries = 1
        if self._max_tries <= 1:
            self._tasks.park(run, failure.failure)
        else:
            self._host.reload(run)

    # --- children ---------------------------------------------------------------------

    def start_child(self, run: LiveRun, event: HistoryEvent) -> None:
        """Start a recorded child; how that went is an input of its parent."""
        what = event.attributes
        assert isinstance(what, StartChildWorkflowExecutionInitiated)  # noqa: S101 - by the caller
        run.starting.add(event.event_id)
        now = self._store.now()
        started, record = child_start(run, event, self._host.new_run_id(), now)
        policy = IdReusePolicy(what.settings.id_reuse_policy)
        done = partial(self._child_started, run, event)
        if self._host.can_run(started.task_queue, started.workflow_type):
            request = StartRun(
                record=record,
                rows=[],
                reuse_policy=policy,
                conflict_policy=IdConflictPolicy.FAIL,
            )
            self._submit(started, request, done)
        else:
            self._store.submit(
                unowned_start(started, record, policy),
                lambda result, error: done(result, error, False),
            )

    def _child_started(
        self,
        run: LiveRun,
        event: HistoryEvent,
        result: Started | None,
        error: BaseException | None,
        has_ended: bool,
    ) -> None:
        run.starting.discard(event.event_id)
        if run.is_dropped or run.is_closed:
            return
        if isinstance(error, StoreError):
            run.refusals += 1
            self._host.reload(run)  # asks again
            return
        if error is not None and not isinstance(error, DurableError):
            raise error
        if error is not None:
            run.inputs.append(child_begun(event, error))
        elif result is not None:
            take_start(run, child_begun(event, result.run_id), event.event_id)
            if not result.created:
                # It may be ours by a commit whose answer was lost, or nobody's.
                self._host.wake((result.run_id,))
                self._host.look_around()
        if not has_ended:  # else how it ended follows at once
            self._host.advance(run)

    def restore(self, run: LiveRun) -> None:
        """Ask again for children whose start is recorded nowhere."""
        begun = {
            getattr(event, "initiated_event_id", None)
            for event in (*run.inputs, *run.replayer.unprocessed)
            if isinstance(event, (*CHILD_OUTCOMES, ChildWorkflowExecutionStarted))
        }
        for child in run.replayer.pending_children():
            number = child.initiated_event_id
            if child.run_id is None and number not in begun | run.starting:
                assert child.initiated is not None  # noqa: S101 - it is recorded
                event = HistoryEvent(number, 0, child.initiated_at, child.initiated)
                self.start_child(run, event)


def take_start(run: LiveRun, begun: Attributes, number: int) -> None:
    """Let a run hear that its child has begun: before its end, or not at all."""
    view = run.replayer
    if view.pending_child(number) is None or _place_of_end(view.unprocessed, number):
        return
    # A child whose end is not in the mail ends here, and later.
    place = _place_of_end(run.inputs, number) if run.mailed else None
    if place is None:
        run.inputs.append(begun)
    else:
        run.inputs = [*run.inputs[: place - 1], begun, *run.inputs[place - 1 :]]


def _place_of_end(inputs: Iterable[TaskInput], number: int) -> int | None:
    """Where the end of a child stands, counted from 1."""
    for place, event in enumerate(inputs, 1):
        if isinstance(event, CHILD_OUTCOMES) and event.initiated_event_id == number:
            return place
    return None

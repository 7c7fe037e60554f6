"""Drives the code of runs under the watchdog's eyes and the observer's."""

from __future__ import annotations

from collections.abc import Sequence

from durable.core.loop import turn
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskCompletion,
)
from durable.errors import WorkflowBlockedError
from durable.observer import Note, WorkerObserver
from durable.runs.inputs import Driven
from durable.runs.live_run import LiveRun
from durable.store.store import Store
from durable.worker.activities import observing
from durable.worker.guards.watchdog import Watchdog


class Turns:
    """Drives turns for one worker."""

    def __init__(
        self,
        store: Store,
        watchdog: Watchdog | None,
        observer: WorkerObserver | None,
    ) -> None:
        self._store = store
        self._watchdog = watchdog
        self.observer = observer

    def drive(self, run: LiveRun, task: WorkflowTask, ready_at: int) -> Driven:
        """Drive one turn, or a replay; `ready_at` is when it was due, if it waited."""
        observer = self.observer
        if observer is None:
            return Driven(self._drive(run, task))
        if task.is_replay_only:
            before = self._store.now()
            completion = self._drive(run, task)
            observer.replayed(
                workflow_type=run.workflow_type,
                events=len(task.history),
                duration=self._store.now() - before,
            )
            return Driven(completion)
        with observer.running_workflow_task(
            workflow_type=run.workflow_type,
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            task_number=run.replayer.task_count + 1,
            attempt=run.failed_tries + 1,
            waited=observing.waited(run, task, ready_at),
            headers=run.headers,
        ) as headers:
            completion = self._drive(run, task)
            failure = completion.failure
            if failure is not None:
                observer.workflow_task_failed(error_type=failure.failure.type)
        return Driven(completion, headers, run.replayer.take_notes())

    def tell(self, run: LiveRun, notes: Sequence[Note]) -> None:
        """Tell the observer what the code of a run has for it."""
        if self.observer is None:
            return
        for note in notes:
            self.observer.noted(
                note,
                workflow_type=run.workflow_type,
                workflow_id=run.workflow_id,
                run_id=run.run_id,
            )

    def _drive(self, run: LiveRun, task: WorkflowTask) -> WorkflowTaskCompletion:
        watchdog = self._watchdog
        if watchdog is None:
            return run.replayer.process(task)
        completion = None
        outer = turn.outside()
        watchdog.enter(run)
        try:
            completion = run.replayer.process(task)
        except WorkflowBlockedError:
            pass  # it hit the end of the turn
        finally:
            try:
                interrupted = watchdog.leave()
            except WorkflowBlockedError:  # it hit this call; there is but one
                watchdog.leave()
                interrupted = True
        if completion is not None and not interrupted:
            return completion
        # Wherever the interruption hit, and whatever the code made of it: the turn is
        # void.
        turn.restore(outer)
        failure = None if completion is None else completion.failure
        is_other = failure is not None and failure.kind is not TaskFailureKind.BLOCKED
        if completion is not None and is_other:
            return completion
        error = watchdog.error(
            run.workflow_id, None if failure is None else failure.error
        )
        return run.replayer.failed(task, TaskFailureKind.BLOCKED, error)

"""`Activities` for code without an event loop."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from durable.api.activities.effects import Done, NotDone
from durable.client.activities.activities import Activities, QueuedActivity, State
from durable.client.activities.changing import TaskOptions
from durable.loop_thread import LoopThread


class SyncActivities:
    """Activities that run elsewhere or outside; see `Activities`."""

    def __init__(self, thread: LoopThread, activities: Activities) -> None:
        self._thread = thread
        self._activities = activities

    def complete(
        self, token: str | None = None, result: Any = None, **ids: str | None
    ) -> None:
        """Say what the result of one is; see `Activities.complete`."""
        self._thread.call(self._activities.complete(token, result, **ids))

    def fail(
        self,
        token: str | None = None,
        error: BaseException | str = "",
        **ids: str | None,
    ) -> None:
        """Say that an attempt has failed; see `Activities.fail`."""
        self._thread.call(self._activities.fail(token, error, **ids))

    def cancel(self, token: str | None = None, **ids: str | None) -> None:
        """Say that one has stopped; see `Activities.cancel`."""
        self._thread.call(self._activities.cancel(token, **ids))

    def resolve(
        self, verdict: Done[Any] | NotDone | BaseException, **ids: str | None
    ) -> None:
        """Say what one in doubt has done; see `Activities.resolve`."""
        self._thread.call(self._activities.resolve(verdict, **ids))

    def heartbeat(
        self, token: str | None = None, *details: Any, **ids: str | None
    ) -> None:
        """Say that somebody is still at it; see `Activities.heartbeat`."""
        self._thread.call(self._activities.heartbeat(token, *details, **ids))

    def pause(self, token: str | None = None, **ids: str | None) -> None:
        """Let one that waits not begin; see `Activities.pause`."""
        self._thread.call(self._activities.pause(token, **ids))

    def unpause(self, token: str | None = None, **ids: str | None) -> None:
        """Let one that waits begin now; see `Activities.unpause`."""
        self._thread.call(self._activities.unpause(token, **ids))

    def reset(self, token: str | None = None, **ids: str | None) -> None:
        """Let one that waits begin anew; see `Activities.reset`."""
        self._thread.call(self._activities.reset(token, **ids))

    def update_options(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        """Change how one is to run; see `Activities.update_options`."""
        self._thread.call(
            self._activities.update_options(
                token,
                workflow_id=workflow_id,
                activity_id=activity_id,
                run_id=run_id,
                **options,
            )
        )

    def list(
        self,
        *,
        task_queue: str | None = None,
        activity_type: str | None = None,
        state: State | None = None,
        workflow_id: str | None = None,
        in_doubt: bool = False,
        limit: int = 100,
    ) -> list[QueuedActivity]:
        """List them; see `Activities.list`."""
        return self._thread.call(
            self._activities.list(
                task_queue=task_queue,
                activity_type=activity_type,
                state=state,
                workflow_id=workflow_id,
                in_doubt=in_doubt,
                limit=limit,
            )
        )

    def describe(self, token: str | None = None, **ids: str | None) -> QueuedActivity:
        """Read how one stands; see `Activities.describe`."""
        return self._thread.call(self._activities.describe(token, **ids))

"""The same controls for code without an event loop."""

from __future__ import annotations

from typing import Any, Self

from durable.api.workflows.workflow import WorkflowCall
from durable.client.resets.comparing import Comparison
from durable.client.resets.controls import RunControls, compare
from durable.client.resets.planning import Reapply, ResetPlan
from durable.core.resetting import Point
from durable.loop_thread import LoopThread


class SyncRunControls:
    """Resets, retries, forks and holds up one run; see `RunControls`."""

    _thread: LoopThread
    _controls: RunControls

    def _to(self, handle: RunControls) -> Self:
        make: Any = type(self)
        other: Self = make(self._thread, handle)
        return other

    def reset(
        self,
        *,
        to: Point = "last_task",
        reason: str = "",
        reapply: Reapply = "all",
        request_id: str | None = None,
    ) -> Self:
        """Go on from an earlier place, as a new run; see `Handle.reset`."""
        call = self._controls.reset(
            to=to, reason=reason, reapply=reapply, request_id=request_id
        )
        return self._to(self._thread.call(call))

    def plan_reset(
        self, *, to: Point = "last_task", reapply: Reapply = "all"
    ) -> ResetPlan:
        """Say what `reset` would do; see `Handle.plan_reset`."""
        return self._thread.call(self._controls.plan_reset(to=to, reapply=reapply))

    def retry(self, *, reason: str = "", request_id: str | None = None) -> Self:
        """Go on from before what failed; see `Handle.retry`."""
        call = self._controls.retry(reason=reason, request_id=request_id)
        return self._to(self._thread.call(call))

    def plan_retry(self) -> ResetPlan:
        """Say what `retry` would do; see `Handle.plan_retry`."""
        return self._thread.call(self._controls.plan_retry())

    def fork(
        self,
        *,
        id: str | None = None,
        to: Point | None = None,
        call: WorkflowCall[Any] | None = None,
        version: str | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Self:
        """Begin another run from what this has done; see `Handle.fork`."""
        fork = self._controls.fork(
            id=id,
            to=to,
            call=call,
            version=version,
            reason=reason,
            request_id=request_id,
        )
        return self._to(self._thread.call(fork))

    def plan_fork(self, *, to: Point | None = None) -> ResetPlan:
        """Say what `fork` would do; see `Handle.plan_fork`."""
        return self._thread.call(self._controls.plan_fork(to=to))

    def pause(self, *, note: str = "", request_id: str | None = None) -> None:
        """Let nothing of the run begin until it is resumed; see `Handle.pause`."""
        self._thread.call(self._controls.pause(note=note, request_id=request_id))

    def resume(self, *, note: str = "", request_id: str | None = None) -> None:
        """Let a paused run go on; see `Handle.resume`."""
        self._thread.call(self._controls.resume(note=note, request_id=request_id))

    def compare(self, other: SyncRunControls) -> Comparison:
        """Compare what two runs did, call by call; see `durable.compare`."""
        return self._thread.call(compare(self._controls, other._controls))

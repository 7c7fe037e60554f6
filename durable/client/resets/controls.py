"""The part of a handle that an operator uses on whole runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from durable.api.activities.activity import Activity
from durable.api.workflows.versions import Version
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.client.activities.pausing import resume_tasks
from durable.client.chain import Chain, Connection
from durable.client.resets.comparing import Comparison, compare_histories
from durable.client.resets.planning import (
    Reapply,
    ResetPlan,
    Wish,
    check_reapply,
    new_request_id,
    plan,
    question,
)
from durable.core.history.codec import encode_attributes
from durable.core.history.events import (
    WorkflowExecutionPaused,
    WorkflowExecutionUnpaused,
)
from durable.core.resetting import Before, Cut, Point, cut_at, cut_before_failure
from durable.errors import (
    CommitUnknownError,
    InvalidCallError,
    InvalidResetError,
    ResetConflictError,
)
from durable.options import check_id, spell_out
from durable.store.queries import LoadRuns
from durable.store.records import MessageKind, ResetRun, Started, Terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable.core.history.events import HistoryEvent

_TRIES: Final = 20


def before(
    name: str | Activity[Any, Any] | Workflow[Any, Any], /, occurrence: int = 1
) -> Before:
    """The place before a run asked for an activity or a child workflow.

    Args:
        name: of the activity or workflow; or either itself.
        occurrence: which of several calls, from 1; -1 is the last.
    """
    return Before(name if isinstance(name, str) else name.name, occurrence)


async def compare(left: RunControls, right: RunControls) -> Comparison:
    """Compare what two runs did, call by call: where they part, and how.

    Args:
        left: a handle to the one.
        right: a handle to the other, of any workflow.

    Raises:
        WorkflowNotFoundError: there is no such run.
        CorruptHistoryError: a history cannot be read.
    """
    return compare_histories(await left.history(), await right.history())


class RunControls:
    """Resets, retries, forks and holds up one run."""

    _client: Connection
    _definition: Workflow[Any, Any] | None

    @property
    def _chain(self) -> Chain:
        raise NotImplementedError

    async def history(self) -> list[HistoryEvent]:
        """Read the run's events, in order."""
        raise NotImplementedError

    async def reset(
        self,
        *,
        to: Point = "last_task",
        reason: str = "",
        reapply: Reapply = "all",
        request_id: str | None = None,
    ) -> Self:
        """Go on from an earlier place, as a new run of the same workflow id.

        What the code had decided by then is kept, with all results; what came after
        that is undone, and decided anew. A run that is open is terminated for it. What
        undone activities did to the world is not taken back. An activity that had no
        result by then runs again; children that had begun by then are kept. Timeouts
        count anew, and randomness is new.

        Args:
            to: an event's number: it and what had come in by then is kept, and what
                its workflow task decided is undone; "first_task" or "last_task": what
                that one decided is undone; or `before("charge")`.
            reason: why, for those who look.
            reapply: which messages that came later the run gets again: "all",
                "signals", "updates" or "none". Requests to stop are not.
            request_id: your idempotency key: the same key again is the same new run.

        Returns:
            A handle to the new run.

        Raises:
            InvalidResetError: the run has no such place.
            WorkflowAlreadyStartedError: another run has its workflow id by now.
            ResetConflictError: the run went on each time it was to be reset.
            WorkflowNotFoundError: there is no such run.
            CorruptHistoryError: its history cannot be read.
        """
        wish = Wish(
            cut=cut_of(to),
            reapply=check_reapply(reapply),
            reason=spell_out(reason),
            request_id=_request_id(request_id),
            may_repeat=request_id is not None,
        )
        return await self._carry_out(wish)

    async def plan_reset(
        self, *, to: Point = "last_task", reapply: Reapply = "all"
    ) -> ResetPlan:
        """Say what `reset` would do, and do nothing.

        Raises: as `reset`.
        """
        wish = Wish(cut=cut_of(to), reapply=check_reapply(reapply), request_id="plan")
        return await self._plan(wish)

    async def retry(self, *, reason: str = "", request_id: str | None = None) -> Self:
        """Go on with a run that has failed from before what failed, as a new run.

        The activity that it failed of runs again, or the child starts again; whatever
        has succeeded is kept. If the code itself has failed, its last workflow task is
        done again: mend it first. A run that timed out or was terminated goes on where
        it was, one that was cancelled as if nobody had asked.

        Args:
            reason: why, for those who look.
            request_id: your idempotency key: the same key again is the same new run.

        Raises: as `reset`; InvalidResetError also if the run has not failed.
        """
        wish = Wish(
            cut=cut_before_failure,
            is_retry=True,
            reason=spell_out(reason),
            request_id=_request_id(request_id),
            may_repeat=request_id is not None,
        )
        return await self._carry_out(wish)

    async def plan_retry(self) -> ResetPlan:
        """Say what `retry` would do, and do nothing.

        Raises: as `retry`.
        """
        return await self._plan(
            Wish(cut=cut_before_failure, is_retry=True, request_id="plan")
        )

    async def fork(
        self,
        *,
        id: str | None = None,
        to: Point | None = None,
        call: WorkflowCall[Any] | None = None,
        version: str | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Self:
        """Begin another run from what this one has done, and leave this one alone.

        Args:
            id: the workflow id of the fork; its run id by default.
            to: where it goes on from, as for `reset`: "last_task" by default.
            call: another call of the same workflow: then it begins at the first line.
            version: the version of its code; "newest" is the one of this program. The
                code must fit what is kept, or the fork parks.
            reason: why, for those who look.
            request_id: your idempotency key: the same key again is the same fork.

        Returns:
            A handle to the fork.

        Raises: as `reset`; InvalidResetError also if the fork would have to wait for a
            child of this run, or something cannot be combined.
        """
        wish = await self._fork_wish(to, call, version)
        wish = msgspec.structs.replace(
            wish,
            fork_id="" if id is None else check_id(id, "the workflow id"),
            reason=spell_out(reason),
            request_id=_request_id(request_id),
            may_repeat=request_id is not None,
        )
        return await self._carry_out(wish)

    async def plan_fork(self, *, to: Point | None = None) -> ResetPlan:
        """Say what `fork` would do, and do nothing.

        Raises: as `fork`.
        """
        return await self._plan(await self._fork_wish(to, None, None))

    async def pause(self, *, note: str = "", request_id: str | None = None) -> None:
        """Let nothing of the run begin until it is resumed.

        Returns when that is durable. An activity that runs ends, and its outcome is
        kept; then the run is set aside. What comes in meanwhile is kept: signals and
        updates, ends of children; timers that come due fire when it is resumed, and so
        do its own timeouts. Queries are refused with `WorkflowPausedError`.

        Args:
            note: why, for those who look.
            request_id: your idempotency key: the same key again changes nothing.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed.
        """
        await self._send(MessageKind.PAUSE, WorkflowExecutionPaused, note, request_id)

    async def resume(self, *, note: str = "", request_id: str | None = None) -> None:
        """Let a paused run go on. Returns when that is durable.

        Raises: as `pause`.
        """
        kind = MessageKind.RESUME
        await self._send(kind, WorkflowExecutionUnpaused, note, request_id)
        record, client = await self._chain.record(), self._client
        await resume_tasks(client.store, client.namespace, record.run_id)

    async def _send(
        self,
        kind: MessageKind,
        event: type[WorkflowExecutionPaused | WorkflowExecutionUnpaused],
        note: str,
        request_id: str | None,
    ) -> None:
        request_id = _request_id(request_id)
        made = event(
            note=spell_out(note), request_id=request_id, identity=self._client.identity
        )
        await self._chain.put(kind, request_id, encode_attributes(made))

    async def _fork_wish(
        self, to: Point | None, call: WorkflowCall[Any] | None, version: str | None
    ) -> Wish:
        if call is not None and not isinstance(call, WorkflowCall):
            raise InvalidCallError(
                f"{call!r} is no call of a workflow, such as order(5)."
            )
        record = await self._chain.record()
        if call is not None and call.definition.name != record.workflow_type:
            raise InvalidResetError(
                f"A call of {call.definition.name!r} is no other input for a run of"
                f" {record.workflow_type!r}."
            )
        if version == "newest":
            workflows = self._client.registry.workflows
            definition = workflows.get(record.workflow_type)
            version = None if definition is None else definition.own_version
            if version is None:
                raise InvalidResetError(
                    f"This program has no version of {record.workflow_type!r}.",
                    hint='Give the version itself, such as "2.1.0".',
                )
        if version is not None:
            Version(version, "version")
        return Wish(
            cut=cut_of(to or ("last_task" if call is None else "first_task")),
            reapply="none",
            request_id="plan",
            fork_id="",
            input=None if call is None else call.input,
            version=version,
        )

    async def _plan(self, wish: Wish) -> ResetPlan:
        return (await plan(self._client, await self._chain.record(), wish))[1]

    async def _carry_out(self, wish: Wish) -> Self:
        connection = self._chain.connection
        base = await self._chain.record()
        if wish.may_repeat:
            # What was done may have changed what the place is looked for in.
            operation = question(connection, base, wish)
            done: Started | None = await connection.store.perform(operation)
            if done is not None:
                return await self._handle_to(done)
        for _ in range(_TRIES):
            operation, _ = await plan(connection, base, wish)
            started = await _perform(connection, operation)
            if started is not None:
                await _spread(connection, started)
                return await self._handle_to(started)
            base = await self._chain.record()
        raise ResetConflictError(
            f"Run {self._chain.workflow_id!r} went on {_TRIES} times while it was to be"
            " reset; nothing was done.",
            hint="Pause it first.",
        )

    async def _handle_to(self, started: Started) -> Self:
        loaded = await self._client.store.read(LoadRuns([started.run_id]))
        record = loaded[0].record
        make: Any = type(self)
        handle: Self = make(
            self._client,
            record.workflow_id,
            started.run_id,
            self._client.registry.find_workflow(record.workflow_type, record.version)
            or self._definition,
            first_run_id=record.first_run_id,
            is_new=started.created,
        )
        return handle


def cut_of(to: object) -> Callable[[Sequence[HistoryEvent]], Cut]:
    """Return what cuts a history at a place.

    Raises:
        InvalidResetError: it is none.
    """
    is_point = to in ("first_task", "last_task") or isinstance(to, Before)
    if not is_point and (not isinstance(to, int) or isinstance(to, bool)):
        raise InvalidResetError(
            f"to is {to!r}, which is no place of a run.",
            hint='Give the number of an event, "first_task", "last_task" or'
            ' before("charge").',
        )
    point: Any = to
    return lambda events: cut_at(events, point)


def _request_id(given: str | None) -> str:
    return new_request_id() if given is None else check_id(given, "the request id")


async def _perform(connection: Connection, operation: ResetRun) -> Started | None:
    """Have it done; once more if the answer was lost, as it has a request id."""
    try:
        started: Started | None = await connection.store.perform(operation)
    except CommitUnknownError:
        started = await connection.store.perform(operation)
    return started


async def _spread(connection: Connection, started: Started) -> None:
    """Let this process hear of what was done."""
    ended, committed = started.terminated_run_id, started.committed
    if ended is not None and committed is not None:
        await connection.terminated(Terminated(ended, committed))
    if connection.worker is not None:
        connection.worker.wake((started.run_id,))

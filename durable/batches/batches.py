"""`engine.batch(...)`: what is done with all runs that a condition holds for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from durable.api.messages.messages import SignalCall, signal_call
from durable.api.workflows.workflow_definition import WorkflowCall, workflow_of
from durable.batches.batch_workflow import PREFIX, batch
from durable.batches.state import (
    BatchAction,
    BatchState,
    Progress,
    pack,
    pack_condition,
)
from durable.client.client import Client
from durable.client.descriptions.searching import Listing, read_condition, to_search
from durable.client.handle import Handle
from durable.client.resets.controls import cut_of
from durable.client.resets.planning import Reapply, check_reapply
from durable.client.start_options import StartSettings
from durable.clock import to_datetime
from durable.core.history.payload import decode_payload
from durable.core.resetting import Before, Point
from durable.errors import InvalidOptionError, WorkflowNotFoundError
from durable.options import Duration, IdConflictPolicy, check_id
from durable.search.conditions import All, Compare, Condition, joined
from durable.search.run_fields import Run
from durable.store.queries import CountRuns, FindRun, RunCounts
from durable.store.records import RunStatus

RATE: Final = 50.0
"""Runs a second, if nothing else is said."""
_OPEN: Final = Run.status == RunStatus.RUNNING.value


class BatchDescription(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Attributes:
        id: its id.
        action: what it does with each: "signal", "reset" and so on.
        status: that of its run: running until it is through.
        total: how many runs there were when it began; None until a worker has it.
        is_counted: False if `total` is a least number.
        done: how many were acted on.
        skipped: how many were not, by why: "closed" or "gone" meanwhile; of deletions,
            what still needs them; of resets and retries, "superseded" where another
            run of the workflow id has begun since.
        failed: how many refused it, by the code of the error.
        failures: the first hundred of them: workflow id, run id, code.
    """

    id: str
    action: str
    status: RunStatus
    started_at: datetime
    closed_at: datetime | None = None
    total: int | None = None
    is_counted: bool = False
    done: int = 0
    skipped: dict[str, int] = {}
    failed: dict[str, int] = {}
    failures: list[tuple[str, str, str]] = []

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class BatchHandle:
    """One batch: ask how far it is, wait for it, or stop it.

    Attributes:
        id: its id; `Engine.get_batch` finds it again by that.
    """

    def __init__(self, open_client: Callable[[], Client], id: str) -> None:
        self._client = open_client
        self.id = id

    def __repr__(self) -> str:
        return f"<batch {self.id!r}>"

    async def describe(self) -> BatchDescription:
        """Tell how far it is.

        Raises:
            WorkflowNotFoundError: there is no such batch.
        """
        client = self._client()
        record = await client.store.read(FindRun(client.namespace, PREFIX + self.id))
        if record is None:
            raise WorkflowNotFoundError(f"There is no batch {self.id!r}.")
        progress = None
        if record.state is not None:
            state = decode_payload(record.state)
            progress = msgspec.json.decode(state.json, type=Progress)
        closed_at = record.closed_at
        return BatchDescription(
            id=self.id,
            action="" if progress is None else progress.action,
            status=record.status,
            started_at=to_datetime(record.started_at),
            closed_at=None if closed_at is None else to_datetime(closed_at),
            total=None if progress is None else progress.total,
            is_counted=progress is not None and progress.is_counted,
            done=0 if progress is None else progress.done,
            skipped={} if progress is None else progress.skipped,
            failed={} if progress is None else progress.failed,
            failures=[] if progress is None else progress.failures,
        )

    async def result(self, *, timeout: Duration | None = None) -> BatchDescription:
        """Wait until it is through, and tell what it did.

        Raises:
            WorkflowFailedError: it was cancelled or terminated, or could not go on.
            ResultTimeoutError: `timeout` passed; it goes on.
            WorkflowNotFoundError: there is no such batch.
        """
        await (await self._find()).result(timeout=timeout)
        return await self.describe()

    async def cancel(self) -> None:
        """Stop it: what it has done stays done.

        Raises:
            WorkflowNotFoundError: there is no such batch.
            WorkflowClosedError: it is through.
        """
        await (await self._find()).cancel()

    async def _find(self) -> Handle[Any]:
        return await self._client().find(PREFIX + self.id, None, batch)


class Batch:
    """Some runs, and what can be done with all of them.

    Each is done by a run of its own, which survives the death of its worker: it acts on
    the runs that there are when it begins, oldest first, and each of them once.
    """

    def __init__(self, open_client: Callable[[], Client], asked: Listing) -> None:
        self._client = open_client
        self._asked = asked

    async def count(self, *, only_open: bool = False) -> RunCounts:
        """Count the runs that would be acted on; nothing is done.

        Raises: as `Engine.list`.
        """
        client = self._client()
        where = await self._where(client, only_open=only_open)
        return await client.store.read(CountRuns(client.namespace, where))

    async def signal(
        self,
        call: SignalCall | str,
        /,
        *args: Any,
        rate: float | None = RATE,
        id: str | None = None,
    ) -> BatchHandle:
        """Send a signal to those that are open.

        Args:
            call: as for `Handle.signal`.
            *args: arguments, only with a name.
            rate: how many runs a second at most; None for as many as it can.
            id: your idempotency key: the same id again is the same batch.

        Raises:
            InvalidInputError: an argument breaks its rule; nothing was begun.
            QueryTooBroadError: as for `Engine.list`.
        """
        made = signal_call(call, args)
        action = BatchAction(kind="signal", signal_name=made.name, input=made.input)
        return await self._begin(action, rate, id)

    async def cancel(
        self, reason: str = "", *, rate: float | None = RATE, id: str | None = None
    ) -> BatchHandle:
        """Ask those that are open to stop; see `Handle.cancel`, and `signal`."""
        return await self._begin(
            BatchAction(kind="cancel", reason=str(reason)), rate, id
        )

    async def terminate(
        self, reason: str = "", *, rate: float | None = RATE, id: str | None = None
    ) -> BatchHandle:
        """Close those that are open at once; see `Handle.terminate`, and `signal`."""
        return await self._begin(
            BatchAction(kind="terminate", reason=str(reason)), rate, id
        )

    async def delete(
        self,
        *,
        terminate: bool = False,
        rate: float | None = RATE,
        id: str | None = None,
    ) -> BatchHandle:
        """Delete those that are closed, or all; see `Handle.delete`, and `signal`.

        What an open run may need is skipped.

        Args:
            terminate: end open ones first; else they are skipped.
            rate: as for `signal`.
            id: as for `signal`.
        """
        reason = "it is deleted"
        action = BatchAction(kind="delete", reason=reason, terminates=terminate)
        return await self._begin(action, rate, id)

    async def pause(
        self, *, note: str = "", rate: float | None = RATE, id: str | None = None
    ) -> BatchHandle:
        """Pause those that are open; see `Handle.pause`, and `signal`."""
        return await self._begin(BatchAction(kind="pause", reason=str(note)), rate, id)

    async def resume(
        self, *, note: str = "", rate: float | None = RATE, id: str | None = None
    ) -> BatchHandle:
        """Let those that are paused go on; see `Handle.resume`, and `signal`."""
        return await self._begin(BatchAction(kind="resume", reason=str(note)), rate, id)

    async def reset(
        self,
        *,
        to: Point = "last_task",
        reason: str = "",
        reapply: Reapply = "all",
        rate: float | None = RATE,
        id: str | None = None,
    ) -> BatchHandle:
        """Let them go on from an earlier place; see `Handle.reset`, and `signal`.

        Of each workflow id only the newest run is: others are skipped.

        Raises: as `signal`; InvalidResetError if there is no such place.
        """
        cut_of(to)
        place = (to.name, to.occurrence) if isinstance(to, Before) else to
        action = BatchAction(
            kind="reset", reason=str(reason), to=place, reapply=check_reapply(reapply)
        )
        return await self._begin(action, rate, id)

    async def retry(
        self, *, reason: str = "", rate: float | None = RATE, id: str | None = None
    ) -> BatchHandle:
        """Let those that failed go on; see `Handle.retry`, and `reset`."""
        return await self._begin(
            BatchAction(kind="retry", reason=str(reason)), rate, id
        )

    async def _where(
        self, client: Client, *, only_open: bool, before: int | None = None
    ) -> Condition:
        asked = self._asked
        if asked.where is not None and not asked.parts:
            named = await read_condition(client.store, client.namespace, asked.where)
            if named is None:
                raise _unfiltered()  # an order alone
        if only_open:
            asked = msgspec.structs.replace(asked, parts=(*asked.parts, _OPEN))
        query = await to_search(client.store, client.namespace, asked)
        parts = joined(query.where)
        if before is not None:
            parts.append(Compare(Run.started.name, True, "<=", before))
        return All(tuple(parts))

    async def _begin(
        self, action: BatchAction, rate: float | None, id: str | None
    ) -> BatchHandle:
        client = self._client()
        batch_id = (
            secrets.token_hex(8) if id is None else check_id(id, "the batch's id")
        )
        if rate is not None and not (
            isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0
        ):
            raise InvalidOptionError(
                f"rate is {rate!r}: give runs a second, more than 0, or None for as"
                " many as it can."
            )
        only_open = action.kind not in ("delete", "reset", "retry")
        now = client.store.now()
        where = await self._where(client, only_open=only_open, before=now)
        counts = await client.store.read(CountRuns(client.namespace, where))
        progress = Progress(
            action=action.kind, total=counts.total, is_counted=counts.is_complete
        )
        state = BatchState(
            action=action,
            where=pack_condition(where),
            rate=None if rate is None else float(rate),
            progress=progress,
        )
        workflow = workflow_of(batch)
        assert workflow is not None  # noqa: S101 - it is decorated
        # With an id of one's own the first call counts, whatever it has counted.
        how = StartSettings(
            workflow_id=PREFIX + batch_id, on_conflict=IdConflictPolicy.USE_EXISTING
        )
        await client.start(WorkflowCall(workflow, (pack(state),)), (), how)
        return BatchHandle(self._client, batch_id)


def check_chosen(asked: Listing, *, all_runs: bool) -> Listing:
    """Return what a batch is to act on.

    Raises:
        InvalidOptionError: nothing was said, which must not mean all runs.
    """
    # An empty text is most likely one that somebody has failed to fill in.
    is_blank = isinstance(asked.where, str) and not asked.where.strip()
    is_unfiltered = (asked.where is None or is_blank) and not asked.parts
    if is_unfiltered and not all_runs:
        raise _unfiltered()
    if all_runs and not is_unfiltered:
        raise InvalidOptionError("all_runs=True was given beside a filter.")
    return asked


def _unfiltered() -> InvalidOptionError:
    return InvalidOptionError(
        "A batch was given no filter.",
        hint="Say which runs, such as where=Run.type == 'order', or all_runs=True.",
    )

"""A handle: one run, as code outside of it sees it."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from durable.api.workflow import Workflow
from durable.client.outcomes import Outcomes, RunOutcome
from durable.clock import to_datetime
from durable.converter import json
from durable.converter.failures import exception_of
from durable.core.codec import decode_rows, encode_attributes
from durable.core.events import (
    TERMINAL_EVENTS,
    Attributes,
    HistoryEvent,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from durable.core.payload import Failure
from durable.errors import (
    CorruptHistoryError,
    ResultTimeoutError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowStuckError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)
from durable.options import Duration, to_microseconds
from durable.store.records import (
    AttemptRecord,
    PutMessage,
    RunRecord,
    RunStatus,
    TerminateRun,
)
from durable.store.store import Store

R_co = TypeVar("R_co", covariant=True)
_failure_decoder: Final = msgspec.json.Decoder(Failure)


class RunDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says about a run.

    Attributes:
        stuck: why it is parked, or None.
        wake_at: when its next timer, retry or timeout is due, if it waits for one.
        owner: the worker that has it, or None.
    """

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: RunStatus
    started_at: datetime
    closed_at: datetime | None
    wake_at: datetime | None
    owner: str | None
    version: str | None
    stuck: Failure | None


def describe(record: RunRecord) -> RunDescription:
    """Turn a run's row into what users see."""
    return RunDescription(
        namespace=record.namespace,
        workflow_id=record.workflow_id,
        run_id=record.run_id,
        workflow_type=record.workflow_type,
        task_queue=record.task_queue,
        status=record.status,
        started_at=to_datetime(record.started_at),
        closed_at=None if record.closed_at is None else to_datetime(record.closed_at),
        wake_at=None if record.wake_at is None else to_datetime(record.wake_at),
        owner=record.owner,
        version=record.version,
        stuck=decode_stuck(record.stuck),
    )


def decode_stuck(text: str | None) -> Failure | None:
    """Read why a run is parked; whatever stands there, say something."""
    if text is None:
        return None
    try:
        return _failure_decoder.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return Failure(message="The reason cannot be read.", type="CorruptHistoryError")


class Connection(Protocol):
    """What a handle asks of the client that made it."""

    @property
    def store(self) -> Store:
        """The open store."""
        ...

    namespace: str
    identity: str
    outcomes: Outcomes

    def mailed(self, run_id: str) -> None:
        """A message for this run was committed."""
        ...

    async def terminated(self, run_id: str) -> None:
        """This run was closed by a termination of ours."""
        ...


class Handle(Generic[R_co]):
    """One run: wait for it, look at it, stop it.

    Attributes:
        workflow_id: chosen by whoever started it.
        run_id: ours.
    """

    def __init__(
        self,
        connection: Connection,
        workflow_id: str,
        run_id: str,
        definition: Workflow[Any, Any] | None,
        outcome: RunOutcome | None = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.run_id = run_id
        self._connection = connection
        self._definition = definition
        self._outcome: RunOutcome = outcome or connection.outcomes.of(run_id)

    def __repr__(self) -> str:
        return f"<run {self.workflow_id!r} ({self.run_id})>"

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended, and return its result.

        Args:
            timeout: how long to wait; `timedelta`, seconds, or text like "30s".

        Raises:
            WorkflowFailedError: it failed, was cancelled, was terminated or timed out
                (each has its own subclass); why is chained as `__cause__`.
            WorkflowStuckError: its code has a bug; it is parked until that is mended.
            ResultTimeoutError: `timeout` passed; the run itself goes on.
            WorkflowNotFoundError: there is no such run.
        """
        terminal = self._outcome.terminal
        if terminal is None:
            if timeout is None:
                terminal = await self._wait_closed()
            else:
                limit = to_microseconds(timeout, "the timeout of result()") / 1_000_000
                terminal = await self._wait_closed_within(limit)
        result: R_co = self._result_of(terminal)
        return result

    async def _wait_closed_within(self, limit: float) -> Attributes:
        try:
            async with asyncio.timeout(limit):
                return await self._wait_closed()
        except TimeoutError:
            raise ResultTimeoutError(
                f"Run {self.workflow_id!r} has not ended within {limit:g} s;"
                " it goes on."
            ) from None

    async def _wait_closed(self) -> Attributes:
        outcome = self._outcome
        while outcome.terminal is None:
            if not outcome.is_fresh:
                # Listen before asking, or a change in between would go unheard.
                changed = asyncio.ensure_future(outcome.changed())
                try:
                    await asyncio.sleep(0)
                    terminal = await self._read_terminal()
                    if terminal is not None:
                        return terminal
                    await changed
                finally:
                    changed.cancel()
            else:
                await outcome.changed()
        return outcome.terminal

    async def _read_terminal(self) -> Attributes | None:
        record = await self._record()
        if record.status is RunStatus.RUNNING:
            if record.stuck is not None:
                raise self._stuck(decode_stuck(record.stuck) or Failure())
            return None
        rows = await self._connection.store.read_history(self.run_id)
        last = decode_rows(rows[-1:])
        if not last or not isinstance(last[0].attributes, TERMINAL_EVENTS):
            raise CorruptHistoryError(
                f"Run {self.workflow_id!r} is {record.status.value}, but its history"
                " has no terminal event."
            )
        self._outcome.terminal = last[0].attributes
        return last[0].attributes

    def _result_of(self, terminal: Attributes) -> Any:
        if isinstance(terminal, WorkflowExecutionCompleted):
            if self._definition is not None:
                return self._definition.call_signature.decode_result(terminal.result)
            return json.decode(
                terminal.result, Any, f"the result of run {self.workflow_id!r}"
            )
        raise self._error_of(terminal)

    def _error_of(self, terminal: Attributes) -> WorkflowFailedError:
        ids = {"workflow_id": self.workflow_id, "run_id": self.run_id}
        name = f"Run {self.workflow_id!r}"
        error: WorkflowFailedError
        if isinstance(terminal, WorkflowExecutionFailed):
            failure = terminal.failure
            cause = failure.cause if failure.kind == "activity" else failure
            shown = cause or failure
            error = WorkflowFailedError(
                f"{name} failed: {shown.type}: {shown.message}", **ids
            )
            error.__cause__ = exception_of(failure)
        elif isinstance(terminal, WorkflowExecutionCanceled):
            error = WorkflowCancelledError(f"{name} was cancelled.", **ids)
            if terminal.failure is not None:
                error.__cause__ = exception_of(terminal.failure)
        elif isinstance(terminal, WorkflowExecutionTerminated):
            error = WorkflowTerminatedError(
                f"{name} was terminated: {terminal.reason or 'no reason given'}.", **ids
            )
        elif isinstance(terminal, WorkflowExecutionTimedOut):
            error = WorkflowTimedOutError(
                f"{name} passed its {terminal.timeout_type}_timeout.", **ids
            )
        else:
            error = WorkflowFailedError(f"{name} ended without a result.", **ids)
        return error

    def _stuck(self, failure: Failure) -> WorkflowStuckError:
        trace = f"\n{failure.stack_trace}" if failure.stack_trace else ""
        error = WorkflowStuckError(
            f"Run {self.workflow_id!r} is stuck, nothing is lost:"
            f" {failure.type}: {failure.message}{trace}",
            hint="Mend the code and start the program again: the run then goes on.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
        )
        error.__cause__ = exception_of(failure)
        return error

    async def _record(self) -> RunRecord:
        connection = self._connection
        record = await connection.store.find_run(
            connection.namespace, self.workflow_id, self.run_id
        )
        if record is None:
            raise WorkflowNotFoundError(
                f"There is no run {self.workflow_id!r} ({self.run_id}) in namespace"
                f" {connection.namespace!r}."
            )
        return record

    async def describe(self) -> RunDescription:
        """Read what the store says about the run.

        Raises:
            WorkflowNotFoundError: there is no such run.
        """
        return describe(await self._record())

    async def history(self) -> list[HistoryEvent]:
        """Read the run's events, in order.

        Raises:
            WorkflowNotFoundError: there is no such run.
            CorruptHistoryError: a row cannot be read.
        """
        await self._record()
        return decode_rows(await self._connection.store.read_history(self.run_id))

    async def attempts(self) -> list[AttemptRecord]:
        """Read the attempts of the run's activities, beyond undisturbed first ones."""
        return await self._connection.store.read_attempts(self.run_id)

    async def cancel(self, reason: str = "") -> None:
        """Ask the run to stop: its code gets one `CancelledError`, and may clean up.

        Returns when the request is durable. Asking twice changes nothing.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """
        connection = self._connection
        request_id = secrets.token_hex(16)
        await connection.store.perform(
            PutMessage(
                namespace=connection.namespace,
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                kind="cancel",
                request_id=request_id,
                data=encode_attributes(
                    WorkflowExecutionCancelRequested(
                        reason=str(reason),
                        request_id=request_id,
                        identity=connection.identity,
                    )
                ),
            )
        )
        connection.mailed(self.run_id)

    async def terminate(self, reason: str = "") -> None:
        """Close the run at once; none of its code runs any more.

        Returns when that is durable.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """
        connection = self._connection
        await connection.store.perform(
            TerminateRun(
                namespace=connection.namespace,
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                data=encode_attributes(
                    WorkflowExecutionTerminated(
                        reason=str(reason), identity=connection.identity
                    )
                ),
            )
        )
        await connection.terminated(self.run_id)

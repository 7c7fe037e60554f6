"""A handle of a start whose transaction is not committed yet, or not delivered."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Generic, TypeVar

from durable.api.workflows.workflow import Workflow
from durable.client.client import Client
from durable.client.descriptions.description import decode_stuck
from durable.client.found_runs import check_same
from durable.client.handle import Handle
from durable.client.outbox.requests import OutboxStart
from durable.errors import (
    NotCommittedError,
    OutboxRefusedError,
    ResultTimeoutError,
    WorkflowAlreadyStartedError,
)
from durable.options import USE_EXISTING, USE_SAME, Duration, to_microseconds
from durable.store.queries import FindRun, FindStarted, ReadHistory, ReadOutbox
from durable.store.records import FoundRun, OutboxRecord, RunRecord

R_co = TypeVar("R_co", covariant=True)
_FIRST_PAUSE: Final = 0.002
_PAUSE_MAX: Final = 0.1


class OutboxHandle(Generic[R_co]):
    """A run that a transaction starts: wait for it once that is committed.

    Attributes:
        workflow_id: of the run.
        run_id: of the run, unless the start is answered with one that has its id.
    """

    def __init__(
        self, client: Client, start: OutboxStart, definition: Workflow[Any, Any] | None
    ) -> None:
        self._client = client
        self._start = start
        self._definition = definition
        self.workflow_id: str = start.started.workflow_id
        self.run_id: str = start.started.run_id

    def __repr__(self) -> str:
        return f"<run {self.workflow_id!r} ({self.run_id}) of a transaction>"

    async def started(self, *, timeout: Duration | None = None) -> Handle[R_co]:
        """Wait until the run is there, and return its handle.

        That is when a worker has delivered what the transaction wrote.

        Args:
            timeout: how long to wait.

        Raises:
            NotCommittedError: the transaction is not committed yet, or was rolled back.
            OutboxRefusedError: the start was refused, and is set aside.
            ResultTimeoutError: `timeout` passed; does any worker run?
        """
        if timeout is None:
            return await self._wait_started()
        limit = to_microseconds(timeout, "the timeout of started()") / 1_000_000
        try:
            async with asyncio.timeout(limit):
                return await self._wait_started()
        except TimeoutError:
            raise ResultTimeoutError(
                f"Run {self.workflow_id!r} was not started within {limit:g} s; it still"
                " waits for a worker."
            ) from None

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended, and return its result.

        Args:
            timeout: how long to wait, for its start and its end.

        Raises: as `started` and `Handle.result`.
        """
        if timeout is None:
            return await (await self._wait_started()).result()
        limit = to_microseconds(timeout, "the timeout of result()") / 1_000_000
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit
        handle = await self.started(timeout=limit)
        return await handle.result(timeout=max(0.0, ends_at - loop.time()))

    async def _wait_started(self) -> Handle[R_co]:
        pause = _FIRST_PAUSE
        while True:
            record = await self._find()
            if record is None:
                row = await self._read(ReadOutbox(self.run_id))
                if row is not None and row.due_at is None:
                    raise say_refused(row)
                if row is not None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _PAUSE_MAX)
                    continue
                # It may have been delivered in between.
                record = await self._find() or await self._find_used()
            if record is None:
                raise self._say_not_committed()
            return self._to_handle(record)

    async def _read(self, query: Any) -> Any:
        self._client.check()
        return await self._client.store.read(query)

    async def _find(self) -> RunRecord | None:
        started = self._start.started
        found: RunRecord | None = await self._read(
            FindStarted(started.namespace, started.request_id)
        )
        return found

    async def _find_used(self) -> RunRecord | None:
        """The run that holds the id, if it answers such a start."""
        started, policy = self._start.started, self._start.on_conflict
        if policy not in (USE_SAME, USE_EXISTING):
            return None
        record: RunRecord | None = await self._read(
            FindRun(started.namespace, self.workflow_id)
        )
        if record is None or policy is USE_EXISTING:
            return record
        rows = await self._read(ReadHistory(record.first_run_id))
        found = FoundRun(record, rows[0][5] if rows else None)
        definition = self._definition
        signature = None if definition is None else definition.call_signature
        try:
            check_same(found, started, signature)
        except WorkflowAlreadyStartedError:
            return None
        return record

    def _to_handle(self, record: RunRecord) -> Handle[R_co]:
        registry = self._client.registry
        return Handle(
            self._client,
            record.workflow_id,
            record.run_id,
            registry.find_workflow(record.workflow_type, record.version)
            or self._definition,
            first_run_id=record.first_run_id,
            is_new=record.run_id == self.run_id,
        )

    def _say_not_committed(self) -> NotCommittedError:
        return NotCommittedError(
            f"Run {self.workflow_id!r} is not there, and nothing waits to start it: the"
            " transaction that does is not committed, or was rolled back.",
            hint="Commit it first, then wait.",
        )


def say_refused(row: OutboxRecord) -> OutboxRefusedError:
    """Build the error of a row that is set aside."""
    failure = decode_stuck(row.failure)
    why = "no reason is known" if failure is None else failure.message
    return OutboxRefusedError(
        f"What a transaction asked for, for workflow id {row.target!r}, was refused:"
        f" {why}",
        hint=f"It is set aside: run 'durable outbox retry {row.sequence}' once it can"
        f" be done, or 'durable outbox drop {row.sequence}'.",
        sequence=row.sequence,
    )

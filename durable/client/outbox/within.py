"""What an engine can be asked for inside a transaction of its caller."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from typing_extensions import Unpack

from durable.api.messages.messages import SignalCall, UpdateCall
from durable.api.workflows.workflow import WorkflowCall
from durable.client.outbox.handles import OutboxHandle
from durable.client.outbox.requests import Requests
from durable.client.start_options import StartOptions
from durable.errors import InvalidCallError
from durable.store.records import OutboxRecord

R = TypeVar("R")


class Transaction(Protocol):
    """A connection or session whose methods need not be awaited."""

    def commit(self) -> None:
        """End its transaction; the library never calls this."""
        ...


class AsyncTransaction(Protocol):
    """A connection or session whose methods must be awaited."""

    def commit(self) -> Coroutine[Any, Any, None]:
        """End its transaction; the library never calls this."""
        ...


class Writer(Protocol):
    """Writes rows of the outbox in a caller's transaction."""

    def write(self, row: OutboxRecord, nudge: Callable[[], None]) -> None:
        """Write a row; `nudge` is called about when it is committed, if it can be."""
        ...


class AsyncWriter(Protocol):
    """The same, to be awaited."""

    async def write(self, row: OutboxRecord, nudge: Callable[[], None]) -> None:
        """Write a row; see `Writer`."""
        ...


class Told(Protocol):
    """Hears of rows that were written here; any thread may call."""

    def expect(self, outbox_id: str) -> None:
        """A row was written, which may soon be committed."""
        ...

    def nudge(self) -> None:
        """Something was committed, or is about to be."""
        ...


class Named(Protocol):
    """A handle of a run, whichever."""

    workflow_id: str


Target: TypeAlias = str | Named
"""A workflow id, or a handle that has one."""


def id_of(target: Target) -> str:
    """Return the workflow id that is meant.

    Raises:
        InvalidCallError: it is neither an id nor a handle.
    """
    if isinstance(target, str):
        return target
    found = getattr(target, "workflow_id", None)
    if not isinstance(found, str):
        raise InvalidCallError(
            f"{target!r} is neither a workflow id nor a handle.",
            hint="Pass the workflow id, or what start() gave.",
        )
    return found


class Within:
    """Starts and messages that are part of the caller's transaction.

    Each call writes one row by the caller's connection, and nothing else: what it asks
    for is done after the commit, by any worker, once and in order for each workflow
    id; or never, if the transaction is rolled back. Any thread may have such an
    object, but only the one that has the connection may call it.
    """

    def __init__(self, requests: Requests, writer: Writer, told: Told) -> None:
        self._requests, self._writer, self._told = requests, writer, told

    def _write(self, row: OutboxRecord) -> None:
        self._writer.write(row, self._told.nudge)
        self._told.expect(row.outbox_id)

    @overload
    def start(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> OutboxHandle[R]: ...
    @overload
    def start(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> OutboxHandle[Any]: ...
    def start(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> OutboxHandle[Any]:
        """Start a run when the transaction is committed.

        Args: as for `Engine.start`. What the id of another run forbids shows only
            then: the start is set aside, as `durable outbox list` tells.

        Raises:
            InvalidInputError: an argument breaks its rule; nothing was written, and the
                transaction is as it was.
            WrongDatabaseError: the connection does not lead to the engine's database.
            EngineClosedError: the engine is not open.
            Exception: the driver's, as for any statement of its caller.
        """
        row, start, definition = self._requests.start(call, args, options)
        self._write(row)
        return OutboxHandle(self._requests.client, start, definition)

    def signal(
        self,
        target: Target,
        call: SignalCall | str,
        /,
        *args: Any,
        request_id: str | None = None,
    ) -> None:
        """Send a signal when the transaction is committed.

        Args:
            target: the workflow id, whose open run gets it; or a handle.
            call: such as `approved(True)`, or a signal's name, followed by arguments.
            *args: arguments, only with a name.
            request_id: your idempotency key: the same key again changes nothing.

        Raises: as `start`.
        """
        self._write(self._requests.signal(id_of(target), call, args, request_id))

    def update(
        self,
        target: Target,
        call: UpdateCall[Any] | str,
        /,
        *args: Any,
        update_id: str | None = None,
    ) -> str:
        """Send an update when the transaction is committed, and wait for nothing.

        Returns:
            The update's id: `get_update` of the run's handle waits for its answer.

        Raises: as `start`.
        """
        sent = self._requests.update(id_of(target), call, args, update_id)
        self._write(sent[0])
        return sent[1]

    def cancel(
        self, target: Target, /, reason: str = "", *, request_id: str | None = None
    ) -> None:
        """Ask a run to stop when the transaction is committed.

        Raises: as `start`.
        """
        self._write(self._requests.cancel(id_of(target), reason, request_id))


class AsyncWithin:
    """The same for connections whose methods must be awaited; see `Within`."""

    def __init__(self, requests: Requests, writer: AsyncWriter, told: Told) -> None:
        self._requests, self._writer, self._told = requests, writer, told

    async def _write(self, row: OutboxRecord) -> None:
        await self._writer.write(row, self._told.nudge)
        self._told.expect(row.outbox_id)

    @overload
    async def start(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> OutboxHandle[R]: ...
    @overload
    async def start(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> OutboxHandle[Any]: ...
    async def start(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> OutboxHandle[Any]:
        """Start a run when the transaction is committed; see `Within.start`."""
        row, start, definition = self._requests.start(call, args, options)
        await self._write(row)
        return OutboxHandle(self._requests.client, start, definition)

    async def signal(
        self,
        target: Target,
        call: SignalCall | str,
        /,
        *args: Any,
        request_id: str | None = None,
    ) -> None:
        """Send a signal when the transaction is committed; see `Within.signal`."""
        row = self._requests.signal(id_of(target), call, args, request_id)
        await self._write(row)

    async def update(
        self,
        target: Target,
        call: UpdateCall[Any] | str,
        /,
        *args: Any,
        update_id: str | None = None,
    ) -> str:
        """Send an update when the transaction is committed; see `Within.update`."""
        sent = self._requests.update(id_of(target), call, args, update_id)
        await self._write(sent[0])
        return sent[1]

    async def cancel(
        self, target: Target, /, reason: str = "", *, request_id: str | None = None
    ) -> None:
        """Ask a run to stop when the transaction is committed."""
        await self._write(self._requests.cancel(id_of(target), reason, request_id))

"""Which run a handle means: one run, or whichever run its chain has come to.

A run that continues as new ends, and the next of its chain takes over its workflow id.
A handle that was not asked for a certain run follows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from durable.api.interceptors.chains import Interceptors
from durable.api.registry import Registry
from durable.client.waiting.answers import Answers
from durable.client.waiting.outcomes import Outcomes
from durable.core.history.codec import UNREADABLE, encode_attributes
from durable.core.history.events import Attributes, WorkflowExecutionStarted
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskInput, UpdateRequest
from durable.errors import WorkflowClosedError, WorkflowNotFoundError
from durable.store.queries import FindRun, ReadHistory, RunNews
from durable.store.records import (
    Committed,
    MessageKind,
    MessageRecord,
    PutMessage,
    RunRecord,
    Started,
    StartRun,
    Terminated,
    TerminateRun,
)
from durable.store.store import Store

T = TypeVar("T")


class _Asked(msgspec.Struct):
    """Under which requests an event came, or a run began."""

    request_id: str = ""
    known_request_ids: tuple[str, ...] = ()


_asked_decoder: Final = msgspec.json.Decoder(_Asked)


class LocalWorker(Protocol):
    """The worker in this process, as far as clients use it."""

    def knows(self, workflow_type: str, version: str | None) -> bool:
        """Whether it can drive runs of that type and version."""
        ...

    def start_run(
        self,
        started: WorkflowExecutionStarted,
        request: StartRun,
        inputs: tuple[TaskInput, ...],
    ) -> Awaitable[Started]:
        """Drive the first turn and commit it together with the run's creation."""
        ...

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        ...

    def wake(self, run_ids: tuple[str, ...]) -> None:
        """Go on with these runs."""
        ...

    def spread(self, committed: Committed) -> None:
        """A commit did something to other runs."""
        ...

    def changed(self) -> None:
        """Something was committed that any worker may take."""
        ...

    async def heed_queues(self) -> None:
        """Queues were configured."""
        ...

    @property
    def limits_runs(self) -> bool:
        """Whether runs of its queue wait for their turn."""
        ...

    def see_turns(self) -> None:
        """A run may have its turn now, if any waits for one."""
        ...

    def closed_elsewhere(self, run_id: str) -> None:
        """The run was closed by a write that is not the worker's."""
        ...

    def is_live(self, run_id: str) -> bool:
        """Whether the run is in memory here."""
        ...

    def deliver(
        self, run_id: str, event: Attributes, *, may_repeat: bool
    ) -> asyncio.Future[bool] | None:
        """Give a live run a message; None if it is not live, False if not taken."""
        ...

    def request_update(self, run_id: str, update: UpdateRequest) -> bool:
        """Give a live run an update; False if it is not live."""
        ...

    def take_found(
        self, run_id: str, messages: Sequence[MessageRecord], news: Sequence[RunNews]
    ) -> None:
        """Hand a live run what was just read of its inbox, and of itself after that."""
        ...

    def ask(
        self, run_id: str, ask: Callable[[Replayer], T]
    ) -> asyncio.Future[tuple[T] | None] | None:
        """Look at a live run between turns; None if it is not live."""
        ...


class Connection(Protocol):
    """What handles ask of the client that made them."""

    @property
    def store(self) -> Store:
        """The open store."""
        ...

    @property
    def worker(self) -> LocalWorker | None:
        """The worker of this process, if there is one."""
        ...

    @property
    def registry(self) -> Registry:
        """The code that this process knows."""
        ...

    def check(self) -> None:
        """Raise `EngineClosedError` if the engine may not be used here."""
        ...

    namespace: str
    identity: str
    interceptors: Interceptors
    outcomes: Outcomes
    answers: Answers

    def new_run_id(self, now: int) -> str:
        """Make the id of a run that begins at an instant."""
        ...

    def mailed(self, run_id: str) -> None:
        """A message for this run was committed."""
        ...

    async def terminated(self, terminated: Terminated) -> None:
        """A run was closed by a termination of ours."""
        ...


class Chain(msgspec.Struct, eq=False):
    """The run or runs that a handle means.

    Args:
        run_id: the run it was made for.
        first_run_id: the first run of its chain; None if that is not known.
        is_pinned: it means that one run and no other.
    """

    client: Connection
    workflow_id: str
    run_id: str
    first_run_id: str | None
    is_pinned: bool
    current: str = ""
    """The run of the chain that was heard of last."""

    def __post_init__(self) -> None:
        self.current = self.run_id

    @property
    def connection(self) -> Connection:
        """The client, to be used now.

        Raises:
            EngineClosedError: its engine may not be used here.
        """
        self.client.check()
        return self.client

    @property
    def answers(self) -> Answers:
        """What this process knows of updates."""
        return self.client.answers

    async def record(self) -> RunRecord:
        """The row of the run that is meant now.

        Raises:
            WorkflowNotFoundError: there is no such run.
        """
        connection = self.connection
        store, namespace = connection.store, connection.namespace
        record = None
        if not self.is_pinned:
            record = await store.read(FindRun(namespace, self.workflow_id))
            if record is not None and not await self._belongs(record):
                record = None
        if record is None:
            record = await store.read(
                FindRun(namespace, self.workflow_id, self.current)
            )
        if record is None:
            raise WorkflowNotFoundError(
                f"There is no run {self.workflow_id!r} ({self.current}) in namespace"
                f" {namespace!r}."
            )
        self.current = record.run_id
        return record

    async def _belongs(self, record: RunRecord) -> bool:
        """Whether a run is of this chain."""
        if record.run_id == self.current:
            self.first_run_id = record.first_run_id
            return True
        return record.first_run_id == await self.find_first_run_id()

    async def find_first_run_id(self) -> str | None:
        """The first run of the chain; looked up where nobody said it."""
        if self.first_run_id is None:
            connection = self.connection
            own = await connection.store.read(
                FindRun(connection.namespace, self.workflow_id, self.run_id)
            )
            self.first_run_id = None if own is None else own.first_run_id
        return self.first_run_id

    async def put(self, kind: MessageKind, request_id: str, data: str) -> str:
        """Put a message into the inbox of the run that is meant; return its id.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed.
            InboxFullError: too many messages wait for it.
        """
        connection = self.connection
        first = None if self.is_pinned else await self.find_first_run_id()
        run_id: str = await connection.store.perform(
            PutMessage(
                namespace=connection.namespace,
                workflow_id=self.workflow_id,
                run_id=None if first is not None else self.current,
                first_run_id=first,
                kind=kind.value,
                request_id=request_id,
                data=data,
            )
        )
        self.current = run_id
        connection.mailed(run_id)
        return run_id

    async def send(
        self,
        kind: MessageKind,
        request_id: str,
        event: Attributes,
        *,
        may_repeat: bool,
    ) -> None:
        """Give the run an event: directly if it is live here, else by its inbox.

        Raises: as `put`.
        """
        worker = self.connection.worker
        if worker is not None:
            taken = worker.deliver(self.current, event, may_repeat=may_repeat)
            if taken is not None and await taken:
                return
        try:
            await self.put(kind, request_id, encode_attributes(event))
        except WorkflowClosedError:
            if not may_repeat:
                raise
            run_id = (await self.record()).run_id
            if not await has_had(self.connection.store, run_id, request_id):
                raise

    async def terminate(self, event: Attributes) -> Terminated:
        """Close the run by this event, whoever has it.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """
        connection = self.connection
        first = None if self.is_pinned else await self.find_first_run_id()
        terminated: Terminated = await connection.store.perform(
            TerminateRun(
                namespace=connection.namespace,
                workflow_id=self.workflow_id,
                run_id=None if first is not None else self.current,
                first_run_id=first,
                data=encode_attributes(event),
            )
        )
        return terminated


async def has_had(store: Store, run_id: str, request_id: str) -> bool:
    """Whether a request reached a run, or one of its chain before it, in its time."""
    for row in await store.read(ReadHistory(run_id)):
        with contextlib.suppress(*UNREADABLE):
            asked = _asked_decoder.decode(row[5])
            # That of the start itself is no message's.
            is_start = row[3] == WorkflowExecutionStarted.__name__
            own = () if is_start else (asked.request_id,)
            if request_id in (*own, *asked.known_request_ids):
                return True
    return False

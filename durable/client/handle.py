"""A handle: one run, as code outside of it sees it."""

# size: one class, whose overloads and docstrings are most of it.

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, TypeVar, overload

from durable import limits
from durable.api.interceptors.chains import checked_headers
from durable.api.interceptors.interceptor import (
    CancelWorkflowInput,
    QueryWorkflowInput,
    SignalWorkflowInput,
    StartUpdateInput,
    TerminateWorkflowInput,
)
from durable.api.messages.messages import (
    QueryCall,
    SignalCall,
    UpdateCall,
    query_call,
    signal_call,
    update_call,
)
from durable.api.workflows.workflow import Workflow
from durable.client import questions, resolving, updates
from durable.client.chain import Chain, Connection
from durable.client.descriptions.activities import (
    ActivityDescription,
    describe_activities,
)
from durable.client.descriptions.description import (
    RunDescription,
    decode_stuck,
    read_memo,
    stuck_error,
)
from durable.client.descriptions.listing import describe_runs
from durable.client.found_runs import RUN_AGAIN
from durable.client.keeping.deletions import delete_runs
from durable.client.resets.controls import RunControls
from durable.client.results import result_of
from durable.client.updates import UpdateHandle
from durable.client.waiting.answers import UpdateOutcome
from durable.client.waiting.following import follow_events
from durable.client.waiting.listening import terminal_of
from durable.client.waiting.outcomes import RunOutcome
from durable.client.waiting.parked import goes_on
from durable.converter import json
from durable.core.history.codec import decode_rows
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionTerminated,
    next_run_id,
)
from durable.core.history.payload import Failure, Payload, decode_payload, is_paused
from durable.core.loop.stacks import TaskStack
from durable.core.machines.fact import DeadLetter, find_dead_letter
from durable.core.workflow_task import UpdateRequest
from durable.errors import (
    ApplicationError,
    CorruptHistoryError,
    InvalidOptionError,
    ResultTimeoutError,
    WorkflowNotFoundError,
)
from durable.options import Duration, check_id, spell_out, to_microseconds
from durable.store.queries import (
    ListActivityTasks,
    ListWorkers,
    ReadAttempts,
    ReadHistory,
    ReadNews,
    TaskFilter,
)
from durable.store.records import AttemptRecord, MessageKind, RunStatus

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Handle(RunControls, Generic[R_co]):
    """One run: wait for it, look at it, send it messages, stop it.

    A run that continues as new goes on as the next run of its chain, and a handle goes
    with it, unless it was asked for one certain run.

    Attributes:
        workflow_id: chosen by whoever started it.
        run_id: ours; that of the run the handle was made for.
        is_new: the run was created by the call that gave this handle; False if that
            found it.
    """

    def __init__(
        self,
        connection: Connection,
        workflow_id: str,
        run_id: str,
        definition: Workflow[Any, Any] | None,
        outcome: RunOutcome | None = None,
        *,
        first_run_id: str | None = None,
        is_pinned: bool = False,
        is_new: bool = True,
    ) -> None:
        self.is_new = is_new
        self.workflow_id = workflow_id
        self.run_id = run_id
        self._definition = definition
        self._outcome: RunOutcome = outcome or connection.outcomes.of(run_id)
        # Held so that an update which started the run finds what came of it.
        self.first_update: UpdateOutcome | None = None
        self._client, self._first_run_id = connection, first_run_id
        self._is_pinned = is_pinned
        self._known_chain: Chain | None = None

    @property
    def _chain(self) -> Chain:
        """Made at first use: most handles are asked for a result and nothing else."""
        chain = self._known_chain
        if chain is None:
            of = self._client, self.workflow_id, self.run_id, self._first_run_id
            chain = self._known_chain = Chain(*of, is_pinned=self._is_pinned)
        return chain

    @property
    def _connection(self) -> Connection:
        """The client, to be used now: it raises if its engine may not be."""
        self._client.check()
        return self._client

    def __repr__(self) -> str:
        return f"<run {self.workflow_id!r} ({self.run_id})>"

    def plain(self) -> Handle[Any]:
        """A handle to the same run whose result is the plain data of its JSON."""
        return Handle(
            self._connection,
            self.workflow_id,
            self.run_id,
            None,
            self._outcome,
            is_pinned=self._is_pinned,
            is_new=self.is_new,
        )

    # --- how it ends ------------------------------------------------------------------

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended, and return its result.

        Of a run that continues as new, or is tried again, the last run of the chain
        counts.

        Args:
            timeout: how long to wait; `timedelta`, seconds, or text like "30s".

        Raises:
            WorkflowFailedError: it failed, was cancelled, was terminated or timed out
                (each has its own subclass); why is chained as `__cause__`.
            WorkflowStuckError: its code has a bug; it is parked until that is mended.
                Where several workers are, each has tried it before.
            ResultTimeoutError: `timeout` passed; the run itself goes on.
            WorkflowNotFoundError: there is no such run.
        """
        terminal = self._outcome.terminal
        if terminal is None:
            self._client.check()
        if terminal is None or next_run_id(terminal) is not None:
            if timeout is None:
                terminal = await self._wait_closed()
            else:
                limit = to_microseconds(timeout, "the timeout of result()") / 1_000_000
                terminal = await self._wait_closed_within(limit)
        result: R_co = result_of(
            terminal,
            self._definition,
            self.workflow_id,
            self.run_id if self._known_chain is None else self._chain.current,
            hint=None if self.is_new else RUN_AGAIN,
        )
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
        run_id, outcome = self.run_id, self._outcome
        while True:
            terminal = outcome.terminal
            if terminal is None:
                # Listen before asking, or a change in between would go unheard.
                ended = outcome.ended()
                try:
                    if outcome.fresh_at != self._client.outcomes.changes:
                        terminal = await self._read_terminal(run_id, outcome)
                    if terminal is None:
                        await ended
                        continue
                except WorkflowNotFoundError:
                    if self._is_pinned or run_id == self.run_id:
                        raise
                    # Of a chain, what is between its first run and now may be deleted.
                    run_id = (await self._chain.record()).run_id
                    outcome = self._client.outcomes.of(run_id)
                    continue
                finally:
                    outcome.forget(ended)
            following = next_run_id(terminal)
            if following is None:
                return terminal
            run_id = following
            outcome = self._client.outcomes.of(run_id)
            if not self._is_pinned:
                self._chain.current = run_id

    async def _read_terminal(
        self, run_id: str, outcome: RunOutcome
    ) -> Attributes | None:
        store = self._connection.store
        news = await store.read(ReadNews([run_id]))
        if news and news[0].is_open and not news[0].is_stuck:
            return None
        terminal = terminal_of(news[0]) if news else None
        if terminal is None:
            record = await Chain(
                self._connection, self.workflow_id, run_id, None, is_pinned=True
            ).record()
            if is_paused(record.stuck):
                return None
            if record.stuck is not None and not await goes_on(store, record):
                raise stuck_error(record, decode_stuck(record.stuck) or Failure())
            if record.status is RunStatus.RUNNING or not news or news[0].is_open:
                return None  # it was mended, begun or ended meanwhile
            decode_rows([row for row in (news[0].last_row,) if row is not None])
            raise CorruptHistoryError(
                f"Run {self.workflow_id!r} is {record.status.value}, but its history"
                " has no terminal event."
            )
        outcome.terminal = terminal
        return terminal

    # --- look at it -------------------------------------------------------------------

    async def describe(self) -> RunDescription:
        """Read what the store says about the run.

        Raises:
            WorkflowNotFoundError: there is no such run.
        """
        connection, record = self._connection, await self._chain.record()
        found = await describe_runs(connection.store, connection.namespace, [record])
        return found[0]

    async def memo(self) -> dict[str, Any]:
        """Read the values that the run was started with, or has set, beside all else.

        Raises:
            WorkflowNotFoundError: there is no such run.
            CorruptHistoryError: a row cannot be read.
        """
        record = await self._chain.record()
        if record.memo is not None:
            return read_memo(record)
        # A release that kept memos nowhere else may have started it.
        rows = await self._connection.store.read(ReadHistory(record.run_id, limit=1))
        first = next(iter(decode_rows(rows)), None)
        memo: dict[str, Payload] = getattr(first and first.attributes, "memo", {})
        return {
            key: json.decode(value, Any, f"memo {key!r} of run {self.workflow_id!r}")
            for key, value in memo.items()
        }

    async def history(self) -> list[HistoryEvent]:
        """Read the run's events, in order.

        Raises:
            WorkflowNotFoundError: there is no such run.
            CorruptHistoryError: a row cannot be read.
        """
        record = await self._chain.record()
        return decode_rows(
            await self._connection.store.read(ReadHistory(record.run_id))
        )

    def events(self, *, after: int = 0) -> AsyncGenerator[HistoryEvent, None]:
        """Follow the run's events: those there are, then each once it is committed.

            async for event in run.events():
                if isinstance(event.attributes, WorkflowExecutionSignaled): ...

        They come in order, each once, whichever process commits them; then those of the
        runs that it goes on as. It ends with the last event of the last run.

        Args:
            after: begin after this event of the handle's own run, by its `event_id`.

        Raises:
            WorkflowNotFoundError: there is no such run, or it was deleted meanwhile.
            CorruptHistoryError: a row cannot be read.
            InvalidOptionError: `after` is no number of an event.
        """
        number: object = after
        if not isinstance(number, int) or not 0 <= number < 1 << 31:
            raise InvalidOptionError(f"after is {number!r}: give an event's number.")
        of = self._client, self.run_id, self.workflow_id
        return follow_events(*of, after, to_end=not self._is_pinned)

    async def attempts(self) -> list[AttemptRecord]:
        """Read the attempts of the run's activities, beyond undisturbed first ones."""
        record = await self._chain.record()
        return await self._connection.store.read(ReadAttempts(record.run_id))

    async def activities(self) -> list[ActivityDescription]:
        """Read which activities the run waits for, and how each of them stands.

        It is told by what is recorded: an attempt that runs, and one that waits for a
        place, a worker or its time, without asking the worker.

        Raises:
            WorkflowNotFoundError: there is no such run.
            CorruptHistoryError: a row cannot be read.
        """
        record = await self._chain.record()
        store = self._connection.store
        where = TaskFilter(run_id=record.run_id, limit=limits.LIST_PAGE_MAX)
        # Tasks first: one that ends meanwhile has its outcome by then.
        tasks = await store.read(ListActivityTasks(record.namespace, where))
        events, rows, workers = await asyncio.gather(
            store.read(ReadHistory(record.run_id)),
            store.read(ReadAttempts(record.run_id)),
            store.read(ListWorkers()),
        )
        now = store.now()
        is_owner_alive = any(
            worker.worker_id == record.owner and worker.lease_expires_at > now
            for worker in workers
        )
        return list(
            describe_activities(
                *(record, decode_rows(events), rows, now, tasks),
                is_owner_alive=is_owner_alive,
            )
        )

    @overload
    async def state(self) -> Any: ...
    @overload
    async def state(self, type: type[T]) -> T | None: ...
    async def state(self, type: Any = Any) -> Any:
        """Read what the run's code published last with `set_state`; no code runs.

        Args:
            type: what to decode it as.

        Raises:
            WorkflowNotFoundError: there is no such run.
            UndecodableError: what it published is not of that type.
        """
        text = (await self._chain.record()).state
        if text is None:
            return None
        what = f"the state of run {self.workflow_id!r}"
        return json.decode(decode_payload(text), type, what)

    async def dead_letters(self) -> list[DeadLetter]:
        """The signals that the run's code could not decode, and why.

        The signals themselves are in its history.
        """
        found = (find_dead_letter(e.attributes) for e in await self.history())
        return [letter for letter in found if letter is not None]

    # --- messages ---------------------------------------------------------------------

    async def signal(
        self, call: SignalCall | str, /, *args: Any, request_id: str | None = None
    ) -> None:
        """Send a signal. When this returns, it is durable and will be delivered once.

        Args:
            call: such as `approved(True)` or `Cart.add("apple")`; or a signal's name,
                followed by arguments, for programs that do not have the code.
            *args: arguments, only with a name.
            request_id: your idempotency key: the same key again changes nothing.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
            InboxFullError: too many messages wait for it.
            InvalidInputError: an argument breaks its rule; nothing was sent.
        """
        made = signal_call(call, args)
        may_repeat = request_id is not None
        request_id = _request_id(request_id, "the request id")

        async def send(given: SignalWorkflowInput) -> None:
            event = WorkflowExecutionSignaled(
                signal_name=made.name,
                input=given.input,
                request_id=request_id,
                identity=self._connection.identity,
                headers=checked_headers(given.headers, f"of signal {made.name!r}"),
            )
            await self._chain.send(
                MessageKind.SIGNAL, request_id, event, may_repeat=may_repeat
            )

        await self._around("signal_workflow", send)(
            SignalWorkflowInput(
                workflow_id=self.workflow_id, signal_name=made.name, input=made.input
            )
        )

    def _around(self, method: str, end: Callable[[Any], T]) -> Callable[[Any], T]:
        return self._client.interceptors.around(method, end)

    @overload
    async def query(self, call: QueryCall[T], /, *, timeout: Duration = 10.0) -> T: ...
    @overload
    async def query(
        self, call: str, /, *args: Any, timeout: Duration = 10.0
    ) -> Any: ...
    async def query(self, call: Any, /, *args: Any, timeout: Duration = 10.0) -> Any:
        """Ask the run's code; nothing is recorded, and closed runs answer too.

        The answer counts in every message that was acknowledged before the call.

        Args:
            call: such as `Cart.count()`; or a query's name, followed by arguments.
            *args: arguments, only with a name.
            timeout: how long to wait for another process, if the code is not here.

        Raises:
            QueryFailedError: there is no such query, or its handler raised.
            WorkflowStuckError: the run's code must be mended first.
            NoAnswerError: `timeout` passed.
            WorkflowNotFoundError: there is no such run.
        """
        made = query_call(call, args)
        limit = to_microseconds(timeout, "the timeout of query()") / 1_000_000
        self._connection.check()

        async def ask(given: QueryWorkflowInput) -> Any:
            headers = checked_headers(given.headers, f"of query {made.name!r}")
            payload = await questions.query(
                self._chain, made.name, given.input, limit, headers
            )
            return made.decode_result(payload)

        return await self._around("query_workflow", ask)(
            QueryWorkflowInput(
                workflow_id=self.workflow_id, query_name=made.name, input=made.input
            )
        )

    async def stack(self, *, timeout: Duration = 10.0) -> list[TaskStack]:
        """Where each task of the run waits: its lines of code, and for what.

        Args:
            timeout: how long to wait for another process, if the code is not here.

        Raises: as `query`.
        """
        limit = to_microseconds(timeout, "the timeout of stack()") / 1_000_000
        self._connection.check()
        return await questions.stack(self._chain, limit)

    @overload
    async def update(
        self,
        call: UpdateCall[T],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> T: ...
    @overload
    async def update(
        self,
        call: str,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    async def update(
        self,
        call: Any,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Send an update and wait for its answer: `start_update`, then `result`.

        Raises: as `start_update` and `UpdateHandle.result`.
        """
        handle: UpdateHandle[Any] = await self.start_update(
            call, *args, update_id=update_id
        )
        return await handle.result(timeout=timeout)

    @overload
    async def start_update(
        self,
        call: UpdateCall[T],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> UpdateHandle[T]: ...
    @overload
    async def start_update(
        self,
        call: str,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> UpdateHandle[Any]: ...
    async def start_update(
        self,
        call: Any,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> UpdateHandle[Any]:
        """Send an update and wait until the run has accepted it, durably.

        Args:
            call: such as `Cart.checkout()`; or an update's name, followed by arguments.
            *args: arguments, only with a name.
            update_id: your idempotency key: the same id is the same update for the
                run and for those that it goes on as (the newest 256 messages of a run
                are remembered there, at least).
            timeout: how long to wait for the acceptance; None waits without end.

        Raises:
            UpdateRejectedError: its validator refused it; nothing was recorded.
            WorkflowStuckError: the run's code must be mended first.
            NoAnswerError: `timeout` passed; the update may still be accepted.
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
            InboxFullError: too many messages wait for it.
            InvalidInputError: an argument breaks its rule; nothing was sent.
        """
        made = update_call(call, args)
        limit = None
        if timeout is not None:
            microseconds = to_microseconds(timeout, "the timeout of start_update()")
            limit = microseconds / 1_000_000

        async def send(given: StartUpdateInput) -> UpdateHandle[Any]:
            request = UpdateRequest(
                update_id=given.update_id,
                update_name=made.name,
                input=given.input,
                identity=self._connection.identity,
                headers=checked_headers(given.headers, f"of update {made.name!r}"),
            )
            return await updates.start_update(
                self._chain,
                request,
                made.decode_result,
                limit,
                is_new=update_id is None,
            )

        return await self._around("start_update", send)(
            StartUpdateInput(
                workflow_id=self.workflow_id,
                update_name=made.name,
                update_id=_request_id(update_id, "the update id"),
                input=made.input,
            )
        )

    def sent_update(
        self, request: UpdateRequest, decode_result: Callable[[Payload], T]
    ) -> UpdateHandle[T]:
        """A handle to an update that is on its way to the run."""
        sent = UpdateHandle(
            self._chain, request.update_id, self._chain.current, decode_result
        )
        sent.request = request
        return sent

    def get_update(self, update_id: str) -> UpdateHandle[Any]:
        """A handle to an update that was accepted before.

        Raises:
            InvalidIdError: the id breaks the rule for ids.
        """
        what = f"the result of update {check_id(update_id, 'the update id')!r}"
        return UpdateHandle(
            self._chain,
            update_id,
            self._chain.current,
            lambda payload: json.decode(payload, Any, what),
        )

    # --- stop it ----------------------------------------------------------------------

    async def cancel(self, reason: str = "", *, request_id: str | None = None) -> None:
        """Ask the run to stop: its code gets one `CancelledError`, and may clean up.

        Returns when the request is durable. Asking twice changes nothing.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """
        may_repeat = request_id is not None
        request_id = _request_id(request_id, "the request id")

        async def send(given: CancelWorkflowInput) -> None:
            event = WorkflowExecutionCancelRequested(
                reason=spell_out(given.reason),
                request_id=request_id,
                identity=self._connection.identity,
            )
            await self._chain.send(
                MessageKind.CANCEL, request_id, event, may_repeat=may_repeat
            )

        await self._around("cancel_workflow", send)(
            CancelWorkflowInput(workflow_id=self.workflow_id, reason=reason)
        )

    async def retry_activity(self, activity_id: str, /) -> None:
        """Run an activity again that is in doubt, or whose result cannot be recorded.

        The one may have had its effect, and waits for this. The function of the other
        has returned, and had it; the run is parked for it.
        Returns when that is durable; a worker that knows the code goes on with it.

        Raises:
            InvalidCallError: the run has no such activity that waits for this.
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """
        await resolving.retry_activity(
            self._chain, activity_id, self._connection.identity
        )

    async def complete_activity(self, activity_id: str, result: Any, /) -> None:
        """Take this as the result of an activity of which none is known.

        It is in doubt, or its own could not be recorded.

        Args:
            activity_id: its id within the run, as `durable show` names it.
            result: what its code should have returned.

        Raises:
            PayloadError: the result does not fit the activity's annotation.
            InvalidCallError, WorkflowNotFoundError, WorkflowClosedError: as for
                `retry_activity`.
        """
        await resolving.complete_activity(
            self._chain, activity_id, result, self._connection.identity
        )

    async def fail_activity(
        self, activity_id: str, error: BaseException | str, /
    ) -> None:
        """Say that an activity which is in doubt has failed, for good.

        Raises: as `retry_activity`.
        """
        if isinstance(error, str):
            error = ApplicationError(error)
        await resolving.fail_activity(self._chain, activity_id, error)

    async def terminate(self, reason: str = "") -> None:
        """Close the run at once; none of its code runs any more.

        Returns when that is durable.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has closed already.
        """

        async def close(given: TerminateWorkflowInput) -> None:
            event = WorkflowExecutionTerminated(
                reason=spell_out(given.reason), identity=self._connection.identity
            )
            await self._connection.terminated(await self._chain.terminate(event))

        await self._around("terminate_workflow", close)(
            TerminateWorkflowInput(workflow_id=self.workflow_id, reason=reason)
        )

    async def delete(self, *, terminate: bool = False) -> int:
        """Delete the run for good: its row, its history, and all else that is its own.

        All runs of its chain go, unless the handle was asked for one certain run. Its
        workflow id is free then, and stands for nothing any more. Children stay.

        Args:
            terminate: end it first if it is open.

        Returns:
            How many runs were deleted.

        Raises:
            RunNeededError: it is open, or an open run may need it; nothing was deleted.
            WorkflowNotFoundError: there is no such run.
        """
        event = WorkflowExecutionTerminated(
            reason="it is deleted", identity=self._connection.identity
        )
        return await delete_runs(self._chain, event if terminate else None)


def _request_id(given: str | None, name: str) -> str:
    return secrets.token_hex(16) if given is None else check_id(given, name)

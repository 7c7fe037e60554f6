"""The client: starts runs, finds them, lists them."""

# size: all that a start may come to, which is read together.

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

import msgspec
from msgspec import UNSET

from durable.api.interceptors.chains import Interceptors, settle
from durable.api.interceptors.interceptor import StartWorkflowInput
from durable.api.messages.messages import (
    SignalCall,
    UpdateCall,
    signal_call,
    update_call,
)
from durable.api.registry import Registry
from durable.api.workflows.child_options import (
    encode_memo,
)
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.api.workflows.workflow_definition import workflow_of
from durable.client.chain import LocalWorker
from durable.client.descriptions.description import RunDescription
from durable.client.descriptions.listing import describe_runs
from durable.client.descriptions.searching import (
    Listing,
    RunCount,
    count_runs,
    to_search,
)
from durable.client.found_runs import (
    check_same,
    say_found,
    say_other_request,
    takes_no_message,
)
from durable.client.handle import Handle
from durable.client.home import Home
from durable.client.queues.debouncing import refuse_debounce, start_debounced
from durable.client.start_options import (
    KnownDefaults,
    StartSettings,
    WantedRun,
    what_to_start,
    with_call_options,
)
from durable.client.updates import UpdateHandle
from durable.client.waiting.answers import Answers, News
from durable.client.waiting.listening import Listener
from durable.client.waiting.outcomes import Outcomes
from durable.core.history.codec import decode_rows, encode_attributes
from durable.core.history.events import (
    Attributes,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
)
from durable.core.history.ids import RunIds
from durable.core.history.payload import Payloads
from durable.core.messages import encode_message
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.errors import (
    CommitUnknownError,
    DurableError,
    InvalidCallError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.observer import Observer
from durable.options import TERMINATE_EXISTING, USE_EXISTING, USE_SAME, check_id
from durable.search.conditions import Condition
from durable.store.beginnings import record_of, unowned, with_defaults
from durable.store.queries import FindRun, LoadRuns
from durable.store.records import (
    RUNNING,
    Committed,
    FoundRun,
    MessageKind,
    PutMessage,
    RunRecord,
    Started,
    StartRun,
    Terminated,
)
from durable.store.store import Store

_COMMIT_TRIES: Final = 3


class Client:
    """Starts runs in one namespace of one store and finds them again."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str,
        task_queue: str,
        registry: Registry,
        observer: Observer | None,
        interceptors: Interceptors,
        home: Home,
    ) -> None:
        self._store = store
        self.check = home.check
        self.registry = registry
        self.answers = Answers()
        self.namespace = namespace
        self.task_queue = task_queue
        self.identity = f"{os.getpid()}@{socket.gethostname()}"
        self.defaults = KnownDefaults(store, namespace)
        self.outcomes = Outcomes()
        self.listener = Listener(store, self.outcomes)
        self.worker: LocalWorker | None = None
        self._observer = observer
        self.interceptors = interceptors
        self._starts_within = interceptors.have("start_workflow")
        self._opened_at = store.now()
        self._run_ids = RunIds()
        # Ids must differ, not be secret; a system call for each would cost as much as
        # driving a turn.
        self._entropy = random.Random(secrets.randbits(256))  # noqa: S311 - see above

    @property
    def store(self) -> Store:
        """The open store."""
        return self._store

    def new_run_id(self, now: int) -> str:
        """Make the id of a run that begins at an instant."""
        return self._run_ids.make(now, self._entropy.getrandbits(74))

    def mailed(self, run_id: str) -> None:
        """A message for this run was committed."""
        if self.worker is not None:
            self.worker.mail(run_id)

    async def terminated(self, terminated: Terminated) -> None:
        """A run was closed by a termination of ours."""
        self._spread_termination(terminated.run_id, terminated.committed)
        for run_id in (terminated.run_id, *terminated.committed.ended):
            await self._observe_terminated(run_id)

    def told_update(self, run_id: str, update_id: str, news: News) -> None:
        """Something became of an update."""
        self.answers.tell(run_id, update_id, news)

    def _spread_termination(self, run_id: str, committed: Committed | None) -> None:
        if self.worker is not None:
            self.worker.closed_elsewhere(run_id)
            if committed is not None:
                self.worker.spread(committed)
            return
        for ended in (run_id, *(committed.ended if committed else ())):
            self.outcomes.closed(ended, None)

    async def _observe_terminated(self, run_id: str) -> None:
        """Tell the observer; no worker did, as none committed it."""
        if self._observer is None:
            return
        # The termination stands, whatever becomes of what is told about it.
        with contextlib.suppress(DurableError):
            for loaded in await self._store.read(LoadRuns([run_id])):
                record = loaded.record
                first = decode_rows(loaded.rows[:1])[0]
                self._observer.workflow_closed(
                    workflow_type=record.workflow_type,
                    workflow_id=record.workflow_id,
                    run_id=run_id,
                    task_queue=record.task_queue,
                    outcome=record.status.value,
                    error_type=None,
                    started_at=record.started_at,
                    closed_at=record.closed_at or self._store.now(),
                    headers=getattr(first.attributes, "headers", {}),
                )

    # --- starting ---------------------------------------------------------------------

    def start(
        self, call: WorkflowCall[Any] | str, args: tuple[Any, ...], how: StartSettings
    ) -> Coroutine[Any, Any, Handle[Any]]:
        """Give what starts a run once it is awaited; see `Engine.start`."""
        definition, name, payloads = what_to_start(call, args)
        return self._begin(definition, name, payloads, with_call_options(call, how))

    def start_recorded(
        self, name: str, input: Payloads, how: StartSettings
    ) -> Coroutine[Any, Any, Handle[Any]]:
        """As `start`, with arguments as they were recorded before."""
        return self._begin(self.registry.workflows.get(name), name, input, how)

    def _begin(
        self,
        definition: Workflow[Any, Any] | None,
        name: str,
        payloads: Payloads,
        how: StartSettings,
    ) -> Coroutine[Any, Any, Handle[Any]]:
        now = self._store.now()
        run_id = self.new_run_id(now)
        workflow_id = how.workflow_id if how.workflow_id is not None else run_id
        wanted = WantedRun(definition, name, payloads, how, now, workflow_id, run_id)
        if self._starts_within:
            return self._start_within(wanted)
        start = self._start if self._observer is None else self._start_observed
        return start(wanted)

    async def _start_within(self, wanted: WantedRun) -> Handle[Any]:
        async def start(given: StartWorkflowInput) -> Handle[Any]:
            found = wanted.as_given(given)
            if self._observer is None:
                return await self._start(found)
            return await self._start_observed(found)

        begin = self.interceptors.around("start_workflow", start)
        handle: object = await begin(wanted.to_intercept())
        if not isinstance(handle, Handle):
            raise InvalidCallError(
                f"An interceptor's start_workflow() returned {handle!r}.",
                hint="Let it return what next(input) gave.",
            )
        return handle

    def prepare(
        self,
        call: WorkflowCall[Any] | str,
        args: tuple[Any, ...],
        how: StartSettings,
        run_id: str,
    ) -> tuple[WorkflowExecutionStarted, StartSettings, Workflow[Any, Any] | None]:
        """Return what a run is to begin with that is started later, and how.

        Any thread may ask. Raises as `start` does for what breaks a rule.
        """
        definition, name, payloads = what_to_start(call, args)
        how = with_call_options(call, how)
        refuse_debounce(how)
        workflow_id = how.workflow_id if how.workflow_id is not None else run_id
        now = self._store.now()
        wanted = WantedRun(definition, name, payloads, how, now, workflow_id, run_id)
        if self._starts_within:
            given = wanted.to_intercept()
            given = settle(self.interceptors, "start_workflow", given)
            wanted = wanted.as_given(given)
        if self._observer is None:
            return self.first_event(wanted), wanted.how, definition
        with self._observer.starting_workflow(
            workflow_type=name, workflow_id=wanted.workflow_id
        ) as headers:
            wanted.headers = {**wanted.headers, **headers}
            return self.first_event(wanted), wanted.how, definition

    async def _start_observed(self, wanted: WantedRun) -> Handle[Any]:
        assert self._observer is not None  # noqa: S101 - see `start`
        with self._observer.starting_workflow(
            workflow_type=wanted.name, workflow_id=wanted.workflow_id
        ) as headers:
            wanted.headers = {**wanted.headers, **headers}
            return await self._start(wanted)

    async def _start(self, wanted: WantedRun) -> Handle[Any]:
        if not self.defaults.is_new():
            await self.defaults.read()
        if wanted.how.debounce is not None or wanted.how.debounce_max is not None:
            return await start_debounced(
                self._store, wanted, self._beginning, self._start, self._put_off
            )
        started = self._beginning(wanted)
        definition = wanted.definition or self.registry.workflows.get(wanted.name)
        how, now = wanted.how, wanted.now
        workflow_id, run_id = wanted.workflow_id, wanted.run_id
        record = record_of(started, now)
        # The handle's outcome must exist before the run can close.
        outcome = self.outcomes.of(run_id)
        update = None
        if type(how.first) is UpdateRequest:
            update = self.answers.of(run_id, how.first.update_id)
        is_local = self._is_local(started)
        if is_local:
            # What becomes of it from now on, also before we go on, takes that back.
            outcome.fresh_at = self.outcomes.changes
        try:
            result = await self._commit_start(started, record, how, is_local=is_local)
        except CommitUnknownError:
            result = await self._start_again(started, record, how, is_local=is_local)
        if result.terminated_run_id is not None:
            await self._observe_terminated(result.terminated_run_id)
        if result.found is not None and result.run_id != run_id:
            return await self._use_found(started, definition, how, result.found)
        if not result.created:
            outcome.fresh_at = -1
            # An existing one was wanted, or the answer to our first attempt was lost.
            if how.first is not None:
                self.mailed(result.run_id)
            return Handle(
                self,
                workflow_id,
                result.run_id,
                definition,
                is_new=result.run_id == run_id,
            )
        handle: Handle[Any] = Handle(
            self, workflow_id, run_id, definition, outcome, first_run_id=run_id
        )
        handle.first_update = update
        return handle

    def _put_off(self, record: RunRecord) -> Handle[Any]:
        if self.worker is not None:
            self.worker.changed()
        return Handle(
            self,
            record.workflow_id,
            record.run_id,
            self.registry.find_workflow(record.workflow_type, record.version),
            first_run_id=record.first_run_id,
            is_new=False,
        )

    async def _use_found(
        self,
        started: WorkflowExecutionStarted,
        definition: Workflow[Any, Any] | None,
        how: StartSettings,
        found: FoundRun,
    ) -> Handle[Any]:
        """Answer a start with the run that there is, if that is what it asked for."""
        record = found.record
        signature = None if definition is None else definition.call_signature
        is_asked_again = how.request_id == record.request_id
        if is_asked_again:
            say_other_request(found, started, signature)
        elif how.conflict_policy is USE_SAME:
            check_same(found, started, signature)
        say_found(record, self._opened_at)
        if how.first is not None:
            had_it = is_asked_again and record.status is not RUNNING
            if how.conflict_policy is USE_SAME and not had_it:
                await self._send_to_found(record, how)
            self.mailed(record.run_id)
        return Handle(
            self,
            record.workflow_id,
            record.run_id,
            self.registry.find_workflow(record.workflow_type, record.version)
            or definition,
            first_run_id=record.first_run_id,
            is_new=False,
        )

    async def _send_to_found(self, record: RunRecord, how: StartSettings) -> None:
        """Send what a start brings along to the run that it was compared with.

        Raises:
            WorkflowAlreadyStartedError: that has closed.
        """
        message = msgspec.structs.replace(
            self.message_of(record, how.first),
            run_id=None,
            first_run_id=record.first_run_id,
        )
        try:
            await self._store.perform(message)
        except WorkflowClosedError:
            raise takes_no_message(record) from None

    def first_event(self, wanted: WantedRun) -> WorkflowExecutionStarted:
        """The event that a run begins with, with the workflow's own defaults."""
        definition, how = wanted.definition, wanted.how
        if definition is None:
            definition = self.registry.workflows.get(wanted.name)
        if definition is not None:
            definition.release.check_start(wanted.name, wanted.now)
        workflow_id, run_id = wanted.workflow_id, wanted.run_id
        request_id = how.request_id or run_id
        queue = how.task_queue or (definition.task_queue if definition else None)
        return WorkflowExecutionStarted(
            workflow_type=wanted.name,
            input=wanted.input,
            task_queue=queue or self.task_queue,
            workflow_id=workflow_id,
            run_id=run_id,
            first_run_id=run_id,
            request_id=request_id,
            namespace=self.namespace,
            run_timeout=how.run_timeout
            or (definition.run_timeout if definition else None),
            execution_timeout=(
                how.execution_timeout
                or (definition.execution_timeout if definition else None)
            ),
            root_workflow_id=workflow_id,
            root_run_id=run_id,
            version=definition.own_version if definition else None,
            identity=self.identity,
            headers=wanted.headers,
            memo=encode_memo(how.memo),
            retry_policy=how.retry or UNSET,
            start_delay=how.delay or UNSET,
            attributes=how.attributes,
            priority=how.priority or UNSET,
            fairness_key=how.fairness_key or UNSET,
            fairness_weight=how.fairness_weight or UNSET,
        )

    def _beginning(self, wanted: WantedRun) -> WorkflowExecutionStarted:
        """The same, with what the namespace says where nobody else does."""
        return with_defaults(self.first_event(wanted), self.defaults.known)

    def _is_local(self, started: WorkflowExecutionStarted) -> bool:
        worker = self.worker
        return (
            worker is not None
            and not started.start_delay
            and started.task_queue == self.task_queue
            and not worker.limits_runs
            and worker.knows(started.workflow_type, started.version)
        )

    def _commit_start(
        self,
        started: WorkflowExecutionStarted,
        record: RunRecord,
        how: StartSettings,
        *,
        is_local: bool,
    ) -> Awaitable[Started]:
        request = self._start_request(record, how)
        if is_local and self.worker is not None:
            inputs = () if how.first is None else (how.first,)
            return self.worker.start_run(started, request, inputs)
        return self._start_elsewhere(started, request, how.first)

    async def _start_again(
        self,
        started: WorkflowExecutionStarted,
        record: RunRecord,
        how: StartSettings,
        *,
        is_local: bool,
    ) -> Started:
        """The answer to a start was lost: ask again under the same request id."""
        for tries_left in reversed(range(_COMMIT_TRIES - 1)):
            try:
                result = await self._commit_start(
                    started, record, how, is_local=is_local
                )
            except CommitUnknownError:
                if not tries_left:
                    raise
                continue
            if not result.created and self.worker is not None:
                self.worker.wake((result.run_id,))
            return result
        raise CommitUnknownError("unreachable")

    def _start_request(self, record: RunRecord, how: StartSettings) -> StartRun:
        terminated = ""
        policy = how.conflict_policy
        if policy is TERMINATE_EXISTING:
            terminated = encode_attributes(
                WorkflowExecutionTerminated(
                    reason="another run was started with its workflow id",
                    identity=self.identity,
                )
            )
        first = how.first
        # A run that may turn out to be another gets no message before that is known.
        reminder = None
        if first is not None and policy is not USE_SAME:
            reminder = self.message_of(record, first)
        return StartRun(
            record=record,
            rows=[],
            reuse_policy=how.reuse_policy,
            conflict_policy=policy,
            wants_found=policy is not USE_EXISTING,
            terminated_data=terminated,
            message_if_open=reminder,
        )

    async def _start_elsewhere(
        self, started: WorkflowExecutionStarted, request: StartRun, first: Any
    ) -> Started:
        """Start a run that some worker will drive."""
        request = self._unowned(started, request, first)
        result: Started = await self._store.perform(request)
        if self.worker is not None:
            self.worker.see_turns()
        if result.terminated_run_id is not None:
            self._spread_termination(result.terminated_run_id, result.committed)
        return result

    def _unowned(
        self, started: WorkflowExecutionStarted, request: StartRun, first: Any
    ) -> StartRun:
        events: list[Attributes] = [started]
        if isinstance(first, WorkflowExecutionSignaled):
            events.append(first)
        request = unowned(request, events)
        if started.start_delay:
            due = started.begins_at(request.record.started_at)
            record = msgspec.structs.replace(request.record, wake_at=due)
            request = msgspec.structs.replace(request, record=record)
        if isinstance(first, UpdateRequest):
            message = self.message_of(request.record, first)
            request = msgspec.structs.replace(request, messages=(message,))
        return request

    def start_for_others(
        self, started: WorkflowExecutionStarted, how: StartSettings
    ) -> StartRun:
        """A start now, of a run that some worker will drive."""
        started = with_defaults(started, self.defaults.known)
        request = self._start_request(record_of(started, self._store.now()), how)
        return self._unowned(started, request, how.first)

    def message_of(
        self, record: RunRecord, first: WorkflowExecutionSignaled | UpdateRequest
    ) -> PutMessage:
        """What a start brings along, for the inbox of a run."""
        is_signal = isinstance(first, WorkflowExecutionSignaled)
        return PutMessage(
            namespace=self.namespace,
            workflow_id=record.workflow_id,
            run_id=record.run_id,
            kind=(MessageKind.SIGNAL if is_signal else MessageKind.UPDATE).value,
            request_id=(
                first.request_id
                if isinstance(first, WorkflowExecutionSignaled)
                else update_request_id(first.update_id)
            ),
            data=encode_message(first),
        )

    # --- starting with a message ------------------------------------------------------

    def with_signal(self, how: StartSettings, call: SignalCall) -> StartSettings:
        """Let a start bring a signal along.

        Raises:
            InvalidCallError: it is no call of a signal.
        """
        made = signal_call(call, ())
        # The same start again, by its request id, is the same signal.
        own = secrets.token_hex(16) if how.request_id is None else how.request_id
        event = WorkflowExecutionSignaled(
            signal_name=made.name,
            input=made.input,
            request_id=f"{own}/signal",
            identity=self.identity,
        )
        return msgspec.structs.replace(how, first=event)

    async def update_with_start(
        self,
        update: UpdateCall[Any],
        update_id: str | None,
        call: WorkflowCall[Any] | str,
        args: tuple[Any, ...],
        how: StartSettings,
    ) -> tuple[Handle[Any], UpdateHandle[Any]]:
        """Start a run, or use the open one, with an update."""
        made = update_call(update, ())
        if update_id is not None:
            check_id(update_id, "the update id")
        request = UpdateRequest(
            update_id=update_id or secrets.token_hex(16),
            update_name=made.name,
            input=made.input,
            identity=self.identity,
        )
        handle = await self.start(
            call, args, msgspec.structs.replace(how, first=request)
        )
        sent: UpdateHandle[Any] = handle.sent_update(request, made.decode_result)
        return handle, sent

    # --- finding ----------------------------------------------------------------------

    async def find(
        self, workflow_id: str, run_id: str | None, workflow: object
    ) -> Handle[Any]:
        """A handle to a run; see `Engine.get`."""
        definition = None if workflow is None else workflow_of(workflow)
        if workflow is not None and definition is None:
            raise InvalidCallError(
                f"workflow is {workflow!r}, which is no workflow.",
                hint="Give a function or class that @workflow decorates, or leave it"
                " out where this program has the workflow's code.",
            )
        check_id(workflow_id, "the workflow id")
        if run_id is not None:
            check_id(run_id, "the run id")
        record = await self._store.read(FindRun(self.namespace, workflow_id, run_id))
        if record is None:
            which = "" if run_id is None else f" with run id {run_id!r}"
            unknown = WorkflowNotFoundError(
                f"There is no run of workflow id {workflow_id!r}{which} in namespace"
                f" {self.namespace!r}."
            )
            unknown.workflow_id = workflow_id if run_id is None else None
            raise unknown
        return Handle(
            self,
            workflow_id,
            record.run_id,
            definition
            or self.registry.find_workflow(record.workflow_type, record.version),
            first_run_id=record.first_run_id,
            is_pinned=run_id is not None,
            is_new=False,
        )

    async def list(self, asked: Listing) -> list[RunDescription]:
        """A page of runs."""
        query = await to_search(self._store, self.namespace, asked)
        records = await self._store.read(query)
        return await describe_runs(self._store, self.namespace, records)

    async def count(self, where: Condition | str | None, group_by: object) -> RunCount:
        """How many runs there are; see `Engine.count`."""
        return await count_runs(self._store, self.namespace, where, group_by)

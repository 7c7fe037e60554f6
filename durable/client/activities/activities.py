"""Activities from outside: completed, failed and held by whoever has their token."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec
from typing_extensions import Unpack

from durable import limits
from durable.api.activities.effects import Done, NotDone
from durable.client.activities.changing import TaskOptions, changes_of
from durable.client.chain import Connection
from durable.client.resolving import encode_result, end_activity, settle_doubt
from durable.clock import to_datetime
from durable.converter import json
from durable.converter.failures import failure_of
from durable.core.history.payload import Failure, summary_of
from durable.errors import (
    ActivityNotFoundError,
    ApplicationError,
    AttemptOverError,
    InvalidCallError,
    InvalidInputError,
    WorkflowNotFoundError,
)
from durable.options import check_id
from durable.runs.activity_tasks import outside
from durable.runs.activity_tasks.outside import ActivityToken, parse_token
from durable.runs.activity_tasks.task_rows import data_of, progress_of
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    CompleteActivity,
    TaskState,
    UpdateActivityTask,
)
from durable.store.queries import (
    FindActivityTask,
    FindRun,
    ListActivityTasks,
    TaskFilter,
)
from durable.store.records import NEVER

State: TypeAlias = Literal["waiting", "claimed", "lost", "external"]


class _KnownRequest(Exception):
    """The same was said before."""


class QueuedActivity(msgspec.Struct, frozen=True, kw_only=True):
    """An activity that its run's owner does not run itself.

    Attributes:
        state: "waiting" for a worker, "claimed" by one, "lost" with its worker, or
            "external": somebody outside completes it, by `token`.
        in_doubt: it is external since nobody knows what its attempt has done:
            `resolve` says it.
        attempt: the number of the attempt that waits or has begun, from 1.
        due_at: when it may begin; None if it is paused.
        expires_at: when it is given up, if a timeout says so; not if it is claimed.
        heartbeat_details: what its last heartbeat said, as plain data.
        problem: the bug for which it could not begin.
        priority: less comes first.
        fairness_key: whose it is, in a configured queue.
    """

    workflow_id: str
    run_id: str
    activity_id: str
    activity_type: str
    task_queue: str
    state: State
    in_doubt: bool
    attempt: int
    scheduled_at: datetime
    due_at: datetime | None
    expires_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    heartbeat_details: tuple[Any, ...]
    worker: str | None
    token: str | None
    last_failure: str | None
    problem: str | None
    priority: int
    fairness_key: str | None


class Activities:
    """Completes, fails and finds activities that run elsewhere, or outside.

    Each takes a token, as `complete_later()` and `external_promise()` give it; or the
    ids of the activity: then whatever attempt there is ends, one that waits for a
    worker or runs on one too.
    """

    def __init__(self, open_client: Callable[[], Connection]) -> None:
        self._open_client = open_client

    @property
    def _client(self) -> Connection:
        return self._open_client()

    async def complete(
        self,
        token: str | None = None,
        result: Any = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Say what the result of an activity is. Returns when that is durable.

        Args:
            token: the token of its attempt.
            result: what it returns, of the annotated type if its code is known here.
            workflow_id: without a token, of its workflow.
            activity_id: likewise, its id within the run.
            run_id: which run of that workflow; the newest by default.
            request_id: your idempotency key: the same key again changes nothing as long
                as the run has not taken the first.

        Raises:
            ActivityNotFoundError: it has ended, or never was.
            AttemptOverError: the token's attempt is over; another one has its place.
            InvalidCallError: it is a transaction that has begun: it has, or will have,
                a result of its own.
            InvalidIdError: it is no token.
            PayloadError: the result does not fit the activity's annotation.
        """
        asked = (token, workflow_id, activity_id, run_id, request_id)
        try:
            record, attempt = await self._find(*asked)
        except _KnownRequest:
            return
        registry = self._client.registry
        payload = encode_result(registry, record.activity_type, result)
        await end_activity(
            self._client,
            outside.complete(
                record, payload, attempt=attempt, **self._said(request_id)
            ),
        )

    async def fail(
        self,
        token: str | None = None,
        error: BaseException | str = "",
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Say that an attempt has failed; another follows if its policy allows that.

        Args: as `complete`; `error` is an exception, or what it would say.

        Raises: as `complete`.
        """
        asked = (token, workflow_id, activity_id, run_id, request_id)
        try:
            record, attempt = await self._find(*asked)
        except _KnownRequest:
            return
        if isinstance(error, str):
            error = ApplicationError(error)
        failure = failure_of(error)
        await end_activity(
            self._client,
            outside.fail(record, failure, attempt=attempt, **self._said(request_id)),
        )

    async def cancel(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Say that an activity has stopped; who awaits it gets a CancelledError.

        Args and raises: as `complete`.
        """
        asked = (token, workflow_id, activity_id, run_id, request_id)
        try:
            record, attempt = await self._find(*asked)
        except _KnownRequest:
            return
        await end_activity(
            self._client,
            outside.cancel(record, attempt=attempt, **self._said(request_id)),
        )

    async def resolve(
        self,
        verdict: Done[Any] | NotDone | BaseException,
        *,
        token: str | None = None,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Say what an attempt has done that is in doubt, and waits to hear of it.

        Args: as `complete`, and
            verdict: `Done(result)`; or `NotDone()`, and another attempt follows; or an
                exception, with which the activity fails for good.

        Raises: as `complete`.
            InvalidCallError: it is not in doubt, or that is no verdict.
        """
        asked = (token, workflow_id, activity_id, run_id, request_id)
        try:
            record, _ = await self._find(*asked)
        except _KnownRequest:
            return
        await settle_doubt(self._client, record, verdict, request_id)

    async def heartbeat(
        self,
        token: str | None = None,
        *details: Any,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Say that somebody outside is still at it, and how far they have come.

        Args: as `complete`; `details` are for the attempt after this one.

        Raises: as `complete`; `ActivityNotFoundError` means that nobody waits for it
            any more: stop.
        """
        asked = (token, workflow_id, activity_id, run_id)
        record, attempt = await self._find(*asked)
        if attempt is not None and attempt != record.attempt:
            record = msgspec.structs.replace(record, attempt=attempt)
        payloads = tuple(
            json.encode(value, type(value), f"detail {number} of a heartbeat")
            for number, value in enumerate(details, 1)
        )
        store = self._client.store
        await store.perform(outside.beat(record, payloads, store.now()))

    async def pause(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Let an activity that waits for a worker not begin until it is unpaused.

        Its timeouts count on.

        Args: as `complete`.

        Raises: as `complete`.
            InvalidCallError: it does not wait: it runs, or somebody outside has it.
        """
        asked = (token, workflow_id, activity_id, run_id)
        await self._update(asked, due_at=NEVER)

    async def unpause(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Let one that waits begin now, whether it was paused or backs off.

        Args and raises: as `pause`.
        """
        asked = (token, workflow_id, activity_id, run_id)
        await self._update(asked, due_at=self._client.store.now())

    async def reset(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Let one that waits begin now, with its first attempt and no details.

        Args and raises: as `pause`.
        """
        asked = (token, workflow_id, activity_id, run_id)
        await self._update(asked, due_at=self._client.store.now(), is_reset=True)

    async def update_options(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        """Change how one that waits, or that somebody outside completes, is to run.

        For all its attempts to come; its history goes on to say what was asked for.

        Args: as `complete`.
            **options: `retry` or its `max_attempts` alone, the four timeouts and, of
                one that waits, `task_queue`, as for `@activity`. What is not given
                stays.

        Raises: as `pause`.
            InvalidOptionError, InvalidDurationError: an option has a wrong value, or
                none is given.
        """
        asked = (token, workflow_id, activity_id, run_id)
        record, _ = await self._find(*asked)
        await self._update(asked, record, **changes_of(record, options))

    async def _update(
        self,
        asked: tuple[str | None, ...],
        record: ActivityTaskRecord | None = None,
        *,
        state: TaskState = TaskState.WAITING,
        **changes: Any,
    ) -> None:
        if record is None:
            record, _ = await self._find(*asked)
        change = UpdateActivityTask(
            run_id=record.run_id,
            scheduled_event_id=record.scheduled_event_id,
            attempt=record.attempt,
            state=state,
            **changes,
        )
        if not await self._client.store.perform(change):
            stands = (await self.describe(*asked[:1], **_ids(asked))).state
            raise InvalidCallError(
                f"Activity {record.activity_type!r} of run {record.run_id!r} does not"
                f" wait for a worker: it is {stands}.",
                hint="What runs can be asked to stop by cancelling its workflow.",
            )
        if self._client.worker is not None:
            self._client.worker.changed()

    async def list(
        self,
        *,
        task_queue: str | None = None,
        activity_type: str | None = None,
        state: State | None = None,
        workflow_id: str | None = None,
        in_doubt: bool = False,
        limit: int = 100,
    ) -> list[QueuedActivity]:
        """List activities that their runs' owners do not run themselves.

        Args:
            task_queue: of that queue.
            activity_type: of that name.
            state: in that state.
            workflow_id: of the newest run of that workflow.
            in_doubt: only those that wait for somebody to `resolve` them.
            limit: so many at most.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
            InvalidInputError: there is no such state, or the limit is no number.
            InvalidIdError: the workflow id breaks the rule for ids.
        """
        if in_doubt:
            state = state or "external"
        if state is not None and state not in [one.value for one in TaskState]:
            names = ", ".join(one.value for one in TaskState)
            raise InvalidInputError(f"state is {state!r:.200}: give one of {names}.")
        if not isinstance(limit, int) or limit < 1:
            raise InvalidInputError(f"limit is {limit!r:.200}: give at least 1.")
        run_id = None
        if workflow_id is not None:
            checked = check_id(workflow_id, "the workflow id")
            run_id = await self._find_run(checked, None)
        found: list[QueuedActivity] = []
        after = None
        while len(found) < limit:
            page = min(limit - len(found), limits.LIST_PAGE_MAX)
            if in_doubt:
                page = limits.LIST_PAGE_MAX
            where = TaskFilter(
                task_queue=task_queue,
                activity_type=activity_type,
                state=None if state is None else TaskState(state),
                run_id=run_id,
                after=after,
                limit=page,
            )
            records = await self._client.store.read(
                ListActivityTasks(self._client.namespace, where)
            )
            described = map(_describe, records)
            found += (one for one in described if one.in_doubt or not in_doubt)
            if len(records) < page:
                break
            after = records[-1].key
        return found[:limit]

    async def describe(
        self,
        token: str | None = None,
        *,
        workflow_id: str | None = None,
        activity_id: str | None = None,
        run_id: str | None = None,
    ) -> QueuedActivity:
        """Read how one stands.

        Args and raises: as `complete`.
        """
        record, _ = await self._find(token, workflow_id, activity_id, run_id)
        return _describe(record)

    # --- finding ----------------------------------------------------------------------

    async def _find(
        self,
        token: str | None,
        workflow_id: str | None,
        activity_id: str | None,
        run_id: str | None,
        request_id: str | None = None,
    ) -> tuple[ActivityTaskRecord, int | None]:
        """Find a task; and the attempt that is meant, if only one is."""
        if token is not None:
            if workflow_id is not None or activity_id is not None or run_id is not None:
                raise InvalidCallError(
                    "An activity was named by a token and by ids.", hint="Give one."
                )
            meant = parse_token(token)
            record = await self._find_by_token(meant, request_id)
            if meant.started_at not in (None, record.started_at):
                raise AttemptOverError(
                    f"Attempt {meant.attempt} of activity {record.activity_type!r} of"
                    f" run {record.run_id!r} is over: another one has its place.",
                    hint="Give it up: its outcome does not count any more.",
                )
            return record, meant.attempt
        if workflow_id is None or activity_id is None:
            raise InvalidCallError(
                "No activity was named.",
                hint="Give its token, or its workflow's id and its own.",
            )
        check_id(activity_id, "the activity id")
        found = await self._find_run(check_id(workflow_id, "the workflow id"), run_id)
        return await self._find_by_id(found, activity_id), None

    async def _find_by_token(
        self, token: ActivityToken, request_id: str | None
    ) -> ActivityTaskRecord:
        if token.promise_id:
            return await self._find_by_id(token.run_id, token.promise_id)
        query = FindActivityTask(token.run_id, token.scheduled_event_id)
        record = await self._client.store.read(query)
        if record is None and request_id is not None:
            await self._ask_again(token, request_id)
        if record is None or record.namespace != self._client.namespace:
            raise ActivityNotFoundError(
                f"Nobody waits for the activity of token {str(token)!r}: it has ended,"
                " or its run has, or there never was one."
            )
        return record

    async def _ask_again(self, token: ActivityToken, request_id: str) -> None:
        """See whether the same was said before, and its run has not taken it yet."""
        asked = CompleteActivity(
            namespace=self._client.namespace,
            workflow_id=None,
            run_id=token.run_id,
            scheduled_event_id=token.scheduled_event_id,
            attempt=token.attempt,
            request_id=request_id,
            message="",  # there is no task that it could end
        )
        with contextlib.suppress(WorkflowNotFoundError):
            await self._client.store.perform(asked)
            raise _KnownRequest

    async def _find_run(self, workflow_id: str, run_id: str | None) -> str:
        query = FindRun(self._client.namespace, workflow_id, run_id)
        record = await self._client.store.read(query)
        if record is None:
            raise WorkflowNotFoundError(
                f"There is no workflow {workflow_id!r}"
                f" in namespace {self._client.namespace!r}."
            )
        return record.run_id

    async def _find_by_id(self, run_id: str, activity_id: str) -> ActivityTaskRecord:
        def is_meant(record: ActivityTaskRecord) -> bool:
            return data_of(record).scheduled.activity_id == activity_id

        record = await self._search(run_id, is_meant)
        if record is None:
            raise ActivityNotFoundError(
                f"Run {run_id!r} has no activity {activity_id!r} that waits for"
                " somebody else than its own worker: it has ended, or runs there.",
                hint="`durable activity list` names those that there are.",
            )
        return record

    async def _search(
        self, run_id: str, is_meant: Callable[[ActivityTaskRecord], bool]
    ) -> ActivityTaskRecord | None:
        after = None
        while True:
            where = TaskFilter(run_id=run_id, after=after, limit=limits.LIST_PAGE_MAX)
            query = ListActivityTasks(self._client.namespace, where)
            records = await self._client.store.read(query)
            for record in records:
                if is_meant(record):
                    return record
            if len(records) < limits.LIST_PAGE_MAX:
                return None
            after = records[-1].key

    # --- ends -------------------------------------------------------------------------

    def _said(self, request_id: str | None) -> dict[str, Any]:
        if request_id is None:
            request_id = f"outside:{secrets.token_hex(8)}"
        return {
            "request_id": check_id(request_id, "the request id"),
            "identity": self._client.identity,
            "now": self._client.store.now(),
        }


def _ids(asked: tuple[str | None, ...]) -> dict[str, str | None]:
    return dict(zip(("workflow_id", "activity_id", "run_id"), asked[1:], strict=True))


def _describe(record: ActivityTaskRecord) -> QueuedActivity:
    data, progress = data_of(record), progress_of(record)
    is_external = record.state is TaskState.EXTERNAL
    number, attempt = record.scheduled_event_id, record.attempt
    token = str(ActivityToken(record.run_id, number, attempt, record.started_at))
    details = progress.details or ()
    return QueuedActivity(
        workflow_id=data.workflow_id,
        run_id=record.run_id,
        activity_id=data.scheduled.activity_id,
        activity_type=record.activity_type,
        task_queue=record.task_queue,
        state=record.state.value,
        in_doubt=progress.in_doubt,
        attempt=attempt,
        scheduled_at=to_datetime(data.scheduled_at),
        due_at=None if record.due_at == NEVER else to_datetime(record.due_at),
        expires_at=_instant(record.expires_at),
        started_at=_instant(record.started_at),
        heartbeat_at=_instant(record.heartbeat_at),
        heartbeat_details=tuple(
            json.decode(one, Any, "a heartbeat's detail") for one in details
        ),
        worker=record.worker_id,
        token=token if is_external else None,
        last_failure=_summary(progress.last_failure),
        problem=_summary(progress.problem),
        priority=record.priority,
        fairness_key=record.fairness_key or None,
    )


def _instant(instant: int | None) -> datetime | None:
    return None if not instant else to_datetime(instant)


def _summary(failure: Failure | None) -> str | None:
    return None if failure is None else summary_of(failure)

"""`engine.schedules`: creating, finding and changing schedules."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec
from typing_extensions import TypedDict, Unpack

from durable import limits
from durable.api.workflows.workflow_definition import WorkflowCall, workflow_of
from durable.client.client import Client
from durable.client.descriptions.description import decode_stuck
from durable.client.handle import Handle
from durable.client.start_options import StartSettings
from durable.clock import from_datetime, to_datetime
from durable.core.history.codec import decode_rows
from durable.core.history.events import WorkflowExecutionStarted
from durable.core.history.payload import Failure, decode_payload
from durable.errors import (
    AttributeTypeError,
    InvalidOptionError,
    InvalidScheduleError,
    ScheduleExistsError,
    ScheduleNotFoundError,
    UpdateRejectedError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import (
    Duration,
    IdReusePolicy,
    RetryPolicy,
    check_id,
    check_option_names,
)
from durable.schedules.cron import When, schedule_spec
from durable.schedules.definition import (
    ID_ROOM,
    ScheduleDefinition,
    ScheduleOverlap,
    action_of,
    to_overlap,
)
from durable.schedules.packing import pack, unpack
from durable.schedules.schedule_workflow import (
    PREFIX,
    SCHEDULE,
    STALE,
    ScheduleWorkflow,
)
from durable.schedules.state import (
    BUFFER_MAX,
    RECENT_MAX,
    Counts,
    ScheduledRun,
    ScheduleState,
)
from durable.search.kinds import kind_of
from durable.store.queries import FindRun, ListRuns, LoadRuns, ReadAttributeKinds
from durable.store.records import RunFilter, RunRecord, RunStatus

_TRIES_MAX: Final = 20


class ScheduleOptions(TypedDict, total=False):
    """Options of a schedule that code declares.

    Keys:
        timezone: an IANA name such as "Europe/Berlin"; UTC by default.
        overlap: what to do if the run before is still open; a `ScheduleOverlap` or its
            value, such as "buffer_one"; "skip" by default.
        catchup_window: times longer ago than this are missed after an outage, not made
            up for; 365 days by default, 10 s at least.
        pause_on_failure: pause when a run fails or times out, after its retries.
        remaining_actions: how often it starts something by itself.
        jitter: each time is put off by up to so much.
        retry: when a run that failed is begun again, as a new run of its id.
    """

    timezone: str | None
    overlap: ScheduleOverlap | str
    catchup_window: Duration
    pause_on_failure: bool
    remaining_actions: int | None
    jitter: Duration
    retry: RetryPolicy | None


class DefineOptions(ScheduleOptions, total=False):
    """Those, and how it stands.

    Keys:
        paused: create it paused.
        note: why, or whatever else there is to say.
    """

    paused: bool
    note: str


class CreateOptions(DefineOptions, total=False):
    """Options of `Schedules.create`: those of `DefineOptions` and `ScheduleOptions`.

    Keys:
        trigger: start a first run at once, if the schedule is new.
    """

    trigger: bool


class ScheduleDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a schedule; no code runs for it.

    Attributes:
        schedule_id: its id.
        definition: what it was told: spec, action, policies, pause and note.
        version: how often that was changed.
        created_at: when it was created.
        updated_at: when somebody changed it last.
        next: the next ten times, with jitter; while it is paused, too.
        recent: the newest ten runs, oldest first.
        running: those of them that it watches and that have not ended.
        waiting: how many times wait for a run to end.
        counts: how many runs it started, and times it did not act for, by reason.
        stuck: why it cannot go on, or None: a state that this release cannot read, say.
    """

    schedule_id: str
    definition: ScheduleDefinition
    version: int
    created_at: datetime
    updated_at: datetime
    next: tuple[datetime, ...]
    recent: tuple[ScheduledRun, ...]
    running: tuple[ScheduledRun, ...]
    waiting: int
    counts: Counts
    stuck: Failure | None = None

    @property
    def paused(self) -> bool:
        """Whether it starts nothing by itself."""
        return self.definition.paused

    @property
    def note(self) -> str:
        """What was said of it last."""
        return self.definition.note


def _described(
    state: ScheduleState, now: int, stuck: Failure | None
) -> ScheduleDescription:
    definition = state.definition
    left = definition.remaining_actions
    times: list[datetime] = []
    spec = definition.spec
    earliest = now - round(spec.jitter.total_seconds() * 1_000_000)
    instant = spec.next_second(max(state.after, earliest) // 1_000_000)
    while instant is not None and len(times) < RECENT_MAX and left != len(times):
        act_at = spec.put_off(instant, state.schedule_id)
        if act_at > now:
            times.append(to_datetime(act_at))
        instant = spec.next_second(instant)
    return ScheduleDescription(
        schedule_id=state.schedule_id,
        definition=definition,
        version=state.version,
        created_at=to_datetime(state.created_at),
        updated_at=to_datetime(state.updated_at),
        next=tuple(times),
        recent=tuple(state.recent),
        running=tuple(state.running),
        waiting=len(state.buffer),
        counts=state.counts,
        stuck=stuck,
    )


class ScheduleHandle:
    """One schedule. What it changes is durable, and in force, when a call returns.

    Changes need a worker of the schedule's task queue; `describe` needs none.

    Attributes:
        id: its id.
    """

    def __init__(self, client: Callable[[], Client], schedule_id: str) -> None:
        self._client = client
        self.id = schedule_id

    def __repr__(self) -> str:
        return f"<schedule {self.id!r}>"

    async def describe(self) -> ScheduleDescription:
        """Tell what it does, has done and will do.

        Raises:
            ScheduleNotFoundError: there is none of this id.
        """
        client = self._client()
        record = await client.store.read(FindRun(client.namespace, PREFIX + self.id))
        if record is None or record.status is not RunStatus.RUNNING:
            raise _not_found(self.id)
        return (await _describe(client, [record]))[0]

    async def update(
        self, change: Callable[[ScheduleDefinition], ScheduleDefinition | None], /
    ) -> ScheduleDescription:
        """Change what it is told.

            await handle.update(lambda old: old.replace(spec=schedule_spec("@hourly")))

        The schedule goes on from now: times that are past are not acted for, or acted
        for again. One that jitter has put off is not past, unless the spec changes.

        Args:
            change: gives the new definition, or None to leave all as it is. It is
                called again if somebody else has changed the schedule meanwhile.

        Raises:
            ScheduleNotFoundError: there is none of this id.
            InvalidInputError: the new definition breaks a rule.
            NoAnswerError: no worker has taken it in time; it may still come to pass.
        """
        for _ in range(_TRIES_MAX):
            found = await self.describe()
            wanted: object = change(found.definition)
            if wanted is None:
                return found
            if not isinstance(wanted, ScheduleDefinition):
                raise InvalidOptionError(
                    f"The callback of update() gave {wanted!r}: return a changed"
                    " definition, such as old.replace(note='...'), or None."
                )
            _check_spec(wanted, self._client().store.now())
            await _check_attributes(wanted, self._client())
            try:
                await self._send("change", wanted, found.version)
            except UpdateRejectedError as error:
                if getattr(error.__cause__, "type", "") != STALE:
                    raise
                continue
            return await self.describe()
        raise ScheduleExistsError(
            f"Schedule {self.id!r} was changed by others {_TRIES_MAX} times in a row."
        )

    async def pause(self, note: str = "") -> None:
        """Let it start nothing by itself, until `unpause`; what runs goes on.

        Raises:
            ScheduleNotFoundError: there is none of this id.
            NoAnswerError: no worker has taken it in time; it may still come to pass.
        """
        await self._send("pause", True, _text(note))

    async def unpause(self, note: str = "") -> None:
        """Let it go on from now; times that passed meanwhile are not acted for.

        Raises: as `pause`.
        """
        await self._send("pause", False, _text(note))

    async def trigger(self, *, overlap: ScheduleOverlap | str | None = None) -> str:
        """Start a run now, even while it is paused; return its workflow id.

        If the policy skips it, as a run is open, there will be none of that id.

        Args:
            overlap: the policy for this one; the schedule's by default.

        Raises: as `pause`.
        """
        found: str = await self._send("trigger", _overlap(overlap))
        return found

    async def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        overlap: ScheduleOverlap | str | None = None,
    ) -> int:
        """Act for the times from `start` to `end`, both included, one after the other.

        By which policy it does so decides much: with SKIP only the first has a run, and
        BUFFER_ALL or ALLOW_ALL give one to each. The times are those of the spec as it
        is now, without jitter. Pause and limit do not matter.

        Returns:
            For how many times it will act, or decide not to.

        Raises:
            InvalidScheduleError: the range is none, or has more than 1,000 times.
        """
        for name, moment in (("start", start), ("end", end)):
            value: object = moment
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise InvalidScheduleError(
                    f"{name} of a backfill is {value!r}: give a datetime with a time"
                    " zone.",
                    field=name,
                )
        if end < start:
            raise InvalidScheduleError(
                f"The backfill ends at {end}, before it starts at {start}.", field="end"
            )
        policy = _overlap(overlap)
        found = await self.describe()
        times = [*islice(found.definition.spec.between(start, end), BUFFER_MAX + 1)]
        if len(times) > BUFFER_MAX:
            raise InvalidScheduleError(
                f"From {start} to {end} there are more than {BUFFER_MAX} times.",
                hint=f"Take the range until {times[-2].isoformat()} first.",
                field="end",
            )
        done: int = await self._send("backfill", [*map(from_datetime, times)], policy)
        return done

    async def delete(self) -> None:
        """Delete it; runs that it started go on. Twice is fine.

        Raises:
            NoAnswerError: no worker has taken it in time; it may still come to pass.
        """
        with contextlib.suppress(ScheduleNotFoundError):
            await self._send("delete")

    async def declare(self, definition: ScheduleDefinition) -> None:
        """Change it to what code says of it, unless it was told that before."""
        client = self._client()
        record = await client.store.read(FindRun(client.namespace, PREFIX + self.id))
        if record is None or (await _state_of(client, record)).declared != definition:
            await self._send("declare", definition)

    async def _send(self, name: str, *args: Any) -> Any:
        """Send an update, and wait for its answer."""
        client = self._client()
        try:
            run = await client.find(PREFIX + self.id, None, ScheduleWorkflow)
            call = getattr(ScheduleWorkflow, name)(*args)
            sent = await run.start_update(call, timeout=limits.SCHEDULE_ANSWER_SECONDS)
            return await sent.result(timeout=limits.SCHEDULE_ANSWER_SECONDS)
        except (WorkflowNotFoundError, WorkflowClosedError):
            raise _not_found(self.id) from None


class Schedules:
    """The schedules of an engine's namespace; see `engine.schedules`."""

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client

    async def create(
        self,
        id: str,
        call: WorkflowCall[Any],
        *when: When | Iterable[When],
        **options: Unpack[CreateOptions],
    ) -> ScheduleHandle:
        """Create a schedule. When this returns, it is durable.

            await engine.schedules.create(
                "reports", send_reports("all"), "0 9 * * MON-FRI",
                timezone="Europe/Berlin",
            )

        Each time has one run, whose workflow id is the schedule's id (or that of the
        call's options) and the time: `reports-2026-03-02T08:00:00Z`. The same call
        again gives the same schedule, so a program may make it each time it starts.

        Args:
            id: its id.
            call: what to start, such as `send_reports("all")`; its options say how:
                `send_reports.options(run_timeout="1h")("all")`.
            *when: texts of cron, a `timedelta`, `Calendar`s, `Interval`s, or one
                `ScheduleSpec`; see `schedule_spec`.
            **options: see `CreateOptions`.

        Raises:
            ScheduleExistsError: there is one of this id that says something else.
            InvalidScheduleError: the spec or a policy means nothing; `field` and
                `position` say where.
            InvalidInputError: another argument breaks its rule.
            AttributeTypeError: the namespace has an attribute by another type.
        """
        given: dict[str, Any] = {**options}
        trigger = given.pop("trigger", False)
        definition = define(id, call, *when, **given)
        await _check_attributes(definition, self._client())
        handle = ScheduleHandle(self._client, id)
        is_new = await self._start(id, definition, None)
        if is_new is None:
            found = await handle.describe()
            if found.definition != definition:
                raise ScheduleExistsError(
                    f"There is a schedule {id!r} that says something else.",
                    hint="Change it by `engine.schedules.get(id).update(...)`, or"
                    " delete it first.",
                )
        if trigger and is_new:
            await handle.trigger()
        return handle

    async def declare(self, id: str, definition: ScheduleDefinition) -> None:
        """Create a schedule that code declares, or change it if that is new.

        Raises: as `create` and `ScheduleHandle.update`.
        """
        if await self._start(id, definition, definition) is None:
            await ScheduleHandle(self._client, id).declare(definition)

    async def _start(
        self,
        id: str,
        definition: ScheduleDefinition,
        declared: ScheduleDefinition | None,
    ) -> bool | None:
        """Begin a schedule's run; False if the same was begun, None if another was."""
        client = self._client()
        now = client.store.now()
        _check_spec(definition, now)
        # Two that create the same at once must begin it alike.
        state = ScheduleState(
            schedule_id=id,
            definition=definition,
            declared=declared,
            created_at=0,
            updated_at=0,
            after=0,
        )
        how = StartSettings(
            workflow_id=PREFIX + id, id_reuse=IdReusePolicy.ALLOW_DUPLICATE
        )
        workflow = workflow_of(ScheduleWorkflow)
        assert workflow is not None  # noqa: S101 - it is decorated
        try:
            run: Handle[Any] = await client.start(
                WorkflowCall(workflow, (pack(state),)), (), how
            )
        except WorkflowAlreadyStartedError:
            return None
        return run.is_new

    def get(self, id: str, /) -> ScheduleHandle:
        """A handle to a schedule; whether there is one shows when it is asked.

        Raises:
            InvalidIdError: the id breaks the rule for ids.
        """
        return ScheduleHandle(self._client, check_id(id, "the schedule's id"))

    async def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> builtins.list[ScheduleDescription]:
        """List schedules, the newest first.

        Args:
            limit: how many at most.
            after: the id of the last one of a page, for the next page.

        Raises:
            InvalidOptionError: `limit` is none.
            ScheduleNotFoundError: there is no schedule `after`.
        """
        if not 1 <= limit <= limits.LIST_PAGE_MAX:
            raise InvalidOptionError(
                f"limit is {limit!r}: give 1 to {limits.LIST_PAGE_MAX}."
            )
        client = self._client()
        bound = None
        if after is not None:
            last = await client.store.read(FindRun(client.namespace, PREFIX + after))
            if last is None:
                raise _not_found(after)
            bound = last.started_at, last.run_id
        where = RunFilter(
            workflow_type=SCHEDULE, status=RunStatus.RUNNING, limit=limit, after=bound
        )
        records = await client.store.read(ListRuns(client.namespace, where))
        return await _describe(client, records)


def define(
    id: str,
    call: WorkflowCall[Any],
    *when: When | Iterable[When],
    **options: Unpack[DefineOptions],
) -> ScheduleDefinition:
    """Check all that a schedule is told; see `Schedules.create`."""
    check_option_names(options, DefineOptions.__annotations__, "option of a schedule")
    check_id(id, "the schedule's id")
    if len(id.encode()) > limits.ID_BYTES_MAX - ID_ROOM:
        raise InvalidScheduleError(
            f"The schedule's id {id[:40]!r}... is too long: give at most"
            f" {limits.ID_BYTES_MAX - ID_ROOM} bytes.",
            field="id",
        )
    given: dict[str, Any] = dict(options)
    timezone, jitter = given.pop("timezone", None), given.pop("jitter", 0)
    return ScheduleDefinition(
        spec=schedule_spec(*when, timezone=timezone, jitter=jitter),
        action=action_of(call, id, given.pop("retry", None)),
        **given,
    )


async def _describe(
    client: Client, records: Iterable[RunRecord]
) -> list[ScheduleDescription]:
    found: list[ScheduleDescription] = []
    for record in records:
        state = await _state_of(client, record)
        stuck = decode_stuck(record.stuck)
        found.append(_described(state, client.store.now(), stuck))
    return found


async def _state_of(client: Client, record: RunRecord) -> ScheduleState:
    """What a schedule has published; before its first turn, what it begins with."""
    if record.state is not None:
        payload = decode_payload(record.state)
    else:
        (loaded,) = await client.store.read(LoadRuns([record.run_id]))
        first = decode_rows(loaded.rows[:1])[0].attributes
        assert isinstance(first, WorkflowExecutionStarted)  # noqa: S101 - of every run
        payload = first.input[0]
    state = unpack(payload, ScheduleState)
    if not state.created_at:
        state.created_at = state.updated_at = state.after = record.started_at
    return state


def _check_spec(definition: ScheduleDefinition, now: int) -> None:
    """Refuse a spec that never comes.

    Raises:
        InvalidScheduleError: it has no time after now.
    """
    if definition.spec.next_second(now // 1_000_000) is None:
        raise InvalidScheduleError(
            f"The schedule has no time after {datetime.fromtimestamp(now / 1e6, UTC)}.",
            hint="Look at its years, at end_at, and at what it skips.",
            field="spec",
        )


async def _check_attributes(definition: ScheduleDefinition, client: Client) -> None:
    """Refuse attributes with which no run could begin.

    Raises:
        AttributeTypeError: the namespace has one of them by another type.
    """
    given = definition.action.attributes
    if not given:
        return
    known = await client.store.read(ReadAttributeKinds(client.namespace))
    for name, value in given.items():
        kind = kind_of(value)
        if known.get(name, kind) != kind:
            raise AttributeTypeError(
                f"The attribute {name!r} is a {kind} here, and a {known[name]} of"
                " the namespace's runs.",
                hint="Give it another name.",
            )


def _overlap(value: ScheduleOverlap | str | None) -> ScheduleOverlap | None:
    return None if value is None else to_overlap(value)


def _text(note: object) -> str:
    if not isinstance(note, str):
        raise InvalidScheduleError(
            f"note of a schedule is {note!r}: give a text.", field="note"
        )
    return note


def _not_found(schedule_id: str) -> ScheduleNotFoundError:
    return ScheduleNotFoundError(
        f"There is no schedule {schedule_id!r}.",
        hint="`durable schedules list` shows those that there are.",
    )

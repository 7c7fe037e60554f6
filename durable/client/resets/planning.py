"""Which run is to go on from what another has done, as an operation of the store.

All is read first, and cut by pure functions; the store does the whole of it at once, or
nothing if anything has changed since it was read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from durable.client.chain import Connection
from durable.core.history.codec import decode_rows, encode_attributes, encode_events
from durable.core.history.events import (
    CLOSING,
    UNPROCESSED,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    ChildWorkflowExecutionTerminated,
    ChildWorkflowExecutionTimedOut,
    HistoryEvent,
    WorkflowExecutionCanceled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionReset,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowExecutionUpdateAccepted,
    next_run_id,
)
from durable.core.history.payload import Payloads
from durable.core.messages import encode_message
from durable.core.resetting import Cut, Message, history_of, said_of
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.errors import CorruptHistoryError, InvalidResetError
from durable.search.kinds import pack
from durable.search.run_fields import with_patches
from durable.store.beginnings import record_of
from durable.store.queries import ListRuns, ReadHistory
from durable.store.records import (
    RUNNING,
    AttemptRecord,
    AttemptState,
    MessageKind,
    MessageRecord,
    ResetRun,
    RunFilter,
    RunRecord,
    at_once,
)

Reapply: TypeAlias = Literal["all", "signals", "updates", "none"]
"""Which messages that came after the place a run goes on from it gets again."""

# Whatever is applied again: these are facts, or were not heard at all.
_ALWAYS_MOVED: Final = (MessageKind.CHILD.value, MessageKind.CANCEL.value)
_REAPPLIED: Final[dict[str, tuple[MessageKind, ...]]] = {
    "all": (MessageKind.SIGNAL, MessageKind.UPDATE),
    "signals": (MessageKind.SIGNAL,),
    "updates": (MessageKind.UPDATE,),
    "none": (),
}
# How a child ended, for its parent, and what that says of its terminal event.
_OUTCOMES: Final[dict[type[Any], tuple[Any, str]]] = {
    WorkflowExecutionCompleted: (ChildWorkflowExecutionCompleted, "result"),
    WorkflowExecutionFailed: (ChildWorkflowExecutionFailed, "failure"),
    WorkflowExecutionCanceled: (ChildWorkflowExecutionCanceled, "failure"),
    WorkflowExecutionTimedOut: (ChildWorkflowExecutionTimedOut, "timeout_type"),
    WorkflowExecutionTerminated: (ChildWorkflowExecutionTerminated, "reason"),
}
_ABANDON: Final = "abandon"


class ResetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a reset, a retry or a fork would do, or has done.

    Attributes:
        run_id: the run whose history is kept.
        events: how many events of that are kept as they are.
        undone: the names of activities and child workflows that were asked for after
            them, in order: the code decides anew whether it asks for them.
        again: the names of activities that have no outcome in what is kept: each is run
            again from its first attempt.
        messages: the names of signals and updates that are applied again, in order.
        children_kept: the workflow ids of children that the new run waits for.
        children_undone: those of children that meet their parent close policies.
        closes: the run that is terminated for it, if one is open.
    """

    workflow_id: str
    run_id: str
    events: int
    undone: tuple[str, ...]
    again: tuple[str, ...]
    messages: tuple[str, ...]
    children_kept: tuple[str, ...]
    children_undone: tuple[str, ...]
    closes: str | None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is to go on.

    Attributes:
        cut: cuts the history, and raises if it has no such place.
        is_retry: it goes on from before what failed, unless it does already.
        may_repeat: the request may have been carried out before.
        fork_id: the workflow id of a fork, empty for its run id; None for a run in the
            place of the other.
        input: another input; only if none of the code's decisions is kept.
        version: another version of its code.
    """

    cut: Callable[[Sequence[HistoryEvent]], Cut]
    reapply: Reapply = "all"
    reason: str = ""
    request_id: str
    may_repeat: bool = False
    is_retry: bool = False
    fork_id: str | None = None
    input: Payloads | None = None
    version: str | None = None


def new_request_id() -> str:
    """An id that no other reset has."""
    return secrets.token_hex(16)


def check_reapply(reapply: object) -> Reapply:
    """Return it.

    Raises:
        InvalidResetError: it is none of the words.
    """
    if reapply not in _REAPPLIED:
        words = ", ".join(map(repr, _REAPPLIED))
        raise InvalidResetError(f"reapply is {reapply!r}: give one of {words}.")
    found: Reapply = reapply  # type: ignore[assignment]  # it is one of them
    return found


async def plan(
    connection: Connection, base: RunRecord, wish: Wish
) -> tuple[ResetRun, ResetPlan]:
    """Work out what the store is to do.

    Raises:
        InvalidResetError: the history has no such place, or cannot be used so.
        CorruptHistoryError: it cannot be read.
    """
    return await _Planning(connection, base, wish).plan()


def question(connection: Connection, base: RunRecord, wish: Wish) -> ResetRun:
    """Ask which run came of a request before: with nothing that it could go by."""
    run_id = connection.new_run_id(base.started_at)
    record = msgspec.structs.replace(base, run_id=run_id, request_id=wish.request_id)
    nowhere = (base.run_id, 0, True)
    return ResetRun(
        base_run_id=base.run_id, record=record, rows=[], expected=(nowhere,)
    )


class _Planning:
    def __init__(self, connection: Connection, base: RunRecord, wish: Wish) -> None:
        self._store = connection.store
        self._connection = connection
        self._base = base
        self._wish = wish
        self._places: list[tuple[str, int, bool]] = []

    async def plan(self) -> tuple[ResetRun, ResetPlan]:
        base, wish = self._base, self._wish
        events = await self._read(base.run_id)
        if not events:
            raise CorruptHistoryError(f"Run {base.run_id!r} has no history.")
        cut = wish.cut(events)
        if wish.input is not None and not cut.is_from_start:
            raise InvalidResetError(
                "A fork with another input can keep nothing of what the run did.",
                hint='Fork it from "first_task".',
            )
        is_fork = wish.fork_id is not None
        later = [] if is_fork else await self._find_later()
        messages = cut.messages
        for run in later:
            messages = messages + _messages_of(await self._read(run.run_id))
        opened = next((r for r in (base, *later) if r.status is RUNNING), None)
        if wish.is_retry and opened is not None:
            raise InvalidResetError(
                f"Workflow {base.workflow_id!r} goes on already, as run"
                f" {opened.run_id!r}."
            )
        children = [] if is_fork else await self._find_open_children()
        cut = await self._with_children(cut, children)
        now = max(
            self._store.now(),
            *(event.time for event in cut.kept[-1:]),
            *(run.started_at + 1 for run in (base, *later)),
        )
        run_id = self._connection.new_run_id(now)
        record, rows = self._new_run(cut, events, run_id, now, opened)
        letters, names = self._letters(messages, cut.came_before)
        kept = self._kept(cut, children)
        terminated = WorkflowExecutionTerminated(
            reason=f"reset: {wish.reason}" if wish.reason else "reset",
            identity=self._connection.identity,
            new_run_id=run_id,
        )
        operation = ResetRun(
            base_run_id=base.run_id,
            record=record,
            rows=rows,
            # What a fork keeps of its base is there whatever that does now.
            expected=() if is_fork else tuple(self._places),
            is_fork=is_fork,
            terminated_data=encode_attributes(terminated),
            attempts=_attempts_of(cut, run_id, now),
            messages=letters,
            moved_kinds=(
                *_ALWAYS_MOVED,
                *(kind.value for kind in _REAPPLIED[wish.reapply]),
            ),
            kept_children=tuple(child.first_run_id for child in kept),
            undone_children=tuple(
                child.first_run_id for child in children if child not in kept
            ),
        )
        said = ResetPlan(
            workflow_id=base.workflow_id,
            run_id=base.run_id,
            events=len(cut.kept),
            undone=cut.undone_steps(),
            again=tuple(one.activity_type for one in cut.activities),
            messages=names,
            children_kept=tuple(one.workflow_id for one in cut.children),
            children_undone=tuple(c.workflow_id for c in children if c not in kept),
            closes=None if is_fork or opened is None else opened.run_id,
        )
        return operation, said

    # --- what is there ----------------------------------------------------------------

    async def _read(self, run_id: str) -> list[HistoryEvent]:
        """Read a history, and note how far it has come."""
        events = decode_rows(await self._store.read(ReadHistory(run_id)))
        if events:
            last = events[-1]
            is_open = type(last.attributes) not in CLOSING
            self._places.append((run_id, last.event_id, is_open))
        return events

    async def _list(self, where: RunFilter) -> list[RunRecord]:
        """All runs of a filter."""
        found: list[RunRecord] = []
        while True:
            page = await self._store.read(ListRuns(self._base.namespace, where))
            found += page
            if len(page) < where.limit:
                return found
            last = page[-1].started_at, page[-1].run_id
            where = msgspec.structs.replace(where, after=last)

    async def _find_later(self) -> list[RunRecord]:
        """The runs of the base's chain that began after it, oldest first."""
        base = self._base
        runs = await self._list(RunFilter(workflow_id=base.workflow_id))
        place = base.started_at, base.run_id
        later = [
            run
            for run in reversed(runs)
            if run.first_run_id == base.first_run_id
            and (run.started_at, run.run_id) > place
        ]
        return later

    async def _find_open_children(self) -> list[RunRecord]:
        where = RunFilter(parent_run_id=self._base.run_id, status=RUNNING)
        return await self._list(where)

    # --- children ---------------------------------------------------------------------

    async def _with_children(self, cut: Cut, children: Sequence[RunRecord]) -> Cut:
        """Add what has become of children that no event says.

        Raises:
            InvalidResetError: a fork would wait for the children of another run.
        """
        facts: list[HistoryEvent] = []
        begun = {child.parent_initiated_event_id: child for child in children}
        latest = max((event.time for event in (*cut.kept, *cut.inputs)), default=0)
        for pending in cut.children:
            number = pending.initiated_event_id
            open_child = begun.get(number)
            if open_child is not None:
                if pending.run_id is None:
                    facts.append(
                        _fact(
                            ChildWorkflowExecutionStarted(
                                number,
                                pending.workflow_id,
                                open_child.first_run_id,
                                pending.workflow_type,
                            ),
                            latest,
                        )
                    )
                continue
            if pending.run_id is None:
                continue
            if self._wish.fork_id is not None:
                raise InvalidResetError(
                    f"A fork from there would wait for the child"
                    f" {pending.workflow_id!r}, which tells only its own parent.",
                    hint="Fork from before that child, or from after its end.",
                )
            if self._base.status is not RUNNING:
                outcome = await self._outcome_of(number, pending)
                if outcome is not None:
                    facts.append(_fact(outcome, latest))
        return cut.with_inputs(facts) if facts else cut

    async def _outcome_of(self, number: int, pending: Any) -> Any:
        """How a child ended whose parent was closed by then; None if it is open."""
        run_id: str | None = pending.run_id
        while run_id is not None:
            rows = await self._store.read(ReadHistory(run_id))
            terminal = decode_rows(rows[-1:])[0].attributes if rows else None
            about: Any = number, pending.workflow_id, run_id, pending.workflow_type
            run_id = next_run_id(terminal)
            found = _OUTCOMES.get(type(terminal))
            if run_id is None and found is not None:
                return found[0](*about, getattr(terminal, found[1]))
        return None

    def _kept(self, cut: Cut, children: Sequence[RunRecord]) -> list[RunRecord]:
        waited_for = {pending.initiated_event_id for pending in cut.children}
        return [c for c in children if c.parent_initiated_event_id in waited_for]

    # --- the new run ------------------------------------------------------------------

    def _new_run(
        self,
        cut: Cut,
        events: Sequence[HistoryEvent],
        run_id: str,
        now: int,
        opened: RunRecord | None,
    ) -> tuple[RunRecord, list[Any]]:
        """The row and the history of the run that goes on."""
        base, wish = self._base, self._wish
        old = events[0].attributes
        assert isinstance(old, WorkflowExecutionStarted)  # noqa: S101 - it was cut
        started = msgspec.structs.replace(
            old,
            run_id=run_id,
            request_id=wish.request_id,
            start_delay=msgspec.UNSET,
            original_run_id=msgspec.UNSET
            if cut.is_from_start
            else old.original_run_id or old.run_id,
        )
        policy = base.parent_close_policy
        if opened is None or wish.fork_id is not None:
            # Whoever waited for the other has heard how that ended.
            started = msgspec.structs.replace(started, parent_initiated_event_id=None)
            policy = None if policy is None else _ABANDON
        elif base.parent_run_id is not None:
            # Its parent may have been reset since it began.
            parent = opened.parent_run_id
            started = msgspec.structs.replace(started, parent_run_id=parent)
        if wish.fork_id is not None:
            started = self._forked(started)
            policy = None
        if wish.version is not None:
            started = msgspec.structs.replace(started, version=wish.version)
        reset = WorkflowExecutionReset(
            run_id=run_id,
            base_run_id=base.run_id,
            reset_at=now,
            reason=wish.reason,
            identity=self._connection.identity,
        )
        attributes, memo, patches = said_of(cut.kept, started)
        state, checkpoint = cut.state.published, cut.state.checkpoint_event_id
        record = msgspec.structs.replace(
            record_of(started, now, policy),
            wake_at=at_once(now),
            version=wish.version or base.version,
            state=None if state is None else msgspec.json.encode(state).decode(),
            checkpoint_event_id=checkpoint or 0,
            attributes=pack(with_patches(attributes, patches)),
            memo=pack(memo),
        )
        return record, encode_events(run_id, history_of(cut, started, reset))

    def _forked(self, started: WorkflowExecutionStarted) -> WorkflowExecutionStarted:
        wish, run_id = self._wish, started.run_id
        if wish.input is not None:
            started = msgspec.structs.replace(started, input=wish.input)
        workflow_id = wish.fork_id or run_id
        return msgspec.structs.replace(
            started,
            workflow_id=workflow_id,
            first_run_id=run_id,
            continued_from_run_id=None,
            parent_workflow_id=None,
            parent_run_id=None,
            root_workflow_id=workflow_id,
            root_run_id=run_id,
        )

    # --- messages ---------------------------------------------------------------------

    def _letters(
        self, messages: Sequence[HistoryEvent], came_before: int
    ) -> tuple[tuple[MessageRecord, ...], tuple[str, ...]]:
        """What the run is to hear again, and the names of that."""
        letters: list[MessageRecord] = []
        names: list[str] = []
        kinds = _REAPPLIED[self._wish.reapply]
        for place, event in enumerate(messages):
            kind, name, request_id, body = _letter(event)
            if place < came_before or kind in kinds:
                letter = MessageRecord(
                    run_id="",
                    kind=kind.value,
                    request_id=request_id or f"{self._base.run_id}/{event.event_id}",
                    data=encode_message(body),
                    created_at=event.time,
                )
                letters.append(letter)
                names.append(name)
        return tuple(letters), tuple(names)


def _fact(what: Any, time: int) -> HistoryEvent:
    return HistoryEvent(1, UNPROCESSED, time, what)


def _letter(event: HistoryEvent) -> tuple[MessageKind, str, str, Any]:
    what = event.attributes
    if isinstance(what, WorkflowExecutionUpdateAccepted):
        update = UpdateRequest(
            what.update_id, what.update_name, what.input, what.identity, what.headers
        )
        request_id = update_request_id(what.update_id)
        return MessageKind.UPDATE, what.update_name, request_id, update
    assert isinstance(what, WorkflowExecutionSignaled)  # noqa: S101 - of messages
    return MessageKind.SIGNAL, what.signal_name, what.request_id, what


def _messages_of(events: Iterable[HistoryEvent]) -> list[HistoryEvent]:
    """The messages of a later run, but for those that it was handed by the one before.

    What was applied again there has its request id, and is heard once.
    """
    return [
        event
        for event in events
        if isinstance(event.attributes, Message)
        and "/unread/" not in getattr(event.attributes, "request_id", "")
    ]


def _attempts_of(cut: Cut, run_id: str, now: int) -> tuple[AttemptRecord, ...]:
    """What is under way begins anew: with a first attempt that has not begun."""
    return tuple(
        AttemptRecord(
            run_id=run_id,
            scheduled_event_id=one.scheduled_event_id,
            attempt=1,
            activity_type=one.activity_type,
            state=AttemptState.BACKOFF,
            due_at=now,
        )
        for one in cut.activities
    )

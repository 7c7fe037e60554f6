"""What must be true of one run: its rows against its own history.

Pure functions of what was read at one instant. The history is folded by
`durable.core.folding.fold`, which shares no code with the replay machine.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from durable import limits
from durable.api.workflows.versions import is_version
from durable.client.descriptions.description import decode_stuck
from durable.core.folding.fold import fold
from durable.core.folding.run_state import RunState
from durable.core.history.codec import UNREADABLE, decode_rows
from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    ActivityTaskCanceled,
    ActivityTaskScheduled,
    HistoryEvent,
)
from durable.core.history.payload import (
    BINARY_PLAIN,
    JSON_PLAIN,
    Failure,
    Payload,
    is_paused,
    summary_of,
)
from durable.core.machines.retry import OUTCOME_UNKNOWN
from durable.doctor.findings import Check, Finding, key_of
from durable.doctor.mail_checks import Breach, check_messages
from durable.errors import CorruptHistoryError
from durable.options import ParentClosePolicy
from durable.store.queries import ListWorkers
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    LoadedRun,
    MessageKind,
    MessageRecord,
    RunRecord,
    RunStatus,
    WorkerRecord,
    due_since,
)
from durable.store.store import Store


class Workers:
    """The workers that have a row, as of one moment."""

    def __init__(self, records: Iterable[WorkerRecord], now: int) -> None:
        self.now = now
        self.known = {record.worker_id: record for record in records}
        self.live = {
            worker_id
            for worker_id, record in self.known.items()
            if record.lease_expires_at > now
        }

    @classmethod
    async def read(cls, store: Store) -> Workers:
        """Read them."""
        records = await store.read(ListWorkers())
        return cls(records, store.now())

    def serve(self, namespace: str, task_queue: str) -> bool:
        """Whether a live one works on that queue."""
        return any(
            (self.known[worker_id].namespace, self.known[worker_id].task_queue)
            == (namespace, task_queue)
            for worker_id in self.live
        )


# Longer than a worker takes to look for work of its own accord (half a lease), and than
# a busy worker may be late.
PATIENCE: Final = round(1.5 * limits.LEASE_SECONDS * 1_000_000)
# A run begins later than the one that it continues, be it by a microsecond; and clocks
# are corrected by less than a second all the time.
_SOON: Final = 1_000_000
# What a run's row repeats of its first event; a run may be moved to another version.
_REPEATED: Final = (
    "namespace workflow_id run_id workflow_type task_queue first_run_id request_id"
    " version continued_from_run_id parent_workflow_id parent_run_id"
    " parent_initiated_event_id root_run_id"
)
_CLOSE_POLICIES: Final = {None, *(policy.value for policy in ParentClosePolicy)}
_ENCODINGS: Final = frozenset({JSON_PLAIN, BINARY_PLAIN})
_PATIENT: Final = frozenset({MessageKind.UPDATE.value, MessageKind.QUERY.value})
_OPEN_ATTEMPTS: Final = frozenset({AttemptState.BACKOFF, AttemptState.STARTED})
_failure_decoder: Final = msgspec.json.Decoder(Failure)
_payload_decoder: Final = msgspec.json.Decoder(Payload)


class Examined(msgspec.Struct, frozen=True):
    """What was found wrong with a run, and its state, if its history can be read."""

    findings: list[Finding]
    state: RunState | None


def examine_run(loaded: LoadedRun, workers: Workers) -> Examined:
    """Check one run, read at one instant and whole, against its own history."""
    state = None
    record = loaded.record
    if record.damage is not None:
        # Of its row nothing can be believed; its history may have its own harm.
        breaches: list[Breach] = [(Check.PAYLOADS, record.damage)]
        try:
            violations = fold(decode_rows(loaded.rows)).violations
            breaches += [(Check(found.rule), found.message) for found in violations]
        except CorruptHistoryError as error:
            breaches.append((Check.PAYLOADS, error.message))
        key = key_of(record)
        return Examined([Finding(check, key, text) for check, text in breaches], None)
    breaches = [*_check_failures(loaded)]
    try:
        events = decode_rows(loaded.rows)
    except CorruptHistoryError as error:
        breaches.append((Check.PAYLOADS, error.message))
    else:
        state = fold(events)
        breaches += _breaches(loaded, workers, events, state)
    key = key_of(loaded.record)
    return Examined([Finding(check, key, text) for check, text in breaches], state)


def _breaches(
    loaded: LoadedRun, workers: Workers, events: Sequence[HistoryEvent], state: RunState
) -> Iterator[Breach]:
    yield from _check_payloads(loaded, events)
    for violation in state.violations:
        yield Check(violation.rule), violation.message
    yield from _check_status(loaded.record, state)
    yield from _check_identity(loaded.record, state)
    yield from _check_progress(loaded.record, state)
    yield from _check_attempts(loaded.attempts, events)
    yield from check_messages(loaded, events, state)
    yield from _check_lease(loaded.record, workers)
    if loaded.record.status is not RunStatus.RUNNING:
        return
    yield from _find_doubts(loaded, state)
    if state.paused is not None or is_paused(loaded.record.stuck):
        return
    if loaded.record.stuck is not None:
        failure = decode_stuck(loaded.record.stuck) or Failure()
        text = summary_of(failure).partition("\n")[0]
        yield Check.STUCK, f"parked since its code raised {text}"
        return
    problem = _find_lost(loaded, state, workers)
    if problem is not None:
        yield problem


def _find_doubts(loaded: LoadedRun, state: RunState) -> Iterator[Breach]:
    """Activities of which an operator is to say what they have done."""
    latest = {row.scheduled_event_id: row for row in loaded.attempts}
    for activity in state.pending_activities:
        number = activity.scheduled_event_id
        if not activity.waits_in_doubt or number not in latest:
            continue
        failure, task = latest[number].failure, loaded.tasks.get(number)
        is_external = task is not None and task.value == "external"
        if is_external and failure is not None and OUTCOME_UNKNOWN in failure:
            yield (
                Check.IN_DOUBT,
                f"activity {activity.activity_type!r} (id {activity.activity_id}) is in"
                " doubt: say by 'durable resolve' what it has done",
            )


def _check_failures(loaded: LoadedRun) -> Iterator[Breach]:
    """V10: what the tables beside the history hold can be read."""
    texts = [("why it is stuck", loaded.record.stuck)]
    texts += [
        (f"attempt {row.attempt} of event {row.scheduled_event_id}", row.failure)
        for row in loaded.attempts
    ]
    for what, text in texts:
        if text is None:
            continue
        try:
            _failure_decoder.decode(text)
        except UNREADABLE as error:
            yield Check.PAYLOADS, f"the failure in {what} cannot be read: {error}"


def _check_payloads(
    loaded: LoadedRun, events: Sequence[HistoryEvent]
) -> Iterator[Breach]:
    """V10: every payload has an encoding that is allowed, and a size within limits."""
    for row, event in zip(loaded.rows, events, strict=True):
        # Plain JSON, the usual case, is written without a label; do not walk it.
        if '"encoding"' not in row[5] and len(row[5]) <= limits.PAYLOAD_BYTES_MAX:
            continue
        for payload in payloads_of(event.attributes):
            if payload.encoding not in _ENCODINGS:
                yield (
                    Check.PAYLOADS,
                    f"event {event.event_id} holds a value of the encoding"
                    f" {payload.encoding!r}, which is not allowed here",
                )
            elif payload.size > limits.PAYLOAD_BYTES_MAX:
                yield (
                    Check.PAYLOADS,
                    f"event {event.event_id} holds a value of {payload.size:,} bytes",
                )


def payloads_of(value: Any) -> Iterator[Payload]:
    if isinstance(value, Payload):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from payloads_of(getattr(value, field))
    elif isinstance(value, tuple | list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]  # of any type
            yield from payloads_of(item)
    elif isinstance(value, dict):
        yield from payloads_of(list(value.values()))  # pyright: ignore[reportUnknownArgumentType]  # of any type


def _check_status(record: RunRecord, state: RunState) -> Iterator[Breach]:
    """V3: the row and the history agree on how the run ended, or that it has not."""
    if record.status.value != state.status:
        yield (
            Check.STATUS,
            f"its row says {record.status.value}, its history says {state.status}",
        )
    elif (record.closed_at is not None) != state.is_closed:
        yield (
            Check.STATUS,
            f"it is {record.status.value}, and its row says it closed at"
            f" {record.closed_at}",
        )


def _check_identity(record: RunRecord, state: RunState) -> Iterator[Breach]:
    """V11: the row repeats what the first event says."""
    started = state.started
    if started is None:
        return
    for field in _REPEATED.split():
        ours, theirs = getattr(record, field), getattr(started, field)
        # Of a parent that was reset since, another run has taken its place.
        is_adopted = field == "parent_run_id" and None not in (ours, theirs)
        is_moved = field == "version" and is_version(ours)
        if ours != theirs and not (is_moved or is_adopted):
            yield (
                Check.ROWS,
                f"its row has the {field} {ours!r}, its history {theirs!r}",
            )
    if (record.parent_run_id is None) is not (record.parent_close_policy is None) or (
        record.parent_close_policy not in _CLOSE_POLICIES
    ):
        yield (
            Check.ROWS,
            f"its row has the parent_close_policy {record.parent_close_policy!r}",
        )
    if record.started_at != state.started_at:
        yield (
            Check.ROWS,
            f"its row says it started at {record.started_at}, its history at"
            f" {state.started_at}",
        )


def _check_progress(record: RunRecord, state: RunState) -> Iterator[Breach]:
    """V10 and V11: the row repeats what the newest events of a kind say."""
    newest = state.checkpoint_event_id or 0
    if record.checkpoint_event_id != newest:
        yield (
            Check.ROWS,
            f"its row has the newest checkpoint at event {record.checkpoint_event_id},"
            f" its history at event {newest}",
        )
    published = None
    if record.state is not None:
        try:
            published = _payload_decoder.decode(record.state)
        except UNREADABLE as error:
            yield Check.PAYLOADS, f"its published state cannot be read: {error}"
            return
    if published != state.published:
        yield Check.ROWS, "its row shows another state than its code published last"


def _check_attempts(
    attempts: Sequence[AttemptRecord], events: Sequence[HistoryEvent]
) -> Iterator[Breach]:
    """V5 and V11: attempts are 1 to k of activities that were scheduled."""
    by_event: dict[int, list[AttemptRecord]] = {}
    for row in attempts:
        by_event.setdefault(row.scheduled_event_id, []).append(row)
    if not by_event:
        return
    scheduled = {
        event.event_id: event.attributes
        for event in events
        if isinstance(event.attributes, ActivityTaskScheduled)
    }
    outcomes = {
        event.attributes.scheduled_event_id: event.attributes
        for event in events
        if isinstance(event.attributes, ACTIVITY_OUTCOMES)
    }
    for event_id, rows in by_event.items():
        activity = scheduled.get(event_id)
        if activity is None or activity.activity_type != rows[0].activity_type:
            yield (
                Check.ROWS,
                f"there are attempts of {rows[0].activity_type!r} for event {event_id},"
                " which schedules no such activity",
            )
            continue
        what = f"activity {activity.activity_type!r} (event {event_id})"
        numbers = [row.attempt for row in rows]
        count = numbers[-1]
        most = activity.settings.retry_policy.max_attempts
        outcome = outcomes.get(event_id)
        if numbers != list(range(1, count + 1)):
            yield Check.ATTEMPTS, f"{what} has the attempts {numbers}"
        elif (
            most and count - sum(row.state is AttemptState.LOST for row in rows) > most
        ):
            yield Check.ATTEMPTS, f"{what} has {count} attempts of at most {most}"
        elif any(row.state in _OPEN_ATTEMPTS for row in rows[:-1]):
            yield Check.ATTEMPTS, f"{what} has an open attempt before its last one"
        elif isinstance(outcome, ActivityTaskCanceled):
            pass  # of one that waited elsewhere its run does not know the attempt
        elif outcome is not None and outcome.attempt < count:
            yield (
                Check.ATTEMPTS,
                f"{what} ended with attempt {outcome.attempt}, but has {count}",
            )
        elif outcome is not None and rows[-1].state in _OPEN_ATTEMPTS:
            yield (
                Check.ROWS,
                f"{what} has its outcome, but attempt {count} is still"
                f" {rows[-1].state.value!r}",
            )


def _check_lease(record: RunRecord, workers: Workers) -> Iterator[Breach]:
    """V14: closed runs hold nothing; an owner can be found dead."""
    if record.status is RunStatus.RUNNING:
        if record.owner is not None and record.owner not in workers.known:
            yield (
                Check.LEASES,
                f"it belongs to worker {record.owner!r}, which has no row, so that"
                " nobody will take it over",
            )
        return
    for field in ("owner", "wake_at", "stuck"):
        value = getattr(record, field)
        if value is not None:
            yield Check.LEASES, f"it has closed, but still has the {field} {value!r}"


def _find_lost(loaded: LoadedRun, state: RunState, workers: Workers) -> Breach | None:
    """V12 and V13: something that is recorded will wake the run, and in time."""
    record, now = loaded.record, workers.now
    latest = {row.scheduled_event_id: row for row in loaded.attempts}
    due = _due_at(record, state, latest)
    if due is not None and (record.wake_at is None or record.wake_at > due):
        wakes = "never" if record.wake_at is None else f"at {record.wake_at}"
        return Check.LOST_WAKE_UP, f"it is due at {due}, but its row wakes {wakes}"
    is_soon = record.wake_at is not None and record.wake_at <= now + _SOON
    if state.unprocessed and not record.is_active and not is_soon:
        return (
            Check.LOST_WAKE_UP,
            f"{state.unprocessed} recorded inputs wait for a workflow task that nothing"
            " calls for",
        )
    if not record.is_active and not is_soon:
        under_way = _find_under_way(state, latest, loaded.tasks)
        if under_way is not None:
            return (
                Check.WAITING,
                f"{under_way} is under way, but its row says that nothing is: nobody"
                " would go on with it after a crash",
            )
    is_served = workers.serve(record.namespace, record.task_queue)
    if record.owner in workers.live if record.is_active else is_served:
        return _find_overdue(record, loaded.messages, now)
    return None


def _due_at(
    record: RunRecord, state: RunState, latest: dict[int, AttemptRecord]
) -> int | None:
    due = [] if (first := state.next_due_at()) is None else [first]
    if not record.is_active:
        # An active run's worker has its queue of attempts in memory, or loads them.
        due += [
            row.due_at
            for activity in state.pending_activities
            if (row := latest.get(activity.scheduled_event_id)) is not None
            and row.state is AttemptState.BACKOFF
        ]
    return min(due, default=None)


def _find_under_way(
    state: RunState, latest: dict[int, AttemptRecord], elsewhere: Container[int]
) -> str | None:
    """Name something that only a worker which loads the run would go on with."""
    for activity in state.pending_activities:
        if activity.scheduled_event_id in elsewhere:
            continue
        row = latest.get(activity.scheduled_event_id)
        if row is None or row.state is not AttemptState.BACKOFF:
            return f"activity {activity.activity_type!r}"
    for child in state.pending_children:
        if child.run_id is None:
            return f"the start of child {child.workflow_id!r}"
    for delivery in state.pending_deliveries:
        return f"a message to {delivery.workflow_id!r}"
    return None


def _find_overdue(
    record: RunRecord, messages: Sequence[MessageRecord], now: int
) -> Breach | None:
    since = None if record.wake_at is None else due_since(record.wake_at)
    if since is not None and since + PATIENCE <= now:
        if not record.is_active:
            return None  # whether a worker knows its workflow is told of all such
        late = (now - since) / 1_000_000
        what = f"it should have been woken {late:.0f} s ago"
    else:
        # An update may wait until its run has a handler for it.
        waits = [m for m in messages if m.kind not in _PATIENT]
        if not waits or waits[0].created_at + PATIENCE > now:
            return None
        late = (now - waits[0].created_at) / 1_000_000
        what = f"a message has been waiting for {late:.0f} s"
    if not record.is_active:
        return Check.LOST_WAKE_UP, f"{what}, and its row calls for nobody"
    return Check.LOST_WAKE_UP, f"{what}, and its worker {record.owner!r} lives"

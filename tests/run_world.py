"""One run of the machine, and a world around it in which nothing happens by itself.

The store is a list, a few dicts and a queue; code is driven, writes end, reads are
answered and attempts end when a test says so. There is no loop, no database, no clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

import durable
from durable import (
    RetryPolicy,
    Signal,
    activity,
    external,
    query,
    start_child,
    update,
    workflow,
)
from durable.api.registry import REGISTRY
from durable.converter.failures import failure_of
from durable.core.codec import Row, decode_rows
from durable.core.events import (
    ActivityTaskScheduled,
    HistoryEvent,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
)
from durable.core.messages import encode_message
from durable.core.payload import Failure, Payload
from durable.core.replayer import Replayer
from durable.core.workflow_task import TaskInput, UpdateRequest, WorkflowTask
from durable.errors import CommitUnknownError, HistoryTakenError, LeaseLostError
from durable.runs import inputs, machine
from durable.runs.effects import Effects, Recording, Then
from durable.runs.incoming import key_of
from durable.runs.live_run import Attempt, LiveRun, Terms, new_run
from durable.runs.states import CREATING, DRIVING, REPLAYING, UNREAD
from durable.store import policies
from durable.store.beginnings import record_of
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    CommitTask,
    Committed,
    LoadedRun,
    MailArrived,
    MessageKind,
    MessageRecord,
    ParkRun,
    RecordAttempts,
    ReplyRecord,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
)
from durable.worker.guards import install_guards

RUN: Final = "run"
START: Final = 1_700_000_000_000_000
SECOND: Final = 1_000_000

# --- code -----------------------------------------------------------------------------


@dataclass
class Letter:
    """What the code is to do."""

    do: str = ""


letters: Final = Signal("letters", Letter)
BROKEN: Final = [False]
"""Whether the code has a bug at present."""


@activity(name="machine.act", retry=RetryPolicy(max_attempts=3, initial_interval=1.0))
async def act() -> int:
    """Is never called: what becomes of its attempts is told by the test."""
    return 1


@activity(name="machine.act_once", retry=None, at_most_once=True)
async def act_once() -> int:
    """The same, at most once."""
    return 1


@workflow(name="machine.Obeyer")
class Obeyer:
    """Obeys letters."""

    def __init__(self) -> None:
        self.acts: list[asyncio.Task[int]] = []
        self.count = 0

    @durable.run
    async def run(self) -> int:
        """Obey until one says that it is over."""
        while True:
            letter = await letters.receive()
            self.count += 1
            match letter.do:
                case "act":
                    self.acts.append(asyncio.ensure_future(act()))
                case "act once":
                    self.acts.append(asyncio.ensure_future(act_once()))
                case "cancel":
                    for one in self.acts:
                        one.cancel()
                    self.acts.clear()
                case "child":
                    self.acts.append(asyncio.ensure_future(self.raise_child()))
                case "send":
                    await external("other").signal(letters(Letter()))
                case "sleep":
                    await asyncio.sleep(2)
                case "bug" if BROKEN[0]:
                    raise NameError("a bug")
                case "end":
                    return self.count
                case _:
                    pass

    async def raise_child(self) -> int:
        """Start a child and wait for it."""
        child = await start_child(Obeyer.run.options(id="kid")())
        return await child

    @query
    def counted(self) -> int:
        """How many letters were received."""
        return self.count

    @update
    def add(self, number: int) -> int:
        """Accept a number."""
        return number

    @add.validator
    def check(self, number: int) -> None:
        if number < 0:
            raise ValueError("no such number")


def payload(number: int) -> Payload:
    """A number as it is recorded."""
    return Payload(json=msgspec.Raw(f"{number}".encode()))


def letter(request_id: str, do: str = "") -> WorkflowExecutionSignaled:
    """A signal."""
    made = letters(Letter(do))
    return WorkflowExecutionSignaled("letters", made.input, request_id=request_id)


def addition(update_id: str, number: int = 1) -> UpdateRequest:
    """An update; a negative number is refused."""
    return UpdateRequest(update_id, "add", (payload(number),))


# --- the world ------------------------------------------------------------------------


@dataclass(eq=False)
class Submitted:
    """One write in the queue of the store, of a worker."""

    operation: StartRun | CommitTask | ParkRun | RecordAttempts
    run: LiveRun
    worker_id: str
    recording: Recording | None = None


class RunWorld:
    """The store, the code and the pool of one run, all by hand.

    Attributes:
        run: the run, while it is in memory.
        rows: its committed events.
        record: its row, once it was created.
        inbox: its messages, by sequence.
        attempt_rows: rows of attempts.
        queue: what was submitted and has no answer, in order.
        running: attempts that the pool has begun.
        queued: attempts that wait for room.
        children, deliveries: what is to be started, or sent again.
        answers: what each token was told.
        news: what was said of updates.
        looks: how often each question was answered; None counts as well.
    """

    def __init__(self, *, max_tries: int = 3) -> None:
        install_guards()
        self.now = START
        self.max_tries = max_tries
        self.workers = 1
        self.terms = self.new_terms()
        self.run: LiveRun | None = None
        self.rows: list[Row] = []
        self.record: RunRecord | None = None
        self.inbox: dict[int, MessageRecord] = {}
        self.attempt_rows: dict[tuple[int, int], AttemptRecord] = {}
        self.replies: dict[str, ReplyRecord] = {}
        self.sequence = 0
        self.queue: deque[Submitted] = deque()
        self.task: WorkflowTask | None = None
        self.wants_mail = self.wants_run = False
        self.seen_mail: list[MessageRecord] | None = None
        self.running: list[Attempt] = []
        self.queued: list[Attempt] = []
        self.begun: set[tuple[int, int]] = set()
        self.unwritten: list[Recording] = []
        self.children: list[HistoryEvent] = []
        self.deliveries: list[HistoryEvent] = []
        self.answers: dict[Any, list[bool]] = {}
        self.news: list[tuple[str, Any]] = []
        self.looks: Counter[Any] = Counter()
        self.creations: list[Any] = []
        self.wake_at: int | None = None
        self.knows = True
        self.mends = True
        self.harms = False
        self.sent: dict[str, TaskInput] = {}
        """Messages whose sender was told that it cannot be given by hand."""
        self.mailed: list[str] = []
        """Messages that came by mail in the end, in their order."""
        self.lost: set[str] = set()
        """Messages that came when there was no open run."""

    def new_terms(self) -> Terms:
        """What a worker tells its runs."""
        return Terms(
            worker_id=f"worker {self.workers}",
            max_tries=self.max_tries,
            can_run=lambda queue, kind: True,
            knows_activity=lambda name: self.knows,
            new_run_id=lambda: "another run",
            new_replayer=lambda: Replayer(
                REGISTRY.code_of, on_unhandled=lambda context: None
            ),
            is_observed=True,
        )

    # --- what the machine says --------------------------------------------------------

    def feed(self, given: Any, run: LiveRun | None = None) -> Effects:
        """Give the run something and carry out what can be done at once."""
        run = run or self.run
        assert run is not None
        return self.carry_out(run, machine.handle(run, given, self.now))

    def carry_out(self, run: LiveRun, effects: Effects) -> Effects:
        """Do what a worker does, or remember that it is to be done."""
        if effects.creation is not None:
            self.creations.append(effects.creation)
        given_back: list[TaskInput] = []
        for token, is_durable in effects.tell:
            self.answers[token].append(is_durable)
            assert not is_durable or self.is_committed(token[0]), token
            if not is_durable:
                given_back.append(self.sent[token[0]])
        for update_id, what in effects.news:
            self.news.append((update_id, what))
            if what is None:
                given_back.append(self.sent[update_id])
            elif not isinstance(what, Failure):
                assert self.is_committed(update_id), update_id
        for attempt in (*effects.stop, *effects.unheard):
            self._let_go(attempt)
        for recording in effects.record:
            self._submit(Submitted(recording.operation, run, "", recording))
        for attempt in effects.begin:
            self._begin(attempt)
        self.queued += [attempt for attempt, _ in effects.seek]
        self.children += effects.start
        self.deliveries += effects.deliver
        if effects.write is not None:
            assert run.operation is effects.write
            assert not any(
                one.recording is None for one in self.queue if one.run is run
            )
            assert self.task is None or run is not self.run, "a drive beside a write"
            self._submit(Submitted(effects.write, run, ""))
        if effects.read_mail:
            assert not self.wants_mail
            self.wants_mail = True
        if effects.read_run:
            assert run.state is UNREAD
            assert not self.wants_run
            self.wants_run, self.task = True, None
        if effects.wake_at is not None:
            self.wake_at = min(effects.wake_at, self.wake_at or effects.wake_at)
        if effects.drive is not None:
            assert not any(
                one.recording is None for one in self.queue if one.run is run
            )
            assert self.task is None
            self.task = effects.drive
        if effects.left is not None and run is self.run:
            self._left()
        for token in effects.unanswered:
            self.looks[token] += 1
        self._show(run, effects)
        for event in given_back:
            self.put(event)
        if effects.error is not None:
            raise effects.error
        for attempt in effects.mend:
            self.mend(attempt)
        for attempt, resolution in effects.resolve:
            if resolution.result is None:
                self.feed(inputs.AttemptRepeated(attempt), run)
            else:
                self.feed(inputs.AttemptMended(attempt, resolution.result), run)
        return effects

    def _show(self, run: LiveRun, effects: Effects) -> None:
        for number, token in enumerate(effects.ask, 1):
            self.looks[token] += 1
            if self.harms:
                self.harms = False
                run.replayer.is_harmed = True
                self.feed(inputs.Harmed(), run)
                for later in effects.ask[number:]:
                    self.feed(inputs.Asked(later), run)
                return

    def _left(self) -> None:
        run, self.run = self.run, None
        self.wants_mail = self.wants_run = False
        self.seen_mail = self.task = self.wake_at = None
        assert run is not None
        run.replayer.tear_down()
        assert not [a for a in self.running if a.run is run and not a.is_over]

    def _let_go(self, attempt: Attempt) -> None:
        if attempt in self.queued:
            self.queued.remove(attempt)
        if attempt.is_over and attempt in self.running:
            self.running.remove(attempt)

    def _begin(self, attempt: Attempt) -> None:
        key = attempt.scheduled_event_id, attempt.attempt
        row = self.attempt_rows.get(key)
        if row is None:
            assert attempt.attempt == 1, "it has no row"
            assert any(
                event.event_id == key[0]
                and isinstance(event.attributes, ActivityTaskScheduled)
                for event in self.events()
            ), "it is not scheduled"
        else:
            assert row.state is AttemptState.STARTED, row
        assert key not in self.begun, f"{key} is begun twice"
        self.begun.add(key)
        self.running.append(attempt)

    def _submit(self, submitted: Submitted) -> None:
        submitted.worker_id = submitted.run.terms.worker_id
        self.queue.append(submitted)

    def mend(self, attempt: Attempt) -> None:
        """Say what today's code makes of an attempt that has returned."""
        problem = attempt.problem or Failure()
        if self.mends:
            self.feed(inputs.AttemptMended(attempt, payload(1)), attempt.run)
        else:
            self.feed(inputs.AttemptStillUnrecorded(attempt, problem), attempt.run)

    # --- what is committed ------------------------------------------------------------

    def events(self) -> list[HistoryEvent]:
        """What was committed."""
        return decode_rows(self.rows)

    def keys(self) -> list[str]:
        """The request ids of committed messages and updates, in order."""
        found: list[str] = []
        for event in self.events():
            what = event.attributes
            if isinstance(what, WorkflowExecutionUpdateAccepted):
                found.append(what.update_id)
            elif isinstance(what, WorkflowExecutionSignaled):
                found.append(what.request_id)
        return found

    def is_committed(self, key: str) -> bool:
        """Whether a message is in the history."""
        return key in self.keys()

    @property
    def is_open(self) -> bool:
        """The run has not closed."""
        return self.record is not None and self.record.status is RunStatus.RUNNING

    # --- what a test does -------------------------------------------------------------

    def start(
        self, *first: TaskInput, drive: bool = True, run_timeout: int | None = None
    ) -> LiveRun:
        """Begin to create the run."""
        definition = Obeyer.run().definition
        started = WorkflowExecutionStarted(
            workflow_type=definition.name,
            input=(),
            task_queue="default",
            workflow_id=RUN,
            run_id=RUN,
            first_run_id=RUN,
            request_id=RUN,
            version=definition.version,
            run_timeout=run_timeout,
        )
        run = self.run = new_run(started, self.terms, CREATING, self.now)
        request = StartRun(record=record_of(started, self.now), rows=[])
        self.carry_out(run, machine.begin(run, request, first, "creator"))
        if drive:
            self.drive()
        return run

    def at_rest(self) -> LiveRun:
        """The run, created, and with nothing to do."""
        run = self.start()
        self.store()
        return run

    def drive(self) -> Effects | None:
        """Drive the code, if that is wanted."""
        run, task = self.run, self.task
        if (
            task is None
            or run is None
            or run.state not in (CREATING, DRIVING, REPLAYING)
        ):
            return None
        self.task = None
        return self.feed(inputs.Driven(run.replayer.process(task)))

    def drive_on(self) -> None:
        """Drive it as far as it goes: nobody outside ever comes between."""
        while self.drive() is not None:
            pass

    def store(self, outcome: str = "ok") -> Effects | None:
        """Let the write that is next have its outcome."""
        if not self.queue:
            return None
        one = self.queue.popleft()
        result: Any = None
        error: Exception | None = None
        if outcome == "lease lost" or one.worker_id != self.terms.worker_id:
            error = LeaseLostError("gone", worker_id=one.worker_id)
        elif outcome == "taken":
            error = HistoryTakenError("taken")
        elif outcome == "strange":
            error = ValueError("strange")
        elif outcome == "unknown":
            error = CommitUnknownError("unknown")
        else:
            try:
                result = self._apply(one.operation)
            except HistoryTakenError as refused:
                error = refused
            if outcome == "answer lost":
                result, error = None, error or CommitUnknownError("answer lost")
        given: Any
        if one.recording is not None:
            given = inputs.Recorded(one.recording, error)
        else:
            given = inputs.Settled(result) if error is None else inputs.Refused(error)
        if outcome == "lease lost" and one.worker_id == self.terms.worker_id:
            self.join()
            if self.run is not one.run:
                self.leave()
        effects = self.feed(given, one.run)
        if one.recording is not None and error is not None:
            self.unwritten.append(one.recording)
        return effects

    def hold_again(self) -> bool:
        """Tell of outcomes that are held and not written, as a worker does later."""
        unwritten, self.unwritten = self.unwritten, []
        for recording in unwritten:
            attempt = recording.attempt
            if recording.then is Then.HOLD and attempt.run is self.run:
                self.feed(inputs.HoldAgain(attempt, recording.row_state))
        return bool(unwritten)

    def join(self) -> None:
        """Be another worker from now on."""
        self.workers += 1
        self.terms = self.new_terms()

    def _apply(self, operation: Any) -> Any:
        if isinstance(operation, StartRun):
            if self.record is not None:
                return Started(self.record.run_id, created=False)
            self.record, self.rows = operation.record, [*operation.rows]
            return Started(RUN, created=True)
        if self.record is None or not self.is_open:
            raise HistoryTakenError("closed")
        if self.record.owner != self.terms.worker_id:
            raise HistoryTakenError("another's")
        change: dict[str, Any] = {}
        result: Any = None
        if isinstance(operation, CommitTask):
            result = self._commit(operation, change)
            if isinstance(result, MailArrived):
                return result
        elif isinstance(operation, ParkRun):
            change = {"stuck": operation.stuck, "is_active": False, "wake_at": None}
        else:
            change = {"is_active": operation.is_active, "wake_at": operation.wake_at}
            self._put_attempts(operation.attempts)
        self.record = msgspec.structs.replace(self.record, **change)
        return result

    def _commit(self, operation: CommitTask, change: dict[str, Any]) -> Any:
        if policies.must_see_mail(operation):
            unseen = policies.find_unseen(operation, [*self.inbox.values()])
            if unseen:
                return MailArrived(messages=unseen)
        positions = [row[1] for row in operation.rows]
        expected = range(len(self.rows) + 1, len(self.rows) + 1 + len(positions))
        if positions != [*expected]:
            raise HistoryTakenError("position")
        self.rows += operation.rows
        self._put_attempts(operation.attempts)
        for reply in operation.replies:
            self.replies[reply.request_id] = reply
        for number, message in [*self.inbox.items()]:
            if (
                number in operation.consumed
                or message.request_id in operation.consumed_requests
            ):
                del self.inbox[number]
        if operation.status is not None:
            assert not [m for m in self.inbox.values() if m.kind != "query"]
            self.inbox.clear()
            change |= {
                "status": operation.status,
                "owner": None,
                "is_active": False,
                "wake_at": None,
            }
        elif operation.update_run:
            change |= {
                "is_active": operation.is_active,
                "wake_at": operation.wake_at,
                "stuck": None,
            }
        if not policies.has_committed(operation):
            return None
        return Committed(deliveries=("other run",) * len(operation.messages))

    def _put_attempts(self, attempts: tuple[AttemptRecord, ...]) -> None:
        for row in attempts:
            self.attempt_rows[row.scheduled_event_id, row.attempt] = row

    # --- messages ---------------------------------------------------------------------

    def tell(
        self, event: TaskInput, token: Any = None, *, may_repeat: bool = True
    ) -> Any:
        """Hand a message in; a run that takes none gets it by mail."""
        key = event.update_id if isinstance(event, UpdateRequest) else key_of(event)
        self.sent.setdefault(key, event)
        if token is None:
            token = key, len(self.answers)
        is_update = isinstance(event, UpdateRequest)
        if not is_update:
            self.answers[token] = []
        self.drive_on()
        if self.run is None or self.terms.is_draining:
            if not is_update:
                self.answers[token].append(False)
            self.put(event)
        elif is_update:
            self.feed(inputs.Told(event))
        else:
            self.feed(inputs.Told(event, token, may_repeat))
        return token

    def put(self, event: TaskInput, kind: str = "") -> bool:
        """Commit a message to the inbox, and let the run know."""
        key = event.update_id if isinstance(event, UpdateRequest) else key_of(event)
        self.sent.setdefault(key, event)
        if not self.is_open:
            self.lost.add(key)
            return False
        if not kind:
            is_update = isinstance(event, UpdateRequest)
            kind = MessageKind.UPDATE.value if is_update else MessageKind.SIGNAL.value
        if not self.is_committed(key):
            self.mailed.append(key)
        self.write_mail(kind, key_of(event), encode_message(event))
        if self.run is not None:
            self.feed(inputs.MailCame())
        return True

    def write_mail(self, kind: str, request_id: str, data: str) -> int:
        """Put a row into the inbox, unless that request is there."""
        if any(m.request_id == request_id for m in self.inbox.values()):
            return self.sequence
        self.sequence += 1
        self.inbox[self.sequence] = MessageRecord(
            run_id=RUN,
            kind=kind,
            request_id=request_id,
            data=data,
            created_at=self.now,
            sequence=self.sequence,
        )
        return self.sequence

    def see_mail(self) -> None:
        """Read the inbox; the answer is on its way."""
        if self.wants_mail and self.seen_mail is None:
            self.seen_mail = [*self.inbox.values()]

    def bring_mail(self) -> Effects | None:
        """Let the run have what was read."""
        self.drive_on()
        if self.run is None or not self.wants_mail:
            return None
        self.see_mail()
        seen, self.seen_mail, self.wants_mail = self.seen_mail, None, False
        return self.feed(inputs.MailRead(seen))

    # --- in and out of memory ---------------------------------------------------------

    def leave(self) -> None:
        """Take the run out of memory, if it is there."""
        if self.run is not None and self.run.state is CREATING:
            self.drive()  # at once
        if self.run is not None:
            self.feed(inputs.Leave())

    def loaded(self) -> LoadedRun | None:
        """What a reader finds."""
        if self.record is None:
            return None
        rows = sorted(self.attempt_rows.items())
        return LoadedRun(
            record=self.record,
            rows=[*self.rows],
            messages=[*self.inbox.values()],
            attempts=[row for _, row in rows],
        )

    def read(self) -> Effects | None:
        """Let the run be read again."""
        if self.run is None or not self.wants_run:
            return None
        self.wants_run = False
        return self.feed(inputs.Loaded(self.loaded()))

    def enter(self) -> Effects | None:
        """Load the run; whoever had it has lost it."""
        if self.run is not None or not self.is_open or self.queue:
            return None
        assert self.record is not None
        self.record = msgspec.structs.replace(self.record, owner=self.terms.worker_id)
        run = self.run = self.unread()
        return self.feed(inputs.Loaded(self.loaded()), run)

    def unread(self) -> LiveRun:
        """The run as a worker has it that has not read it."""
        assert self.record is not None
        started = self.events()[0].attributes
        assert isinstance(started, WorkflowExecutionStarted)
        return new_run(started, self.terms, UNREAD, self.record.started_at)

    # --- attempts ---------------------------------------------------------------------

    def end_attempt(self, attempt: Attempt, how: str) -> Effects | None:
        """Let an attempt of the pool go on like this."""
        given: Any = None
        key = attempt.scheduled_event_id, attempt.attempt
        match how:
            case "completed":
                given = inputs.AttemptCompleted(attempt, payload(1), self.now)
            case "failed":
                given = inputs.AttemptFailed(
                    attempt, failure_of(ValueError()), self.now
                )
            case "timed out":
                failure = Failure(kind="timeout", timeout_type="start_to_close")
                given = inputs.AttemptFailed(attempt, failure, self.now)
            case "stopped":
                given = inputs.AttemptStopped(attempt, self.now)
            case "not begun":
                given = inputs.AttemptNotBegun(attempt, self.now + SECOND)
            case "unrecorded":
                problem = Failure(message="unfit", kind="unrecorded")
                state = AttemptState.RETURNED
                given = inputs.AttemptUnrecorded(attempt, problem, state, self.now)
            case "doubtful":
                given = inputs.AttemptDoubtful(attempt, Failure(), self.now)
            case "unheard":
                given = inputs.AttemptUnheard(attempt)
            case "left":
                given = inputs.AttemptLeft(attempt)
            case "unknown":
                given = inputs.AttemptUnknown(attempt)
            case "queued":
                given = inputs.AttemptQueued(attempt)
                self.queued.append(attempt)
            case _:
                raise AssertionError(how)
        self.running.remove(attempt)
        if how in {"not begun", "left", "unknown", "queued"}:
            self.begun.discard(key)
        return self.feed(given, attempt.run)

    def make_room(self, attempt: Attempt) -> Effects | None:
        """Let one that waits be the next."""
        self.queued.remove(attempt)
        return self.feed(inputs.AttemptReady(attempt), attempt.run)

    # --- time -------------------------------------------------------------------------

    def pass_time(self, microseconds: int) -> None:
        """Let time pass; who waits for it is woken."""
        self.now += microseconds
        due = self.record.wake_at if self.record is not None else None
        if self.run is None:
            if due is not None and due <= self.now:
                self.enter()
        elif any(at is not None and at <= self.now for at in (due, self.wake_at)):
            self.wake_at = None
            self.feed(inputs.Due())

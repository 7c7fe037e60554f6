"""One run of the machine, and a world around it in which nothing happens by itself.

The store is a list, a few dicts and a queue; code is driven, writes end, reads are
answered and attempts end when a test says so. There is no loop, no database, no clock.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from durable.api.registry import REGISTRY
from durable.converter.failures import failure_of
from durable.core.history.events import (
    ActivityTaskScheduled,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure
from durable.core.messages import encode_message
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskInput, UpdateRequest, WorkflowTask
from durable.errors import (
    CommitUnknownError,
    HistoryTakenError,
    LeaseLostError,
    PayloadTooLargeError,
)
from durable.runs import inputs, machine
from durable.runs.effects import Effects, Recording, Then
from durable.runs.incoming import key_of
from durable.runs.live_run import Attempt, LiveRun, Terms, new_run
from durable.runs.states import CREATING, DRIVING, REPLAYING, UNREAD
from durable.store.beginnings import record_of
from durable.store.records import (
    AttemptState,
    CommitTask,
    MessageKind,
    MessageRecord,
    ParkRun,
    RecordAttempts,
    StartRun,
)
from durable.worker.guards.guards import install_guards
from tests.obeyer import Obeyer, payload
from tests.run_store import RUN, RunStore

START: Final = 1_700_000_000_000_000
SECOND: Final = 1_000_000

# --- the world ------------------------------------------------------------------------


@dataclass(eq=False)
class Submitted:
    """One write in the queue of the store, of a worker."""

    operation: StartRun | CommitTask | ParkRun | RecordAttempts
    run: LiveRun
    worker_id: str
    recording: Recording | None = None


class RunWorld(RunStore):
    """The store, the code and the pool of one run, all by hand.

    Attributes:
        run: the run, while it is in memory.
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
        super().__init__()
        self.now = START
        self.max_tries = max_tries
        self.workers = 1
        self.terms = self.new_terms()
        self.run: LiveRun | None = None
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
        self.again: list[int] = []
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
            can_run=lambda queue, kind, version: True,
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
        for update_id, what in effects.rare.news:
            self.news.append((update_id, what))
            if what is None:
                given_back.append(self.sent[update_id])
            elif not isinstance(what, Failure):
                assert self.is_committed(update_id), update_id
        for attempt in (*effects.rare.stop, *effects.rare.unheard):
            self._let_go(attempt)
        for recording in effects.rare.record:
            self._submit(Submitted(recording.operation, run, "", recording))
        for attempt in effects.begin:
            self._begin(attempt)
        self.queued += [attempt for attempt, _ in effects.rare.seek]
        self.children += effects.rare.start
        self.deliveries += effects.rare.deliver
        self.again += effects.rare.again
        for event in (*effects.rare.start, *effects.rare.deliver):
            assert event.event_id <= len(self.rows), "what it follows on is not written"
        if effects.write is not None:
            assert run.operation is effects.write
            assert not any(
                one.recording is None for one in self.queue if one.run is run
            )
            assert self.task is None or run is not self.run, "a drive beside a write"
            self._submit(Submitted(effects.write, run, ""))
        if effects.rare.read_mail:
            assert not self.wants_mail
            self.wants_mail = True
        if effects.rare.read_run:
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
        for token in effects.rare.unanswered:
            self.looks[token] += 1
        self._show(run, effects)
        for event in given_back:
            self.put(event)
        if effects.rare.error is not None:
            raise effects.rare.error
        for attempt in effects.rare.mend:
            self.mend(attempt)
        for attempt, resolution in effects.rare.resolve:
            if resolution.result is None:
                self.feed(inputs.AttemptRepeated(attempt), run)
            else:
                self.feed(inputs.AttemptMended(attempt, resolution.result), run)
        return effects

    def _show(self, run: LiveRun, effects: Effects) -> None:
        assert not effects.rare.ask or run.unwritten is None, "shown, and not written"
        for number, token in enumerate(effects.rare.ask, 1):
            self.looks[token] += 1
            if self.harms:
                self.harms = False
                run.replayer.is_harmed = True
                self.feed(inputs.Harmed(), run)
                for later in effects.rare.ask[number:]:
                    self.feed(inputs.Asked(later), run)
                return

    def _left(self) -> None:
        run, self.run = self.run, None
        self.wants_mail = self.wants_run = False
        self.seen_mail = self.task = self.wake_at = None
        self.again = []
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
        if attempt.run.is_unwritten(attempt.scheduled_event_id):
            assert attempt.scheduled.settings.is_local
            self.running.append(attempt)
            return
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
            version=definition.own_version,
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
        elif outcome == "too large":
            error = PayloadTooLargeError("too large")
        elif outcome == "strange":
            error = ValueError("strange")
        elif outcome == "unknown":
            error = CommitUnknownError("unknown")
        else:
            try:
                result = self.apply(one.operation, one.worker_id)
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
                self.feed(inputs.HoldAgain(attempt))
        return bool(unwritten)

    def join(self) -> None:
        """Be another worker from now on."""
        self.workers += 1
        self.terms = self.new_terms()

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
        if self.run is not None and self.run.state is CREATING:
            self.drive()  # at once
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

    def see_mail(self) -> None:
        """Read the inbox; the answer is on its way."""
        if self.wants_mail and self.seen_mail is None:
            self.seen_mail = [*self.inbox.values()]

    def bring_mail(self) -> Effects | None:
        """Let the run have what was read."""
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
            case "lost":
                given = inputs.AttemptLost(attempt, Failure(), self.now)
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
        elif any(
            at is not None and at <= self.now for at in (due, self.wake_at, *self.again)
        ):
            self.again = [at for at in self.again if at > self.now]
            self.wake_at = None
            self.feed(inputs.Due())

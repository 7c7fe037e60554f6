"""Keeps runs in memory, gives them what happens, and carries out what they want.

What becomes of a run is decided in `durable.runs`; here is the world around it: its
code is driven, its writes are submitted, its children are started, its attempts begun.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from durable.api.registry import Registry
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    StartChildWorkflowExecutionInitiated,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure
from durable.core.workflow_task import TaskInput
from durable.errors import (
    CorruptHistoryError,
    DurableError,
    LeaseLostError,
)
from durable.observer import Observer
from durable.options import IdConflictPolicy, IdReusePolicy
from durable.runs import inputs, machine
from durable.runs.effects import (
    AttemptEnd,
    Creation,
    Effects,
    Left,
    RareEffects,
    Recording,
    Then,
    UpdateNews,
)
from durable.runs.live_run import LiveRun, Terms, new_run
from durable.runs.outgoing import (
    child_request_id,
    child_start,
    outcome_for_parent,
    unowned_start,
)
from durable.runs.states import AT_REST, CREATING, DRIVING, GONE, REPLAYING, UNREAD
from durable.store.queries import ReadMessages
from durable.store.records import (
    Committed,
    LoadedRun,
    MessageRecord,
    ReleaseRuns,
    RunStatus,
    Started,
    StartRun,
)
from durable.store.store import Store
from durable.worker import log_lines
from durable.worker.activities import observing, unrecorded
from durable.worker.activities.activity_pool import ActivityPool
from durable.worker.activities.unknown_activities import UnknownActivities
from durable.worker.background import Background, call_at
from durable.worker.loader import Loader, first_task_at, not_read_yet
from durable.worker.log_lines import ENDS_BADLY, extra_of, is_told
from durable.worker.questions import Question, look, reply_to
from durable.worker.redelivery import send_again
from durable.worker.turns import Turns

_log: Final = logging.getLogger("durable.worker")
_DRIVEN: Final = (DRIVING, CREATING, REPLAYING)
# That an outcome is held, which nobody else knows, is written again after this long.
_HOLD_SECONDS: Final = 1.0
T = TypeVar("T")


class ChildOrder(msgspec.Struct, eq=False):
    """Stands for a parent that wants to hear how the start of a child went."""

    parent: LiveRun
    event: HistoryEvent


class Outside(msgspec.Struct, eq=False):
    """Whom a runner tells what.

    Attributes:
        closed: a run's terminal event is committed; that event if this worker has it.
        stuck: a run is parked, and why.
        update: something became of an update of a run.
        wake_by: look for due runs no later than this instant.
        look_around: there may be runs that nobody owns.
        lease_lost: that worker's lease is gone.
    """

    closed: Callable[[str, Attributes | None], None]
    stuck: Callable[[str, Failure], None]
    update: Callable[[str, str, UpdateNews], None]
    wake_by: Callable[[int], None]
    look_around: Callable[[], None]
    lease_lost: Callable[[str], None]


class Runner:
    """The runs that one worker has in memory.

    Attributes:
        runs: those, by run id.
        terms: what they know of the worker; replaced when it joins again.
        is_open: the worker works.
        has_lease: it can write. Until it has joined again it loads nothing: at rest a
            run is there for all, and its first commit would be refused.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        outside: Outside,
        *,
        observer: Observer | None,
        task_queue: str,
        cached_runs: int,
    ) -> None:
        self._store = store
        self._registry = registry
        self._outside = outside
        self._observer = observer
        self._task_queue = task_queue
        self._cached_runs = cached_runs
        self.runs: dict[str, LiveRun] = {}
        self._idle: collections.OrderedDict[str, LiveRun] = collections.OrderedDict()
        self.background = Background(self._step_failed)
        self.spawn = self.background.spawn
        self.loader = Loader(
            store, entered=self._entered, mail=self._mail_if_live, spawn=self.spawn
        )
        self.is_open = False
        self.has_lease = True
        self.hits = self.misses = 0
        self.terms: Terms
        self.pool: ActivityPool
        self._turns: Turns
        self._unknown: UnknownActivities

    def join(self, terms: Terms, turns: Turns, pool: ActivityPool) -> None:
        """Belong to a new worker; what began under the last one is there for all."""
        self.forget_all()
        self.terms, self._turns, self.pool = terms, turns, pool
        self._unknown = UnknownActivities(
            self._store,
            self._registry,
            terms.worker_id,
            pool,
            self.feed,
            self.release,
            self.spawn,
        )

    # --- one input, and what follows --------------------------------------------------

    def feed(self, run: LiveRun, given: inputs.AnyInput) -> None:
        """Give a run something, and carry out what it wants then."""
        now = self._store.now()
        self._carry_out(run, machine.handle(run, given, now), now)

    def _carry_out(self, run: LiveRun, effects: Effects, now: int) -> None:
        # What it writes goes first, in the order in which it was decided: whatever
        # else is carried out may have it decide more.
        rare = effects.found_rare
        if rare is not None:
            self._submit_rare(run, rare)
        if effects.write is not None:
            self._store.submit(effects.write, partial(self._written, run))
        if effects.creation is not None:
            self._creation_ended(effects.creation)
        if effects.tell:
            for token, answer in effects.tell:
                if not token.done():
                    token.set_result(answer)
        if rare is not None:
            self._carry_out_rare(run, rare, effects.left)
        if effects.begin:
            for attempt in effects.begin:
                self.pool.begin(attempt, now)
        if effects.wake_at is not None:
            self._outside.wake_by(effects.wake_at)
        # What was carried out may have brought the run away from there.
        task = effects.drive
        if task is not None and run.state in _DRIVEN:
            driven = self._turns.drive(run, task, effects.ready_at)
            self._carry_out(run, machine.handle(run, driven, task.now), task.now)
        elif effects.left is not None:
            self._leave(run, effects.left, effects.terminal)
        elif run.state is AT_REST:
            self.settle(run)
        if rare is not None and rare.error is not None:
            raise rare.error

    def _submit_rare(self, run: LiveRun, rare: RareEffects) -> None:
        for recording in rare.record:
            recorded = partial(self._recorded, run, recording)
            self._store.submit(recording.operation, recorded)
        for message, epoch in rare.reply:
            reply = reply_to(run, message, epoch, self._store.now())
            self._store.submit(reply, partial(self._replied, run))

    def _carry_out_rare(
        self, run: LiveRun, rare: RareEffects, left: Left | None
    ) -> None:
        self._turns.tell(run, rare.notes)
        for end in rare.attempt_ends:
            self._attempt_ended(end)
        for update_id, news in rare.news:
            self._outside.update(run.run_id, update_id, news)
        if rare.spread is not None:
            parent = self.find_parent(run) if left is not None else None
            self.spread(rare.spread, None if parent is None else parent.run_id)
        for run_id in rare.closed:
            self.closed_elsewhere(run_id)
        if rare.torn_down is not None:
            rare.torn_down.tear_down()
        if rare.ask or rare.reply or rare.unanswered:
            self._answer(run, rare)
        for attempt in rare.stop:
            is_closed = left is Left.CLOSED or left is Left.CLOSED_ELSEWHERE
            self.pool.stop(attempt, is_closed=is_closed)
        for attempt in rare.unheard:
            self.pool.let_go(attempt)
        self._see_to_attempts(run, rare)
        for event in rare.start:
            self._start_child(run, event)
        for event in rare.deliver:
            self.spawn(self._deliver(run, event))
        if rare.refused is not None:
            if isinstance(rare.refused, LeaseLostError):
                self._outside.lease_lost(rare.refused.worker_id)
            else:
                log_lines.log_refused(run, rare.refused, rare, left)
        if rare.parking is not None:
            log_lines.log_parked(run, rare.parking)
        if rare.read_mail:
            self.spawn(self._read_mail(run))
        if rare.read_run:
            self.spawn(self._read_again(run))
        if rare.look_around:
            self._outside.look_around()
        for instant in rare.again:
            call_at(self._store.now, instant, partial(self.feed, run, inputs.Due()))

    def _written(self, run: LiveRun, result: Any, error: BaseException | None) -> None:
        given = inputs.Settled(result) if error is None else inputs.Refused(error)
        self.feed(run, given)

    def _recorded(
        self,
        run: LiveRun,
        recording: Recording,
        _: Any,
        error: BaseException | None,
    ) -> None:
        self.feed(run, inputs.Recorded(recording, error))
        if error is not None and recording.then is Then.HOLD and run.state is not GONE:
            again = inputs.HoldAgain(recording.attempt)
            asyncio.get_running_loop().call_later(_HOLD_SECONDS, self.feed, run, again)

    def _attempt_ended(self, end: AttemptEnd) -> None:
        if end.decision is not None and end.failure is not None:
            log_lines.log_failed_attempt(end.attempt, end.failure, end.decision)
        if end.was_here and self._turns.observer is not None:
            observing.attempt_closed(self._turns.observer, end, self._store.now())

    def _see_to_attempts(self, run: LiveRun, rare: RareEffects) -> None:
        for attempt, is_first in rare.seek:
            self._unknown.seek(attempt, may_offer=is_first)
        for attempt in rare.mend:
            self.feed(run, unrecorded.mend(self._registry, attempt))
        for attempt, resolution in rare.resolve:
            self.feed(run, unrecorded.resolve(self._registry, attempt, resolution))

    # --- in and out of memory ---------------------------------------------------------

    def find_live(self, run_id: str) -> LiveRun | None:
        """The run, if it is in memory and takes messages."""
        run = self.runs.get(run_id)
        return None if run is None or self.terms.is_draining else run

    def _leave(self, run: LiveRun, left: Left, event: HistoryEvent | None) -> None:
        """Take a run out of memory; whoever waits for it must ask the store."""
        if self.runs.get(run.run_id) is run:
            del self.runs[run.run_id]
        self._idle.pop(run.run_id, None)
        if event is not None:
            if type(event.attributes) in ENDS_BADLY:
                log_lines.log_failed_run(run, event.attributes)
            if self._observer is not None:
                observing.run_closed(self._observer, run, event, self._task_queue)
        run.replayer.tear_down()
        if event is not None:
            if run.started.parent_run_id is not None:
                self._tell_parent(run, event.attributes)
            self._outside.closed(run.run_id, event.attributes)
        elif left is Left.CLOSED_ELSEWHERE:
            self._outside.closed(run.run_id, None)
        elif left is Left.PARKED and run.stuck is not None:
            self._outside.stuck(run.run_id, run.stuck)

    def settle(self, run: LiveRun) -> None:
        """Keep an idle run live for a while; let the longest idle ones go."""
        if not run.is_idle:
            return
        if self.terms.is_draining:
            if run.row[0]:
                self.release(run)  # others need not wait for what still runs here
            return
        self._idle[run.run_id] = run
        self._idle.move_to_end(run.run_id)
        while len(self._idle) > self._cached_runs:
            _, oldest = self._idle.popitem(last=False)
            if oldest.is_idle:
                self.feed(oldest, inputs.Leave())

    def forget_all(self) -> None:
        """Take every run out of memory, and every read that is under way."""
        self.loader.forget_all()
        for run in list(self.runs.values()):
            self.feed(run, inputs.Leave())

    def closed_elsewhere(self, run_id: str) -> None:
        """A run was closed by a write that is not this worker's."""
        run = self.runs.get(run_id)
        if run is None:
            self._outside.closed(run_id, None)
        else:
            self.feed(run, inputs.ClosedElsewhere())

    def release(self, run: LiveRun) -> None:
        """Leave a run to whichever worker takes it."""
        self.feed(run, inputs.Leave())
        self._store.submit(ReleaseRuns(run_ids=(run.run_id,)), log_refusal)

    # --- starting runs ----------------------------------------------------------------

    def create(
        self,
        started: WorkflowExecutionStarted,
        request: StartRun,
        first: tuple[TaskInput, ...],
        creator: asyncio.Future[Started] | ChildOrder,
    ) -> None:
        """Drive the first turn and commit it together with the run's creation.

        So a run that one engine starts and runs itself costs no commit of its own.
        """
        record = request.record
        run = new_run(
            started,
            self.terms,
            CREATING,
            record.started_at,
            record.parent_close_policy,
        )
        # Others see it once it is committed, which is before its outcome is heard here:
        # what they bring must find it, or it would be loaded beside itself. A start
        # whose answer was lost may be asked again for what was loaded since.
        self.runs.setdefault(run.run_id, run)
        begun = machine.begin(run, request, first, creator)
        self._carry_out(run, begun, record.started_at)

    def _creation_ended(self, creation: Creation) -> None:
        creator, outcome = creation.creator, creation.outcome
        if type(creator) is ChildOrder:
            self._child_started(creator, outcome, creation.has_ended)
        elif creator.done():
            return
        elif isinstance(outcome, Started):
            creator.set_result(outcome)
        else:
            creator.set_exception(outcome)

    def _start_child(self, run: LiveRun, event: HistoryEvent) -> None:
        """Start a recorded child; asked again, it finds the same by its request id."""
        what = event.attributes
        assert isinstance(what, StartChildWorkflowExecutionInitiated)  # noqa: S101 - by the caller
        now = self._store.now()
        started, record = child_start(run, event, run.terms.new_run_id(), now)
        policy = IdReusePolicy(what.settings.id_reuse_policy)
        order = ChildOrder(run, event)
        if run.terms.can_run(record.task_queue, record.workflow_type, record.version):
            request = StartRun(
                record=record,
                rows=[],
                reuse_policy=policy,
                conflict_policy=IdConflictPolicy.FAIL,
            )
            self.create(started, request, (), order)
        else:
            self._store.submit(
                unowned_start(started, record, policy),
                lambda result, error: self._child_started(order, error or result),
            )

    def _child_started(
        self, order: ChildOrder, outcome: Any, has_ended: bool = False
    ) -> None:
        parent = order.parent
        if parent.state is GONE:
            return
        if isinstance(outcome, Started) and not outcome.created:
            # It may be ours by a commit whose answer was lost, or nobody's.
            self.wake((outcome.run_id,))
            self._outside.look_around()
        answered = inputs.ChildAnswered(order.event, outcome, has_ended)
        self.feed(parent, answered)

    # --- other runs -------------------------------------------------------------------

    def spread(self, committed: Committed, told: str | None = None) -> None:
        """A commit did something to other runs; `told` hears of it without its mail."""
        for run_id in committed.ended:
            self.closed_elsewhere(run_id)
        for receiver in (
            *committed.deliveries,
            *committed.cancelled,
            *committed.notified,
        ):
            if isinstance(receiver, str) and receiver != told:
                self.mail(receiver)
        begun = [s.run_id for s in committed.started if isinstance(s, Started)]
        if begun:
            self.wake(begun)
            self._outside.look_around()

    def find_parent(self, run: LiveRun) -> LiveRun | None:
        """The run's parent, if it is live here and waits for it."""
        started = run.started
        if started.parent_run_id is None:
            return None
        parent = self.find_live(started.parent_run_id)
        number = started.parent_initiated_event_id or 0
        if parent is None or parent.replayer.pending_child(number) is None:
            return None
        return parent

    def _tell_parent(self, run: LiveRun, terminal: Attributes) -> None:
        """Let a parent in this process see at once how its child ended."""
        parent = self.find_parent(run)
        event = None if parent is None else outcome_for_parent(run, terminal)
        if parent is not None and event is not None:
            request_id = child_request_id(run.started.first_run_id)
            self.feed(parent, inputs.ChildEnded(event, request_id))

    async def _deliver(self, run: LiveRun, event: HistoryEvent) -> None:
        delivered = await send_again(self._store, run, event, self.mail)
        if delivered is not None:
            self.feed(run, delivered)

    # --- messages and questions -------------------------------------------------------

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        run = self.runs.get(run_id)
        if run is not None:
            self.feed(run, inputs.MailCame())
        elif run_id in self.loader.loading:
            self.loader.mailed(run_id)
        else:
            self.wake((run_id,))

    def _mail_if_live(self, run_id: str) -> None:
        if run_id in self.runs:
            self.mail(run_id)

    async def _read_mail(self, run: LiveRun) -> None:
        messages: list[MessageRecord] | None = []
        try:
            messages = await self._store.read(ReadMessages(run.run_id))
        except CorruptHistoryError:
            messages = None
        finally:
            self.feed(run, inputs.MailRead(messages))

    def _answer(self, run: LiveRun, rare: RareEffects) -> None:
        for token in rare.unanswered:
            if isinstance(token, Question) and not token.answer.done():
                token.answer.set_result(None)
        if run.replayer.is_harmed:
            self.feed(run, inputs.Harmed())
        for number, token in enumerate(rare.ask, 1):
            look(run, token)
            if run.replayer.is_harmed:
                self.feed(run, inputs.Harmed())
                for later in rare.ask[number:]:
                    self.feed(run, inputs.Asked(later))
                return

    def _replied(self, run: LiveRun, _: Any, error: BaseException | None) -> None:
        if error is not None:  # others have the run, or had it since
            self.feed(run, inputs.Harmed())

    # --- going on ---------------------------------------------------------------------

    def _step_failed(self, error: DurableError) -> None:
        if self.is_open:
            if not is_told(error):
                _log.error("A background step of the worker failed: %s", error)
            self._outside.wake_by(self._store.now() + 1_000_000)

    def claimed(self, epochs: Mapping[str, int]) -> None:
        """Go on with runs that were at rest and are this worker's now."""
        to_load: list[str] = []
        for run_id, epoch in epochs.items():
            run = self.runs.get(run_id)
            if run is None:
                to_load.append(run_id)
            else:
                self.hits += 1
                self.feed(run, inputs.Claimed(epoch))
        if to_load:
            self.misses += self.loader.load(to_load)

    def wake(self, run_ids: Iterable[str]) -> None:
        """Go on with runs that are at rest or ours: drive the live, load the others."""
        to_load: list[str] = []
        for run_id in run_ids:
            run = self.runs.get(run_id)
            if run is None:
                to_load.append(run_id)
            else:
                self.hits += 1
                self.feed(run, inputs.Due())
        if to_load and self.has_lease and not self.terms.is_draining:
            self.misses += self.loader.load(to_load)

    def _entered(self, loaded: LoadedRun) -> None:
        """A run was read that was not in memory."""
        record, terms = loaded.record, self.terms
        if not (self.is_open and self.has_lease) or record.run_id in self.runs:
            return
        is_free = record.owner in (None, terms.worker_id)
        if record.status is not RunStatus.RUNNING or not is_free:
            return
        now = self._store.now()
        in_turn_at = now + 1 if self.terms.limits_runs else None
        if (begins_at := first_task_at(loaded, in_turn_at) or 0) > now:
            self._outside.wake_by(begins_at)  # it was started with a delay
            return
        run = new_run(not_read_yet(record), terms, UNREAD, record.started_at)
        self.runs[run.run_id] = run
        if record.damage is not None or self._registry.find_workflow(
            record.workflow_type, record.version
        ):
            self.feed(run, inputs.Loaded(loaded))
            return
        _log.warning(
            "Run %r is of workflow %r, version %s, which this worker does not know (run"
            " id %s); it waits for a worker that does.",
            run.workflow_id,
            run.workflow_type,
            record.version or "none",
            run.run_id,
            extra=extra_of(run),
        )
        self.release(run)

    async def _read_again(self, run: LiveRun) -> None:
        loaded = await self.loader.read_again(run)
        if self.is_open:
            self.feed(run, inputs.Loaded(loaded))
        else:
            run.replayer.tear_down()

    def working_runs(self) -> list[str]:
        """The live runs that have activities under way."""
        runs = self.runs.values()
        return [r.run_id for r in runs if r.attempts and r.state is AT_REST]

    def run_closed(self, run_id: str) -> None:
        """Another process has closed this run."""
        run = self.runs.get(run_id)
        if run is not None and run.state is AT_REST:
            self.closed_elsewhere(run_id)

    def is_busy(self, run_id: str) -> bool:
        """Whether the run is being loaded or committed."""
        run = self.runs.get(run_id)
        is_loading = run_id in self.loader.loading
        return is_loading or (run is not None and run.state is not AT_REST)


def log_refusal(_: Any, error: BaseException | None) -> None:
    """The outcome of a write that nobody waits for."""
    is_over = isinstance(error, LeaseLostError)  # and all runs are given up
    if error is not None and not is_over and not is_told(error):
        _log.error("A background write was refused: %s", error)

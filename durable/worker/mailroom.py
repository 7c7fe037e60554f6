"""Hands messages to live runs, and tells those who wait what became of them.

A message from this process goes straight to its run and shares the commit of the turn
that takes it. All others come through the run's inbox. Queries are answered between
turns, on what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from durable.converter.failures import failure_of
from durable.core.events import (
    Attributes,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.messages import (
    ActivityResolution,
    QueryReply,
    UpdateReply,
    decode_message,
    encode_message,
)
from durable.core.payload import Failure
from durable.core.replayer import Replayer
from durable.core.workflow_task import (
    TaskInput,
    UpdateRequest,
    WorkflowTaskCompletion,
    update_request_id,
)
from durable.errors import CorruptHistoryError
from durable.store.queries import ReadMessages
from durable.store.records import (
    CommitTask,
    MessageKind,
    MessageRecord,
    ReplyRecord,
)
from durable.store.store import Store
from durable.worker.inputs import is_recorded, key_of
from durable.worker.live_run import LiveRun
from durable.worker.restoring import event_of_message

T = TypeVar("T")

UpdateNews: TypeAlias = (
    WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted | Failure | None
)
"""What became of an update: accepted, answered, refused and why, or not taken."""


_MESSAGES: Final = (WorkflowExecutionSignaled, WorkflowExecutionCancelRequested)


class Host(Protocol):
    """What handing out messages asks of the worker around it."""

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        ...

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step in the background; its errors are logged."""
        ...

    def tell_update(self, run_id: str, update_id: str, news: UpdateNews) -> None:
        """Something became of an update."""
        ...


class Mailroom:
    """The messages of one worker's live runs."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    # --- from this process ------------------------------------------------------------

    def deliver(
        self, run: LiveRun, event: Attributes, *, may_repeat: bool
    ) -> asyncio.Future[bool]:
        """Give a live run a signal or a request to stop.

        The answer is True once that is durable, and False if the run could not take it
        and the store must be asked. Only with `may_repeat` it is asked whether the run
        has it already, by its request id.
        """
        ack: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if run.is_reading:  # what lies in the inbox was there before
            run.held.append(partial(self._hand_in, run, event, ack, may_repeat))
        else:
            self._hand_in(run, event, ack, may_repeat)
        return ack

    def _hand_in(
        self,
        run: LiveRun,
        event: Attributes,
        ack: asyncio.Future[bool],
        may_repeat: bool,
    ) -> None:
        if not may_repeat:
            run.inputs.append(event)
        elif run.replayer.knows_request(key_of(event)):
            # It is durable, unless it is in the commit that is on its way.
            if run.is_committing:
                run.committing_acks.append(ack)
            else:
                ack.set_result(True)
            return
        elif not run.has_input(key_of(event)):
            run.inputs.append(event)
        run.acks.append(ack)
        self._host.advance(run)

    def request_update(self, run: LiveRun, update: UpdateRequest) -> None:
        """Give a live run an update; `tell_update` says what becomes of it."""
        is_known = run.replayer.knows_update(update.update_id)
        if run.is_dropped:
            self._host.tell_update(run.run_id, update.update_id, None)
        elif run.is_reading or (is_known and run.is_committing):
            # It may be known by what is not committed, and never will be.
            run.held.append(partial(self.request_update, run, update))
        elif self.has_forgotten(run, update.update_id):
            self._host.tell_update(run.run_id, update.update_id, None)
        elif is_known:
            answer = run.replayer.update_answer(update.update_id)
            self._host.tell_update(
                run.run_id, update.update_id, answer or _accepted(update)
            )
        elif not run.has_input(key_of(update)):
            run.inputs.append(update)
            self._host.advance(run)

    def has_forgotten(self, run: LiveRun, update_id: str) -> bool:
        """Whether only history knows how an update was answered.

        That was before the newest checkpoint, or by an earlier run of the chain.
        """
        view = run.replayer
        return (
            view.knows_update(update_id)
            and view.update_answer(update_id) is None
            and update_id not in view.open_updates()
        )

    def ask(
        self, run: LiveRun, ask: Callable[[Replayer], T]
    ) -> asyncio.Future[tuple[T] | None]:
        """Look at a live run between turns; None if it leaves memory before that."""
        answer: asyncio.Future[tuple[T] | None]
        answer = asyncio.get_running_loop().create_future()
        # What was there before the question must be seen first, and be durable.
        commits = run.commit_count + run.is_committing + bool(run.inputs)
        run.questions.append((commits, ask, answer))
        self.answer_questions(run)
        return answer

    def answer_questions(self, run: LiveRun) -> None:
        """Answer those for whom the run has come far enough."""
        if run.is_committing:
            return
        is_settled = not run.inputs
        questions, run.questions = run.questions, []
        for commits, ask, answer in questions:
            if answer.done():
                continue
            if run.replayer.is_harmed or (
                commits > run.commit_count and not is_settled
            ):
                run.questions.append((commits, ask, answer))
                continue
            try:
                answer.set_result((ask(run.replayer),))
            except asyncio.CancelledError:
                answer.cancel()
            except BaseException as error:  # noqa: BLE001 - it belongs to the asker
                answer.set_exception(error)
        if run.replayer.is_harmed:
            self._host.reload(run)

    # --- from the inbox ---------------------------------------------------------------

    def collect(self, run: LiveRun) -> None:
        """A message for a live run was committed: read it."""
        run.has_mail = True
        if not run.is_reading:
            run.is_reading = True
            self._host.spawn(self._read(run))

    async def _read(self, run: LiveRun) -> None:
        try:
            while run.has_mail and not (run.is_dropped or run.is_closed):
                run.has_mail = False
                try:
                    messages = await self._store.read(ReadMessages(run.run_id))
                except CorruptHistoryError:
                    self._host.reload(run)  # which finds out, and parks it
                    return
                if not (run.is_dropped or run.is_closed) and messages:
                    self.take(run, messages)
                    self._host.advance(run)
        finally:
            run.is_reading = False
            self.hand_in_held(run)

    def hand_in_held(self, run: LiveRun) -> None:
        """Hand in what came from this process and had to wait."""
        held, run.held = run.held, []
        for hand_in in held:
            hand_in()

    def take(self, run: LiveRun, messages: Iterable[MessageRecord]) -> None:
        """Put messages where the next turn takes them, each once.

        They are committed already, so they come before those that this process gave
        the run directly and that are not.

        Raises:
            CorruptHistoryError: one cannot be read; none was taken.
        """
        fresh = [
            (message, event_of_message(message))
            for message in messages
            if message.sequence not in run.taken
        ]
        for message, event in fresh:
            run.taken.add(message.sequence)
            if message.kind == MessageKind.QUERY.value:
                self._answer_by_mail(run, message)
            elif isinstance(event, UpdateRequest):
                self._take_update(run, message, event)
            else:
                run.consumed += (message.sequence,)
                if isinstance(event, ActivityResolution):
                    run.resolutions.append(event)
                    continue
                if event is None or run.has_input(key_of(event)):
                    continue
                if is_recorded(run.replayer, event):  # a late read brings it again
                    continue
                run.mailed.add(key_of(event))
                run.inputs.append(event)
        if fresh:
            _put_mail_first(run)

    def drop_recorded(self, run: LiveRun) -> None:
        """Drop inputs that are recorded: a commit took place, its answer was lost.

        To be called when the run was caught up, before it goes on.
        """
        run.acks = run.committing_acks + run.acks
        run.committing_acks = []
        inputs, run.inputs = run.inputs, []
        for event in inputs:
            if not is_recorded(run.replayer, event):
                run.inputs.append(event)
            elif isinstance(event, UpdateRequest):
                run.update_mail.pop(event.update_id, None)
                self.request_update(run, event)  # which tells its sender
        _put_mail_first(run)
        if not run.inputs:
            acks, run.acks = run.acks, []
            for ack in acks:
                if not ack.done():
                    ack.set_result(True)

    def _take_update(
        self,
        run: LiveRun,
        message: MessageRecord,
        update: UpdateRequest,
    ) -> None:
        if run.replayer.knows_update(update.update_id):
            if run.is_committing:  # known perhaps by what will not be committed
                run.held.append(partial(self._take_update, run, message, update))
            else:
                run.consumed += (message.sequence,)
            return
        run.update_mail[update.update_id] = message.sequence
        if not run.has_input(key_of(update)):
            run.mailed.add(key_of(update))
            run.inputs.append(update)

    def _answer_by_mail(self, run: LiveRun, message: MessageRecord) -> None:
        """Answer a query of another process with a reply."""

        def answer(replayer: Replayer) -> None:
            try:
                query = decode_message(message.kind, message.data)
                said = QueryReply(replayer.query(query.name, query.input))
            except Exception as error:  # noqa: BLE001 - it belongs to the asker
                said = QueryReply(failure=failure_of(error))
            self._store.submit(
                CommitTask(
                    run_id=run.run_id,
                    rows=[],
                    consumed=(message.sequence,),
                    replies=(self._reply(run, message.request_id, said),),
                ),
                lambda _, __: None,
            )

        self.ask(run, answer)

    def _reply(
        self, run: LiveRun, request_id: str, said: QueryReply | UpdateReply
    ) -> ReplyRecord:
        return ReplyRecord(
            run_id=run.run_id,
            request_id=request_id,
            data=encode_message(said),
            created_at=self._store.now(),
        )

    # --- around a commit --------------------------------------------------------------

    def passed_by_inbox(self, run: LiveRun, inputs: Iterable[TaskInput]) -> bool:
        """Whether a turn has messages that came from this process directly."""
        if run.committing_acks or not run.replayer.has_mailbox:
            return bool(run.committing_acks)
        return any(
            isinstance(event, UpdateRequest) and event.update_id not in run.update_mail
            for event in inputs
        )

    def settled_updates(
        self, run: LiveRun, completion: WorkflowTaskCompletion
    ) -> tuple[tuple[int, ...], tuple[ReplyRecord, ...]]:
        """What a turn settled: inbox sequences of updates, and replies to refusals."""
        mail = run.update_mail
        if not mail:
            return (), ()
        # A run that ends has seen them all; what it left is for the next of its chain.
        sequences = list(mail.values()) if completion.is_closed else []
        replies: list[ReplyRecord] = []
        for update_id, failure in completion.rejected:
            sequence = mail.get(update_id)
            if sequence is not None:
                sequences.append(sequence)
                said = UpdateReply(failure)
                replies.append(self._reply(run, update_request_id(update_id), said))
        for event in completion.events:
            what = event.attributes
            if isinstance(what, WorkflowExecutionUpdateAccepted):
                sequence = mail.get(what.update_id)
                if sequence is not None:
                    sequences.append(sequence)
        return tuple(sequences), tuple(replies)

    def tell(self, run: LiveRun, completion: WorkflowTaskCompletion) -> None:
        """A turn is durable: let those hear of it who wait for its messages."""
        if run.committing_acks:
            self.acknowledge(run)
        if not run.replayer.has_mailbox:
            return  # then nothing was said of updates
        for update_id, failure in completion.rejected:
            run.update_mail.pop(update_id, None)
            self._host.tell_update(run.run_id, update_id, failure)
        for event in completion.events:
            what = event.attributes
            if isinstance(
                what,
                WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted,
            ):
                run.update_mail.pop(what.update_id, None)
                self._host.tell_update(run.run_id, what.update_id, what)

    def acknowledge(self, run: LiveRun) -> None:
        """The inputs of the last commit are durable: tell their senders."""
        acks, run.committing_acks = run.committing_acks, []
        for ack in acks:
            if not ack.done():
                ack.set_result(True)

    def take_to_keep(self, run: LiveRun) -> tuple[Attributes, ...]:
        """Take a run's inputs to be kept for another worker.

        Messages from this process are given back to their senders, who put them into
        the inbox: there may be others in it that came before. Updates are no events
        yet and stay in the inbox if they are there.
        """
        kept: list[Attributes] = []
        for event in run.inputs:
            if isinstance(event, UpdateRequest):
                self._host.tell_update(run.run_id, event.update_id, None)
            elif not is_message(event) or key_of(event) in run.mailed:
                kept.append(event)
        run.inputs = []
        acks, run.acks = run.acks, []
        for ack in acks:
            if not ack.done():
                ack.set_result(False)
        return tuple(kept)

    def give_back(self, run: LiveRun) -> None:
        """The run leaves memory: whoever waits must ask the store."""
        questions, run.questions = run.questions, []
        for _, _, answer in questions:
            if not answer.done():
                answer.set_result(None)
        run.is_reading = False
        if run.held:
            self.hand_in_held(run)
        if run.committing_acks or run.acks:
            acks = run.committing_acks + run.acks
            run.committing_acks, run.acks = [], []
            for ack in acks:
                if not ack.done():
                    ack.set_result(False)
        if run.inputs:
            self.give_back_updates(run, run.inputs)

    def give_back_updates(self, run: LiveRun, inputs: Iterable[TaskInput]) -> None:
        """Let those ask the store who wait for updates of a run that left memory."""
        for event in inputs:
            if isinstance(event, UpdateRequest):
                self._host.tell_update(run.run_id, event.update_id, None)


def is_message(event: TaskInput) -> bool:
    """Whether an input is a signal or a request to stop."""
    return isinstance(event, _MESSAGES)


def _accepted(update: UpdateRequest) -> WorkflowExecutionUpdateAccepted:
    return WorkflowExecutionUpdateAccepted(
        update.update_id, update.update_name, update.input
    )


def _put_mail_first(run: LiveRun) -> None:
    """Let messages by the inbox come before those that were handed in.

    What became of the run's own operations keeps its place among the mail: the start of
    a child comes before its end, which the inbox brings.
    """
    run.inputs = sorted(
        run.inputs,
        key=lambda event: (
            isinstance(event, (*_MESSAGES, UpdateRequest))
            and key_of(event) not in run.mailed
        ),
    )

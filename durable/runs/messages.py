"""What becomes of the messages that a run is given, and of who waits for them.

A message from this process goes straight to its run and shares the commit of the turn
that takes it. All others come through the run's inbox. Queries are answered between
turns, on what is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from durable.core.history.events import (
    CHILD_OUTCOMES,
    Attributes,
    WorkflowExecutionPaused,
    WorkflowExecutionUnpaused,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import is_paused
from durable.core.messages import (
    ActivityResolution,
    ActivityReturned,
    UpdateReply,
    encode_message,
)
from durable.core.workflow_task import (
    TaskInput,
    UpdateRequest,
    WorkflowTaskCompletion,
    update_request_id,
)
from durable.errors import CorruptHistoryError
from durable.runs import inputs
from durable.runs.effects import Effects, also
from durable.runs.incoming import Item, Token, is_recorded, key_of
from durable.runs.live_run import LiveRun
from durable.runs.restoring import event_of_message
from durable.runs.states import AT_REST, DRIVING, REPLAYING
from durable.store.records import (
    LoadedRun,
    MessageKind,
    MessageRecord,
    ReplyRecord,
)


class Mailed(msgspec.Struct, eq=False):
    """A message of the inbox that the run knows, perhaps by what is not committed."""

    sequence: int
    event: TaskInput


Held: TypeAlias = inputs.Told | Mailed
_PAUSES: Final = (WorkflowExecutionPaused, WorkflowExecutionUnpaused)

# --- from this process ----------------------------------------------------------------


def told(run: LiveRun, given: inputs.Told, effects: Effects, now: int) -> None:
    """Give a run a signal, a request to stop or an update of this process."""
    incoming, event = run.incoming, given.event
    if isinstance(event, UpdateRequest):
        _told_update(run, given, event, effects)
        return
    if incoming.is_reading:  # what lies in the inbox was there before
        incoming.held += (given,)
        return
    if given.may_repeat:
        key = key_of(event)
        item = _find(run, key)
        if item is None and run.replayer.knows_request(key):
            # It is durable, unless it is in the commit that is on its way.
            item = incoming.find_in_commit(key)
            if item is None:
                effects.tell = also(effects.tell, (given.token, True))
                return
        if item is not None:
            item.tokens += (given.token,)
            return
    incoming.add(Item(event, tokens=() if given.token is None else (given.token,)))


def _told_update(
    run: LiveRun, given: inputs.Told, update: UpdateRequest, effects: Effects
) -> None:
    incoming, update_id = run.incoming, update.update_id
    is_known = run.replayer.knows_update(update_id)
    if incoming.is_reading or (is_known and run.state is not AT_REST):
        # It may be known by what is not committed, and never will be.
        incoming.held += (given,)
    elif run.has_forgotten(update_id):
        effects.rare.news = also(effects.rare.news, (update_id, None))
    elif is_known:
        answer = run.replayer.update_answer(update_id) or update.accepted()
        effects.rare.news = also(effects.rare.news, (update_id, answer))
    elif _find(run, key_of(update)) is None:
        incoming.add(Item(update))


def _find(run: LiveRun, key: str) -> Item | None:
    """What no code has seen under a key."""
    item = run.incoming.find(key)
    if item is None and run.state is DRIVING:  # which is about to see what was taken
        item = run.incoming.find_in_commit(key)
    return item


def take_held(run: LiveRun, effects: Effects, now: int) -> None:
    """Take what came from this process and had to wait."""
    held, run.incoming.held = run.incoming.held, ()
    for one in held:
        if isinstance(one, Mailed):
            _take(run, one.sequence, one.event)
        else:
            told(run, one, effects, now)


def child_ended(run: LiveRun, given: inputs.ChildEnded) -> None:
    """Let a run see at once how a child in this process ended."""
    # Perhaps it has read that by mail already.
    if _find(run, key_of(given.event)) is None:
        run.incoming.add(Item(given.event, request=given.request_id))


def take_child_start(run: LiveRun, begun: Attributes, number: int) -> None:
    """Let a run hear that its child has begun: before its end, or not at all."""
    view, incoming = run.replayer, run.incoming
    if view.pending_child(number) is None or _place_of_end(view.unprocessed, number):
        return
    if _place_of_end([item.event for item in incoming.in_commit], number):
        return
    # Whether the mail has brought it or this process: a run that another worker had
    # asks again for the child, which may end here before it is answered.
    place = _place_of_end([item.event for item in incoming.waiting], number)
    if place is None:
        incoming.add(Item(begun))
    else:
        incoming.waiting.insert(place - 1, Item(begun))
        incoming.keys = None


def _place_of_end(events: Iterable[TaskInput], number: int) -> int | None:
    """Where the end of a child stands, counted from 1."""
    for place, event in enumerate(events, 1):
        if isinstance(event, CHILD_OUTCOMES) and event.initiated_event_id == number:
            return place
    return None


# --- from the inbox -------------------------------------------------------------------


def mail_came(run: LiveRun, effects: Effects) -> None:
    """A message for the run was committed: have its inbox read."""
    if run.incoming.is_reading:
        run.incoming.has_more = True
    else:
        run.incoming.is_reading = True
        effects.rare.read_mail = True


def mail_read(run: LiveRun, given: inputs.MailRead, effects: Effects, now: int) -> bool:
    """Take what was read of the inbox; False if the run must be read to tell more."""
    incoming = run.incoming
    is_readable = given.messages is not None
    if given.messages:
        try:
            take_mail(run, given.messages)
        except CorruptHistoryError:
            is_readable = False
    if incoming.has_more and is_readable:
        incoming.has_more = False
        effects.rare.read_mail = True
    else:
        incoming.is_reading = incoming.has_more = False
        if incoming.held:
            take_held(run, effects, now)
    return is_readable


def take_inbox(
    run: LiveRun, messages: Sequence[MessageRecord], effects: Effects
) -> None:
    """Take all that the inbox of a run holds that was just caught up.

    What was made of it before goes: that may have been by an older history, if others
    have gone on with the run while it was at rest.

    Raises:
        CorruptHistoryError: one cannot be read.
    """
    incoming = run.incoming
    incoming.read, incoming.stale, run.resolutions = None, (), ()
    run.paused = None
    incoming.held = tuple([h for h in incoming.held if not isinstance(h, Mailed)])
    run.questions = tuple(
        [q for q in run.questions if not isinstance(q[1], MessageRecord)]
    )
    there = {message.sequence for message in messages}
    incoming.updates = {u: n for u, n in incoming.updates.items() if n in there}
    gone = [
        item
        for item in incoming.waiting
        if isinstance(item.event, UpdateRequest)
        and item.sequence is not None
        and item.sequence not in there
    ]
    if gone:  # others have refused it, or it came after the inbox was read
        incoming.waiting = [item for item in incoming.waiting if item not in gone]
        incoming.keys = None
        give_back_updates(gone, effects)
        mail_came(run, effects)
    take_mail(run, messages)
    note_pause(run)


def take_mail(run: LiveRun, messages: Iterable[MessageRecord]) -> None:
    """Put messages where the next turn takes them, each once.

    Raises:
        CorruptHistoryError: one cannot be read; none was taken.
    """
    incoming = run.incoming
    read = [(message, event_of_message(message)) for message in messages]
    for message, event in read:
        number = message.sequence
        if not incoming.is_fresh(number):
            continue
        if message.kind == MessageKind.QUERY.value:
            ask(run, message)
        elif event is None or isinstance(event, ActivityResolution):
            incoming.stale += (number,)
            if event is not None:
                run.resolutions += (event,)
        elif isinstance(event, ActivityReturned):
            # A row of its attempt says what has come of it.
            incoming.stale += (number,)
            run.must_read = run.must_read or run.state is not REPLAYING
        else:
            _take(run, number, event)
    incoming.put_mail_first()
    if any(isinstance(event, _PAUSES) for _, event in read):
        note_pause(run)


def stays_paused(loaded: LoadedRun) -> bool:
    """Whether a run was set aside as paused, and no message resumes it."""
    return is_paused(loaded.record.stuck) and not any(
        message.kind == MessageKind.RESUME.value for message in loaded.messages
    )


def note_pause(run: LiveRun) -> None:
    """Find out whether the run is paused, by what no code has seen."""
    waiting = (item.event for item in run.incoming.waiting)
    pauses = [e for e in (*run.replayer.unprocessed, *waiting) if type(e) in _PAUSES]
    was_paused = run.paused is not None
    last = pauses[-1] if pauses else None
    run.paused = last if isinstance(last, WorkflowExecutionPaused) else None
    # What it left in the inbox meanwhile is found there again.
    run.must_read = run.must_read or (was_paused and run.paused is None)


def _take(run: LiveRun, sequence: int, event: TaskInput) -> None:
    """Let a message of the inbox wait, unless the run has it already."""
    incoming, item = run.incoming, _find(run, key_of(event))
    if item is None:
        if _knows(run, event):
            if run.state is AT_REST or run.state is REPLAYING:
                incoming.stale += (sequence,)
            else:  # it may never be committed, and only the inbox has it then
                incoming.held += (Mailed(sequence, event),)
            return
        incoming.add(Item(event, sequence))
    elif item.sequence is None:  # it was handed in as well
        item.sequence = sequence
    elif item.sequence != sequence:
        # What the inbox had before was committed, though nobody has heard.
        incoming.stale += (sequence,)
        return
    if isinstance(event, UpdateRequest):
        incoming.updates[event.update_id] = sequence


def _knows(run: LiveRun, event: TaskInput) -> bool:
    if isinstance(event, UpdateRequest):
        return run.replayer.knows_update(event.update_id)
    return is_recorded(run.replayer, event)


def drop_recorded(run: LiveRun, effects: Effects, now: int) -> None:
    """Drop inputs that are recorded: a commit took place, its answer was lost.

    To be called when the run was caught up, before it goes on.
    """
    incoming = run.incoming
    waiting, incoming.waiting, incoming.keys = incoming.waiting, [], None
    for item in waiting:
        event = item.event
        if not is_recorded(run.replayer, event):
            incoming.waiting.append(item)
            continue
        incoming.drop(item)
        for token in item.tokens:
            effects.tell = also(effects.tell, (token, True))
        if isinstance(event, UpdateRequest):  # its sender hears of it once at rest
            incoming.updates.pop(event.update_id, None)
            told(run, inputs.Told(event), effects, now)
    untold, run.untold = run.untold, ()
    for update_id in untold:  # else it is answered again
        answer = run.replayer.update_answer(update_id)
        if answer is not None:
            effects.rare.news = also(effects.rare.news, (update_id, answer))


# --- questions ------------------------------------------------------------------------


def ask(run: LiveRun, token: Token) -> None:
    """Let somebody look at the run between two turns.

    What was there before the question must be seen first, and be durable.
    """
    commits = run.commits + (run.state is not AT_REST) + bool(run.incoming.waiting)
    run.questions += ((commits, token),)


def answer(run: LiveRun, effects: Effects) -> None:
    """Let those look for whom a run that is at rest has come far enough."""
    questions, run.questions = run.questions, ()
    for question in questions:
        if question[0] > run.commits and run.incoming.waiting:
            run.questions += (question,)
        elif isinstance(question[1], MessageRecord):
            reply = question[1], run.spend_epoch(stays=run.row[0])
            effects.rare.reply = also(effects.rare.reply, reply)
        else:
            effects.rare.ask = also(effects.rare.ask, question[1])


# --- around a commit ------------------------------------------------------------------


def passed_by_inbox(run: LiveRun) -> bool:
    """Whether the turn has messages that came from this process directly."""
    updates = run.incoming.updates
    for item in run.incoming.in_commit:
        event = item.event
        if item.tokens or (
            type(event) is UpdateRequest and event.update_id not in updates
        ):
            return True
    return False


def settled_updates(
    run: LiveRun, completion: WorkflowTaskCompletion, now: int
) -> tuple[tuple[int, ...], tuple[ReplyRecord, ...]]:
    """What a turn settled: inbox numbers of updates, and replies to refusals."""
    mail = run.incoming.updates
    if not mail:
        return (), ()
    # A run that ends has seen them all; what it left is for the next of its chain.
    numbers = list(mail.values()) if completion.is_closed else []
    replies: list[ReplyRecord] = []
    for update_id, failure in completion.rejected:
        number = mail.get(update_id)
        if number is not None:
            numbers.append(number)
            reply = ReplyRecord(
                run_id=run.run_id,
                request_id=update_request_id(update_id),
                data=encode_message(UpdateReply(failure)),
                created_at=now,
            )
            replies.append(reply)
    for event in completion.events:
        what = event.attributes
        if isinstance(what, WorkflowExecutionUpdateAccepted):
            number = mail.get(what.update_id)
            if number is not None:
                numbers.append(number)
    return tuple(numbers), tuple(replies)


def tell(run: LiveRun, completion: WorkflowTaskCompletion, effects: Effects) -> None:
    """A turn is durable: let those hear of it who wait for its messages."""
    incoming = run.incoming
    told = incoming.settle()
    if told:
        effects.tell = [*effects.tell, *told]
    if not run.replayer.has_mailbox:
        return  # then nothing was said of updates
    news = [*effects.rare.news, *completion.rejected]
    for event in completion.events:
        what = event.attributes
        if isinstance(
            what, WorkflowExecutionUpdateAccepted | WorkflowExecutionUpdateCompleted
        ):
            news.append((what.update_id, what))
    for update_id, _ in news:
        incoming.updates.pop(update_id, None)
    effects.rare.news = news


def give_back(run: LiveRun, effects: Effects) -> None:
    """The run leaves memory: whoever waits must ask the store.

    Who waits for an update that is being committed hears of it once that has ended.
    """
    incoming = run.incoming
    anything = incoming.in_commit or incoming.waiting or incoming.held
    if not (anything or run.questions or run.untold):
        return
    if run.questions:
        effects.rare.unanswered = [
            *effects.rare.unanswered,
            *(q[1] for q in run.questions),
        ]
        run.questions = ()
    for item in (*incoming.in_commit, *incoming.waiting):
        for token in item.tokens:
            effects.tell = also(effects.tell, (token, False))
        item.tokens = ()
    held = [one for one in incoming.held if isinstance(one, inputs.Told)]
    for one in held:
        refuse(one, effects)
    give_back_updates(incoming.waiting, effects)
    for update_id in run.untold:
        effects.rare.news = also(effects.rare.news, (update_id, None))
    incoming.waiting, incoming.keys, incoming.held = [], None, ()


def refuse(given: inputs.Told, effects: Effects) -> None:
    """Let who has a message for a run that cannot take it ask the store."""
    if isinstance(given.event, UpdateRequest):
        effects.rare.news = also(effects.rare.news, (given.event.update_id, None))
    elif given.token is not None:
        effects.tell = also(effects.tell, (given.token, False))


def give_back_updates(items: Iterable[Item], effects: Effects) -> None:
    """Let those ask the store who wait for updates of a run that left memory."""
    for item in items:
        if isinstance(item.event, UpdateRequest):
            effects.rare.news = also(effects.rare.news, (item.event.update_id, None))

"""What must be true after a race: nothing lost, nothing twice, one terminal event."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from durable import UpdateFailedError, UpdateRejectedError
from durable.api.registry import REGISTRY
from durable.converter import json
from durable.core.history.codec import decode_rows
from durable.core.history.events import (
    TERMINAL_EVENTS,
    HistoryEvent,
    StateTransitioned,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionSignaled,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Payload
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import WorkflowTask
from durable.doctor.doctor import examine
from durable.doctor.findings import Check
from durable.errors import (
    EngineClosedError,
    StoreError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.store.records import AttemptState, RunRecord, RunStatus
from durable.testing.replaying import replay_at_every_prefix
from tests.properties.puppets import Past
from tests.properties.race_world import Deed, World

_REFUSALS = (WorkflowClosedError, WorkflowNotFoundError)
_HANDLED = frozenset({"push", "heave"})
_UPDATES = frozenset({"ask", "work", "leave"})


class Chain(msgspec.Struct):
    """The runs of one workflow id that follow one another, oldest first."""

    records: list[RunRecord]
    histories: list[list[HistoryEvent]]
    past: Past
    unread: list[tuple[str, Any]]

    def events(self, kind: type[Any]) -> Iterator[Any]:
        """All events of a kind."""
        for history in self.histories:
            for event in history:
                if isinstance(event.attributes, kind):
                    yield event.attributes

    @property
    def last(self) -> RunRecord:
        """The newest run."""
        return self.records[-1]


# --- what is there --------------------------------------------------------------------


def read_chains(world: World) -> dict[str, list[Chain]]:
    """All chains of the database, by workflow id, and what their code remembers."""
    database = world.gate.database
    grouped: dict[str, dict[str, list[RunRecord]]] = {}
    for record in database.runs.values():  # in order of creation
        chains = grouped.setdefault(record.workflow_id, {})
        chains.setdefault(record.first_run_id, []).append(record)
    return {
        workflow_id: [_read_chain(database, records) for records in chains.values()]
        for workflow_id, chains in grouped.items()
    }


def _read_chain(database: Any, records: list[RunRecord]) -> Chain:
    histories = []
    for record in records:
        rows = database.history[record.run_id]
        histories.append(decode_rows([rows[event_id] for event_id in sorted(rows)]))
    past, unread = _remembered(histories[-1])
    return Chain(records, histories, past, unread)


_CLOSED_BY_OTHERS = (WorkflowExecutionTerminated, WorkflowExecutionTimedOut)


def _remembered(history: list[HistoryEvent]) -> tuple[Past, list[tuple[str, Any]]]:
    """What the code of a run remembers, and the signals that it has not received."""
    replayer = Replayer(lambda s: REGISTRY.get_workflow(s.workflow_type))
    try:
        now = history[-1].time
        done = replayer.process(WorkflowTask(now, (), history, is_replay_only=True))
        assert done.failure is None, done.failure
        if not any(
            event.task_number and not isinstance(event.attributes, _CLOSED_BY_OTHERS)
            for event in history
        ):  # closed before its first task
            return _carried_over(history)
        memory = replayer.query("memory", ())
        unread = [
            (signal.signal_name, msgspec.json.decode(signal.input[0].json))
            for signal in replayer.unread_signals()
        ]
        return json.decode(memory, Past, "a puppet's memory"), unread
    finally:
        replayer.tear_down()


def _carried_over(history: list[HistoryEvent]) -> tuple[Past, list[tuple[str, Any]]]:
    """What a run brought with it whose code never began."""
    started: Any = history[0].attributes
    past = Past()
    if started.input:
        past = json.decode(started.input[0], Past, "a puppet's past")
    signals = [event.attributes for event in history]
    return past, [
        (signal.signal_name, msgspec.json.decode(signal.input[0].json))
        for signal in signals
        if isinstance(signal, WorkflowExecutionSignaled)
    ]


# --- checks ---------------------------------------------------------------------------


def check_world(world: World, *, is_faulty: bool) -> dict[str, list[Chain]]:
    """Check everything that is at rest."""
    assert not world.loop.complaints, world.loop.complaints
    for deed in world.deeds:
        assert deed.ended or deed.is_forgotten, f"{deed} was never answered"
        if isinstance(deed.answer, StoreError):
            assert is_faulty, deed
    check_doctor(world)
    chains = read_chains(world)
    for workflow_id, found in chains.items():
        deeds = [deed for deed in world.deeds if deed.target == workflow_id]
        for chain in found:
            check_runs(chain)
        check_signals(found, deeds)
        check_updates(found, deeds, is_faulty=is_faulty)
        check_order(found, deeds)
    return chains


def check_doctor(world: World) -> None:
    """The doctor finds nothing."""
    found = ask_doctor(world)
    assert not found, found


def check_nothing_is_lost(world: World) -> None:
    """No attempt was taken for lost: its worker has lived all along."""
    database: Any = world.gate.database
    lost = [a for a in database.attempts.values() if a.state is AttemptState.LOST]
    assert not lost, lost


def check_rows(world: World) -> None:
    """What is committed calls for all that is under way: the process may die now."""
    found = [
        finding
        for finding in ask_doctor(world)
        if finding.startswith((Check.LOST_WAKE_UP.name, Check.WAITING.name))
        # Whether a live worker is late says nothing about what comes after its death.
        and not finding.endswith(" lives")
    ]
    assert not found, found


def ask_doctor(world: World) -> list[str]:
    """What the doctor finds."""

    async def ask() -> list[str]:
        store = world.away._store
        found = [f async for f in examine(store, settle=0) if not f.check.is_notice]
        return [f"{f.check.name}: {f.message}" for f in found]

    asking = world.loop.spawn(ask())
    world.settle()
    return asking.result()


def check_runs(chain: Chain) -> None:
    """Each run has one terminal event, its last, and replays at every prefix."""
    for number, (record, history) in enumerate(
        zip(chain.records, chain.histories, strict=True)
    ):
        ends = [e for e in history if isinstance(e.attributes, TERMINAL_EVENTS)]
        is_open = record.status is RunStatus.RUNNING
        assert len(ends) == (not is_open), (record, ends)
        assert is_open or ends[0] is history[-1]
        assert record.stuck is None, record.stuck
        is_last = number == len(chain.records) - 1
        assert is_last or isinstance(
            history[-1].attributes, WorkflowExecutionContinuedAsNew
        )
        published = None
        for event in history:
            if isinstance(event.attributes, StateTransitioned):
                published = event.attributes.current
        kept = None
        if record.state is not None:
            kept = msgspec.json.decode(record.state, type=Payload)
        assert kept == published
        replay_at_every_prefix(history)


def check_signals(chains: list[Chain], deeds: list[Deed]) -> None:
    """Each signal came once; its code received it once, or it is still unread."""
    for chain in chains:
        recorded = Counter(
            event.request_id for event in chain.events(WorkflowExecutionSignaled)
        )
        assert not recorded or max(recorded.values()) == 1, recorded
    everywhere = Counter(
        event.request_id
        for chain in chains
        for event in chain.events(WorkflowExecutionSignaled)
    )
    for deed in deeds:
        if deed.what in ("letter", "note", *_HANDLED):
            if deed.is_acknowledged and not _lies_in_a_grave(chains):
                assert everywhere[deed.key] >= 1, (deed, everywhere)
            # Sent again it may have met another chain of that id.
            times = sum(other.key == deed.key for other in deeds)
            assert everywhere[deed.key] <= times, (deed, everywhere)
    for chain in chains:
        check_receipts(chain)


def _lies_in_a_grave(chains: list[Chain]) -> bool:
    """Whether a termination may have thrown away what waited in an inbox."""
    return any(
        isinstance(history[-1].attributes, WorkflowExecutionTerminated)
        for chain in chains
        for history in chain.histories
    )


def check_receipts(chain: Chain) -> None:
    """Letters and notes: each is in the code's hands once, or unread."""
    letters: set[int] = set()
    notes: set[int] = set()
    pushed: set[int] = set()
    for event in chain.events(WorkflowExecutionSignaled):
        value = msgspec.json.decode(event.input[0].json)
        if event.signal_name == "letters":
            letters.add(value["number"])
        elif event.signal_name == "notes":
            notes.add(value)
        else:
            pushed.add(value)
    unread = chain.unread
    seen = chain.past.seen + [v["number"] for name, v in unread if name == "letters"]
    assert sorted(seen) == sorted(letters), (chain.past, unread, letters)
    noted = chain.past.noted + [value for name, value in unread if name == "notes"]
    assert sorted(noted) == sorted(notes), (chain.past, unread, notes)
    assert len(set(chain.past.pushed)) == len(chain.past.pushed)
    assert set(chain.past.pushed) <= pushed


def check_order(chains: list[Chain], deeds: list[Deed]) -> None:
    """A letter that was acknowledged before another was sent is received before it."""
    # One that was sent again when its run had ended reached another chain, too.
    seen_in = Counter(number for chain in chains for number in set(chain.past.seen))
    for chain in chains:
        place = {number: index for index, number in enumerate(chain.past.seen)}
        letters = [
            deed
            for deed in deeds
            if deed.what == "letter"
            and deed.is_acknowledged
            and deed.number in place
            and seen_in[deed.number] == 1
        ]
        first: dict[int, Deed] = {}
        for deed in letters:
            first.setdefault(deed.number, deed)
        for deed in letters:
            known = first.get(deed.number)
            if known is not None and known.is_home != deed.is_home:
                del first[deed.number]  # two processes sent it
        for earlier in first.values():
            for later in first.values():
                if earlier.ended < later.begun:
                    assert place[earlier.number] < place[later.number], (earlier, later)


def check_updates(chains: list[Chain], deeds: list[Deed], *, is_faulty: bool) -> None:
    """Each accepted update has one answer, or its run ended; others left no trace."""
    for chain in chains:
        for history in chain.histories:
            check_updates_of_run(history)
        taken = Counter(
            int(event.update_id.rpartition("-")[2])
            for event in chain.events(WorkflowExecutionUpdateAccepted)
        )
        assert Counter(chain.past.answered) <= taken, (chain.past, taken)
    accepted = Counter(
        event.update_id
        for chain in chains
        for event in chain.events(WorkflowExecutionUpdateAccepted)
    )
    answers = {
        event.update_id: event
        for chain in chains
        for event in chain.events(WorkflowExecutionUpdateCompleted)
    }
    for deed in deeds:
        if deed.what not in _UPDATES or not deed.ended:
            continue
        if deed.is_acknowledged:
            assert deed.answer == deed.number
            assert accepted[deed.key] >= 1, (deed, accepted)
            assert answers[deed.key].failure is None
        elif isinstance(deed.answer, UpdateRejectedError):
            assert deed.number % 4 == 3
            assert accepted[deed.key] == 0
        elif isinstance(deed.answer, UpdateFailedError):
            assert accepted[deed.key] >= 1, (deed, accepted)
        elif isinstance(deed.answer, _REFUSALS):
            # Sent twice, one may have reached a run that the other one never did.
            is_only = sum(other.key == deed.key for other in deeds) == 1
            assert is_faulty or not is_only or not accepted[deed.key], (deed, accepted)
        elif not (deed.is_home and isinstance(deed.answer, EngineClosedError)):
            assert is_faulty, deed


def check_updates_of_run(history: list[HistoryEvent]) -> None:
    """Acceptance before the answer, each of them once."""
    accepted: set[str] = set()
    answered: set[str] = set()
    for event in history:
        what = event.attributes
        if isinstance(what, WorkflowExecutionUpdateAccepted):
            assert what.update_id not in accepted
            accepted.add(what.update_id)
        elif isinstance(what, WorkflowExecutionUpdateCompleted):
            assert what.update_id in accepted - answered
            answered.add(what.update_id)
    if not isinstance(history[-1].attributes, TERMINAL_EVENTS):
        assert accepted == answered

"""What must be true of parents and children after a race."""

from collections.abc import Iterator

import msgspec

from durable.core.history.events import (
    CHILD_OUTCOMES,
    ChildWorkflowExecutionStarted,
    HistoryEvent,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    WorkflowExecutionSignaled,
    WorkflowExecutionTerminated,
)
from durable.store.records import RunRecord, RunStatus
from tests.properties.race_checks import Chain


def check_families(chains: dict[str, list[Chain]]) -> None:
    """Each child was born once, each parent heard of it once, and so on."""
    everybody = [chain for found in chains.values() for chain in found]
    records = {r.run_id: r for chain in everybody for r in chain.records}
    last_of = {r.run_id: c.last for c in everybody for r in c.records}
    for chain in everybody:
        for record, history in zip(chain.records, chain.histories, strict=True):
            asked = dict(_asked(history))
            born = _children_of(record, records)
            assert set(born) <= set(asked), (record, born)
            _check_outcomes(record, history, asked, born, last_of)
        outcomes = [outcome.partition(" ")[0] for outcome in chain.past.outcomes]
        assert len(set(outcomes)) == len(outcomes), chain.past
        assert len(set(chain.past.born)) == len(chain.past.born), chain.past
    _check_sent(everybody)


def _asked(
    history: list[HistoryEvent],
) -> Iterator[tuple[int, StartChildWorkflowExecutionInitiated]]:
    for event in history:
        if isinstance(event.attributes, StartChildWorkflowExecutionInitiated):
            yield event.event_id, event.attributes


def _children_of(
    parent: RunRecord, records: dict[str, RunRecord]
) -> dict[int, RunRecord]:
    """The first runs of its children, by the event that asked for them."""
    born: dict[int, RunRecord] = {}
    for record in records.values():
        if record.parent_run_id == parent.run_id:
            number = record.parent_initiated_event_id or 0
            first = record.first_run_id == record.run_id
            assert not (first and number in born), (parent, record)
            if first:
                born[number] = record
    return born


def _check_outcomes(
    record: RunRecord,
    history: list[HistoryEvent],
    asked: dict[int, StartChildWorkflowExecutionInitiated],
    born: dict[int, RunRecord],
    last_of: dict[str, RunRecord],
) -> None:
    begun: set[int] = set()
    ended: set[int] = set()
    for event in history:
        what = event.attributes
        if isinstance(what, ChildWorkflowExecutionStarted):
            assert what.initiated_event_id in asked.keys() - begun - ended
            assert born[what.initiated_event_id].run_id == what.run_id
            begun.add(what.initiated_event_id)
        elif isinstance(what, CHILD_OUTCOMES):
            assert what.initiated_event_id in asked.keys() - ended
            ended.add(what.initiated_event_id)
            if isinstance(what, StartChildWorkflowExecutionFailed):
                assert what.initiated_event_id not in born
    is_open = record.status is RunStatus.RUNNING
    for number, initiated in asked.items():
        if is_open:
            assert number in begun | ended, f"nobody starts child {number}"
        child = born.get(number)
        if child is None:
            # Its parent ended in the turn that asked for it, or it could not begin.
            assert number in ended or not is_open
            continue
        last = last_of[child.run_id]
        is_alive = last.status is RunStatus.RUNNING
        assert is_open is False or (number in ended) is not is_alive, (record, last)
        if not is_open and initiated.settings.parent_close_policy == "terminate":
            assert not is_alive, (record, last)


def _check_sent(chains: list[Chain]) -> None:
    """A letter that was sent on, and acknowledged, has come."""
    came = {
        msgspec.json.decode(event.input[0].json)["number"]
        for chain in chains
        for event in chain.events(WorkflowExecutionSignaled)
        if event.signal_name == "letters"
    }
    graves = any(
        isinstance(event, WorkflowExecutionTerminated)
        for chain in chains
        for event in chain.events(WorkflowExecutionTerminated)
    )
    for chain in chains:
        if not graves:
            assert set(chain.past.sent) <= came, (chain.past, came)

"""Golden histories: what earlier releases recorded must replay for ever.

Files in `histories/` are named `<release>-<recording>.json` and are never edited.
`DURABLE_RECORD=1 pytest tests/replay` adds those of the present release that are
missing, on the day of the release; it never changes one that is there.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import Interceptor, NondeterminismError
from durable.core.history.events import EVENT_TYPES, RESERVED_EVENT_TYPES, HistoryEvent
from durable.testing.histories import comparable, dump_history, load_history
from durable.testing.replaying import replay, replay_at_every_prefix
from tests.replay import message_workflows, workflows
from tests.replay.recordings import RECORDINGS

FOLDER = Path(__file__).parent / "histories"
RELEASE = ".".join(durable.__version__.split(".")[:2])


def portable(text: str) -> str:
    """Leave out where on this machine the code lay."""
    return re.sub(r'[^" ]*/(tests/replay/)', r"\1", text)


def record_missing() -> None:
    for name, record in RECORDINGS.items():
        path = FOLDER / f"{RELEASE}-{name}.json"
        if not path.exists():
            path.write_text(portable(dump_history(record().history)))


if os.environ.get("DURABLE_RECORD"):
    record_missing()
EDITS = (
    (r'("(?:activity|timer)_id":)"1"', r'\1"91"'),
    (r'("workflow_id":"(?:started|abandon|other))"', r'\1, or not"'),
    (r'"insured"', '"other"'),
)
HISTORIES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_golden_history_replays_at_every_prefix(path: Path) -> None:
    replayed = replay_at_every_prefix(path, [workflows, message_workflows])
    assert replayed.terminal is not None


class Traced(Interceptor):
    """Has a span around whatever workflow code does."""

    async def execute_workflow(self, input: Any, next: Any) -> Any:
        with durable.span("execute_workflow"):
            return await next(input)

    async def handle_signal(self, input: Any, next: Any) -> None:
        with durable.span("handle_signal"):
            await next(input)

    async def handle_update(self, input: Any, next: Any) -> Any:
        with durable.span("handle_update"):
            return await next(input)

    async def start_activity(self, input: Any, next: Any) -> Any:
        with durable.span("start_activity"):
            return await next(input)

    def start_child_workflow(self, input: Any, next: Any) -> Any:
        with durable.span("start_child_workflow"):
            return next(input)

    async def signal_external_workflow(self, input: Any, next: Any) -> None:
        with durable.span("signal_external_workflow"):
            await next(input)

    def continue_as_new(self, input: Any, next: Any) -> Any:
        with durable.span("continue_as_new"):
            return next(input)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_golden_history_replays_with_tracing_that_was_not_there(path: Path) -> None:
    """Users met histories that no longer replayed once others traced their code."""
    code = [workflows, message_workflows]
    plain = replay(path, code)
    assert replay(path, code, interceptors=[Traced(), Traced()]) == plain


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording_of_this_release_is_kept_and_still_made(name: str) -> None:
    """The same code in the same world still does the same, to the microsecond."""
    kept = load_history((FOLDER / f"{RELEASE}-{name}.json").read_text())
    assert comparable(without_traces(RECORDINGS[name]().history)) == comparable(
        without_traces(kept)
    )


def without_traces(history: list[HistoryEvent]) -> list[HistoryEvent]:
    return load_history(portable(dump_history(history)))


def test_golden_histories_hold_every_kind_of_event() -> None:
    kinds = {
        type(event.attributes).__name__
        for path in HISTORIES
        for event in load_history(path.read_text())
    }
    from_outside = {"WorkflowExecutionTimedOut", "WorkflowExecutionTerminated"}
    assert set(EVENT_TYPES) - kinds <= from_outside | {"ActivityTaskTimedOut"}
    assert not kinds & RESERVED_EVENT_TYPES


def test_golden_histories_name_no_machine() -> None:
    for path in HISTORIES:
        for event in load_history(path.read_text()):
            source = getattr(event.attributes, "source", "")
            assert not source.startswith("/"), path


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_edited_golden_history_does_not_replay(path: Path) -> None:
    """The check can fail: another id in the first command is a mismatch."""
    text = path.read_text()
    for pattern, other in EDITS:
        edited = re.sub(pattern, other, text, count=1)
        if edited != text:
            break
    with pytest.raises(NondeterminismError):
        replay_at_every_prefix(edited, [workflows, message_workflows])

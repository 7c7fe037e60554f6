"""What code has for an observer is the same whenever the run leaves memory between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import durable
from durable import activity, workflow
from durable.converter import json
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    CheckpointRecorded,
    HistoryEvent,
)
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskInput, WorkflowTask
from durable.observer import Measurement, Note
from tests.sizes import examples
from tests.unit.api.one_run import RUN_ID, START, OneRun

TURNS_MAX = 200
COUNTED = durable.meter().create_counter("notes.counted")
Program = list[Any]


@activity(name="notes.act")
async def act() -> None:
    """Completed by the test."""


async def walk(program: Program) -> None:
    for what, *inner in program:
        if what == "count":
            COUNTED.add(1)
        elif what == "act":
            await act()
        elif what == "sleep":
            await durable.sleep(1)
        elif what == "span":
            with durable.span("span"):
                await walk(inner[0])
        elif what == "fail":
            try:
                with durable.span("failing"):
                    await walk(inner[0])
                    raise ValueError
            except ValueError:
                pass
        elif what == "together":
            await asyncio.gather(*map(walk, inner[0]))


@workflow(name="notes.walker", checkpoint_every=1)
async def walker(program: Program) -> None:
    while program:
        head, *program = program
        if head == ["checkpoint"]:
            durable.checkpoint(program)
        else:
            await walk([head])


def programs() -> st.SearchStrategy[Program]:
    leaves = st.sampled_from([["count"], ["act"], ["sleep"]])

    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, max_size=3)
        return st.one_of(
            st.tuples(st.sampled_from(["span", "fail"]), several).map(list),
            st.tuples(st.just("together"), st.lists(several, max_size=3)).map(list),
        )

    steps = st.recursive(leaves, nest, max_leaves=8)
    return st.lists(st.one_of(steps, st.just(["checkpoint"])), min_size=1, max_size=6)


def make_headers(*, run_id: str, key: str, parent: Any) -> dict[str, str]:
    assert run_id == RUN_ID
    return {"key": key, "above": parent.get("key", "start")}


def as_data(note: Note) -> tuple[Any, ...]:
    if isinstance(note, Measurement):
        return note.instrument.name, note.value
    above = note.parent.get("key", "start")
    return note.key, above, note.started_at, note.ended_at, note.error_type


def since_checkpoint(history: list[HistoryEvent]) -> list[HistoryEvent]:
    """What a worker reads of a history: its first event, and from where it begins."""
    for index in reversed(range(len(history))):
        if isinstance(history[index].attributes, CheckpointRecorded):
            return history[:1] + history[index:]
    return history


def play(program: Program, leaves: Callable[[], bool]) -> tuple[list[Any], list[Any]]:
    """Drive a run to its end; give what it tells, and the headers of its activities."""
    one = OneRun(walker(program))

    def make() -> Replayer:
        return Replayer(lambda _: one.definition, make_headers=make_headers)

    replayer, now = make(), START
    inputs: tuple[TaskInput, ...] = (one._started,)
    history: list[HistoryEvent] = []
    told: list[Any] = []
    headers: dict[int, Any] = {}
    for turn in range(TURNS_MAX):
        if turn and leaves():
            replayer.tear_down()
            assert not replayer.take_notes()  # its cleanup has told nothing
            replayer = make()
            kept = tuple(since_checkpoint(history))
            replayed = WorkflowTask(now, (), kept, is_replay_only=True)
            assert replayer.process(replayed).failure is None
            assert not replayer.take_notes()
        done = replayer.process(WorkflowTask(now, inputs))
        assert done.failure is None, done.failure
        told += map(as_data, replayer.take_notes())
        history += done.events
        for event in done.events:
            if isinstance(event.attributes, ActivityTaskScheduled):
                machine = replayer.find_activity(event.event_id)
                assert machine is not None
                headers[event.event_id] = machine.headers
        for machine in replayer.pending_activities():
            assert machine.headers == headers[machine.scheduled_event_id]
        if done.is_closed:
            replayer.tear_down()
            return told, sorted(headers.items())
        now = max(now + 1, replayer.next_timer_at() or 0)
        inputs = tuple(
            ActivityTaskCompleted(
                scheduled_event_id=machine.scheduled_event_id,
                result=json.encode(None, type(None), "nothing"),
                attempt=1,
                started_at=now,
            )
            for machine in replayer.pending_activities()[:1]
        )
    raise AssertionError("it does not end")


@settings(max_examples=examples(300))
@given(programs(), st.randoms(use_true_random=False))
def test_leaving_memory_at_any_turn_changes_nothing_that_is_told(
    program: Program, random: Any
) -> None:
    told, headers = play(program, lambda: False)

    assert play(program, lambda: True) == (told, headers)
    assert play(program, lambda: random.random() < 0.5) == (told, headers)
    keys = [one[0] for one in told if len(one) > 2]
    assert len(set(keys)) == len(keys)


def test_program_tells_what_it_is_made_of() -> None:
    program = [
        [
            "span",
            [["count"], ["act"], ["together", [[["act"]], [["fail", [["act"]]]]]]],
        ],
        ["checkpoint"],
        ["span", [["sleep"], ["act"]]],
    ]
    told, headers = play(program, lambda: True)

    assert [one[-1] for one in told] == [1, "ValueError", None, None]
    assert len(headers) == 4
    assert None not in [one for _, one in headers]

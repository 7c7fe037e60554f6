"""Checkpoints and continuing as new, where other things happen in the same turn."""

import asyncio

import pytest

import durable
from durable import (
    ApplicationError,
    Signal,
    activity,
    checkpoint,
    continue_as_new,
    info,
    patched,
    set_signal_handler,
    set_update_handler,
    sleep,
    workflow,
)
from durable.core.history.events import (
    CheckpointRecorded,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
)
from durable.core.runtime import get_runtime
from durable.errors import WorkflowTaskError
from durable.testing import Driver, replay_at_every_prefix

words = Signal("words", str)


@activity(name="checkpoints.step", retry=None)
async def step(value: int) -> int:
    return value


def marks(driver: Driver) -> list[int]:
    return [
        event.event_id
        for event in driver.history
        if isinstance(event.attributes, CheckpointRecorded)
    ]


@pytest.mark.parametrize("is_failure", [False, True])
def test_no_checkpoint_is_taken_in_the_turn_in_which_a_handler_ends_the_run(
    is_failure: bool,
) -> None:
    @workflow(name=f"checkpoints.ended {is_failure}", checkpoint_every=1)
    async def ended() -> None:
        def end() -> None:
            if is_failure:
                raise ApplicationError("over")
            continue_as_new()

        set_signal_handler("end", end)
        while True:
            await sleep(1)
            checkpoint()

    driver = Driver(ended())
    driver.start()
    driver.clock.advance(1)
    driver.turn(driver.signalled("end"))
    kind = WorkflowExecutionFailed if is_failure else WorkflowExecutionContinuedAsNew
    assert isinstance(driver.history[-1].attributes, kind)
    assert marks(driver) == []
    replay_at_every_prefix(driver.history)


def test_at_most_one_checkpoint_is_taken_in_a_turn() -> None:
    @workflow(name="checkpoints.eager", checkpoint_every=1)
    async def eager(left: int) -> str:
        if not left:
            return "done"
        if left % 3 == 0:
            await step(left)
        checkpoint(left - 1)
        checkpoint(left - 1)
        return await words.receive()

    driver = Driver(eager(9))
    driver.start()
    while driver.pending:
        before = len(marks(driver))
        driver.complete(driver.pending[0], 1)
        assert len(marks(driver)) - before <= 1
    driver.crash()
    driver.replay()
    replay_at_every_prefix(driver.history)


def test_code_after_a_checkpoint_is_live_and_replayed_only_later() -> None:
    seen: list[tuple[int, bool]] = []

    @workflow(name="checkpoints.watched", checkpoint_every=1)
    async def watched(round: int) -> None:
        seen.append((round, get_runtime("test").is_replaying))
        await step(round)
        checkpoint(round + 1)

    driver = Driver(watched(0))
    driver.start()
    driver.complete(driver.pending[0], 0)
    assert seen == [(0, False), (1, False)]
    driver.crash()
    driver.complete(driver.pending[0], 0)
    assert seen[2:] == [(0, True), (1, True), (2, False)]


def test_what_goes_on_from_a_checkpoint_is_what_a_cold_reading_sees() -> None:
    """Time, randomness, ids, patches and unread signals: live as after a restart."""

    @workflow(name="checkpoints.seeing", checkpoint_every=1)
    async def seeing(seen: list[str]) -> list[str]:
        seen += [
            str(durable.uuid4()),
            durable.now().isoformat(),
            str(info().started_at),
            str(info().history_length),
            str(patched("new")),
        ]
        await step(len(seen))
        if len(seen) >= 15:
            return [*seen, await words.receive(), await words.receive()]
        checkpoint(seen)
        return ["no checkpoint"]

    results: list[list[str]] = []
    for crashes in (False, True):
        driver = Driver(seeing([]))
        driver.start()
        driver.signal(words("one"))
        while driver.pending:
            if crashes:
                driver.crash()
            driver.clock.advance(1)
            driver.turn(
                driver.completed(driver.pending[0], 1), driver.signalled(words("two"))
            )
        assert len(marks(driver)) == 2
        replay_at_every_prefix(driver.history)
        results.append(driver.result())
    assert results[0] == results[1]
    assert results[0][-2:] == ["one", "two"]


def test_a_checkpoint_with_cleanup_around_it_parks_the_run() -> None:
    @workflow(name="checkpoints.clinging", checkpoint_every=1)
    async def clinging() -> None:
        await step(1)
        try:
            checkpoint()
        finally:
            await step(2)

    driver = Driver(clinging())
    driver.start()
    with pytest.raises(WorkflowTaskError, match="went on"):
        driver.complete(driver.pending[0], 1)


def test_a_handler_that_is_unfinished_when_the_run_continues_is_missed() -> None:
    @workflow(name="checkpoints.hasty")
    async def hasty() -> None:
        async def work() -> None:
            await step(1)

        set_signal_handler("work", work)
        set_signal_handler("rest", work, unfinished="abandon")
        await words.receive()
        continue_as_new()

    driver = Driver(hasty())
    driver.start()
    driver.signal("rest")
    driver.signal("work")
    driver.turn(driver.signalled(words("go")))
    assert isinstance(driver.history[-1].attributes, WorkflowExecutionContinuedAsNew)
    (entry,) = driver.unhandled
    assert "'work'" in str(entry["message"])
    assert "'rest'" not in str(entry["message"])
    replay_at_every_prefix(driver.history)


@pytest.mark.parametrize("where", ["main", "signal", "update"])
def test_continuing_within_a_task_group_continues(where: str) -> None:
    """The group wraps it in one of its own; that is looked through."""

    @workflow(name=f"checkpoints.grouped {where}")
    async def grouped() -> None:
        async def leave() -> None:
            await asyncio.sleep(0)
            continue_as_new()

        async def go_on() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(leave())
                group.create_task(asyncio.sleep(5))

        if where == "main":
            await go_on()
        elif where == "signal":
            set_signal_handler("go_on", go_on)
        else:
            set_update_handler("go_on", go_on)
        await words.receive()

    driver = Driver(grouped())
    driver.start()
    if where == "signal":
        driver.signal("go_on")
    elif where == "update":
        driver.update("go_on")
    last = driver.history[-1].attributes
    assert isinstance(last, WorkflowExecutionContinuedAsNew)
    replay_at_every_prefix(driver.history)


def test_continuing_beside_an_error_in_a_group_is_a_failure() -> None:
    @workflow(name="checkpoints.grouped_error")
    async def grouped() -> None:
        async def leave() -> None:
            continue_as_new()

        async def fail() -> None:
            raise ApplicationError("no")

        async with asyncio.TaskGroup() as group:
            group.create_task(leave())
            group.create_task(fail())

    driver = Driver(grouped())
    driver.start()
    assert isinstance(driver.history[-1].attributes, WorkflowExecutionFailed)

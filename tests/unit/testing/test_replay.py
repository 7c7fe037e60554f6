"""Replaying recorded histories: what agrees, what does not, and files of them."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ApplicationError,
    NondeterminismError,
    WorkflowFailedError,
    activity,
    continue_as_new,
    patched,
    sleep,
    uuid4,
    workflow,
)
from durable.api.registry import REGISTRY
from durable.core.history.events import HistoryEvent, WorkflowExecutionTerminated
from durable.errors import CorruptHistoryError, InternalError, NotRegisteredError
from durable.testing.driver import Driver
from durable.testing.environment import TestEnvironment
from durable.testing.histories import comparable, dump_history, load_history
from durable.testing.replaying import replay, replay_at_every_prefix


@activity(name="replay.add", retry=None)
async def add(left: int, right: int) -> int:
    return left + right


@activity(name="replay.join", retry=None)
async def join(listed: list[str], some: set[str]) -> str:
    return "".join(listed)


@workflow(name="replay.summing")
async def summing(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
        if patched("nap"):
            await sleep(1)
    return total


@pytest.fixture(autouse=True)
def _keep_definitions() -> Iterator[None]:
    """Local functions replace what is known by their name; put it back."""
    yield
    REGISTRY.workflows[summing.name] = summing


def record(count: int = 4) -> list[HistoryEvent]:
    driver = Driver(summing(count))
    driver.start()
    while not driver.is_closed:
        if driver.pending:
            driver.complete(driver.pending[0], 5)
        else:
            driver.fire_next_timer()
    return driver.history


def test_history_that_agrees_gives_its_result() -> None:
    history = record()
    for check in (replay, replay_at_every_prefix):
        replayed = check(history)
        assert (replayed.result, replayed.workflow_type) == (5, "replay.summing")
        assert replayed.event_count == len(history)
        assert replayed.task_count == 9
        assert replayed.terminal is history[-1].attributes
        assert (replayed.pending_activities, replayed.next_timer_at) == ((), None)


def test_history_of_an_open_run_says_what_it_waits_for() -> None:
    driver = Driver(summing(2))
    driver.start()
    replayed = replay(driver.history)
    assert (replayed.result, replayed.terminal) == (None, None)
    assert replayed.pending_activities == ("replay.add",)
    driver.complete(2, 5)
    assert replay_at_every_prefix(driver.history).next_timer_at is not None


@pytest.mark.parametrize("cut", range(1, 18))
def test_every_prefix_of_a_history_replays(cut: int) -> None:
    history = record()[:cut]
    whole_tasks = [e for e in record() if e.task_number < history[-1].task_number]
    if whole_tasks:
        replay_at_every_prefix(whole_tasks)


def test_file_and_text_and_events_are_all_histories(tmp_path: Path) -> None:
    history = record()
    text = dump_history(history)
    path = tmp_path / "history.json"
    path.write_text(text)
    assert load_history(text) == history
    assert [replay(h).result for h in (history, text, text.encode(), path)] == [5] * 4
    assert text.count("\n") == len(history) + 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[1]", '[{"event_id":1}]', "not json", b"\xff"]
)
def test_what_is_no_history_is_a_typed_error(text: str | bytes) -> None:
    with pytest.raises(CorruptHistoryError):
        replay(text)


def test_code_that_changed_is_found() -> None:
    history = record()

    @workflow(name="replay.summing")
    async def changed(count: int) -> int:
        return await add(count, count)

    with pytest.raises(NondeterminismError):
        replay(history, [changed, add])
    replay(history, [summing, add])
    with pytest.raises(NotRegisteredError):
        replay(history, [add])


def test_bug_in_the_code_is_raised_as_it_is() -> None:
    history = record()

    @workflow(name="replay.summing")
    async def buggy(count: int) -> int:
        raise ZeroDivisionError if count < 0 else KeyError("bug")

    with pytest.raises(KeyError):
        replay(history, [buggy])


def test_result_that_depends_on_the_process_is_found_at_a_prefix() -> None:
    numbers = itertools.count()

    @workflow(name="replay.counting")
    async def counting() -> int:
        await add(1, 1)
        return next(numbers)

    driver = Driver(counting())
    driver.start()
    driver.complete(2, 2)
    with pytest.raises(NondeterminismError, match="the result differs"):
        replay(driver.history, [counting])
    with pytest.raises(NondeterminismError, match="before workflow task 2") as caught:
        replay_at_every_prefix(driver.history, [counting])
    assert caught.value.event_id == 4
    assert "not recorded" in str(caught.value)


def test_command_too_many_or_too_few_is_found_at_a_prefix() -> None:
    is_live = True

    @workflow(name="replay.leaning")
    async def leaning() -> None:
        await add(1, 1)
        if is_live:
            await sleep(1)

    driver = Driver(leaning())
    driver.start()
    driver.complete(2, 2)
    is_live = False
    with pytest.raises(NondeterminismError, match="before workflow task 2"):
        replay_at_every_prefix(driver.history, [leaning])


def test_inputs_that_waited_belong_to_the_task_that_took_them() -> None:
    driver = Driver(summing(2))
    driver.start()
    driver.record(driver.completed(2, 5))
    driver.turn()
    driver.record(driver.cancel_requested())
    assert replay_at_every_prefix(driver.history).terminal is None
    driver.turn()
    replayed = replay_at_every_prefix(driver.history)
    assert type(replayed.terminal).__name__ == "WorkflowExecutionCanceled"


def test_terminated_history_replays() -> None:
    driver = Driver(summing(2))
    driver.start()
    driver.turn(WorkflowExecutionTerminated("why"))
    replayed = replay_at_every_prefix(driver.history)
    assert isinstance(replayed.terminal, WorkflowExecutionTerminated)


async def test_histories_of_an_engine_replay_at_every_prefix() -> None:
    async with TestEnvironment() as env:
        run = await env.start(summing(5))
        await run.result()
        assert replay_at_every_prefix(await run.history()).result == 10
        run = await env.start(summing(5))
        await env.settle()
        await run.terminate()
        replay_at_every_prefix(await run.history())


def test_comparison_leaves_out_where_and_who() -> None:
    history = record()
    text = dump_history(history)
    moved = load_history(text.replace(__file__, "elsewhere.py"))
    assert moved != history
    assert comparable(moved) == comparable(history)
    assert comparable(history[1:]) != comparable(history[:-1])


# --- the driver -----------------------------------------------------------------------


def test_driver_raises_what_the_run_failed_with() -> None:
    @workflow
    async def failing() -> None:
        raise ValueError("no")

    driver = Driver(failing())
    driver.start()
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert isinstance(caught.value.__cause__, ValueError)


def test_driver_refuses_what_makes_no_sense() -> None:
    driver = Driver(summing(1))
    driver.start()
    with pytest.raises(InternalError, match="schedules no activity"):
        driver.complete(1, 5)
    with pytest.raises(InternalError, match="No timer"):
        driver.fire_next_timer()
    with pytest.raises(InternalError, match="ends with"):
        driver.result()
    with pytest.raises(ValueError, match=r"result of 'replay.add'"):
        driver.complete(2, "text")


def test_driver_draws_the_same_every_time() -> None:
    @workflow
    async def drawing() -> str:
        return str(uuid4())

    def draw(run_id: str | None = None) -> str:
        driver = Driver(drawing(), run_id=run_id) if run_id else Driver(drawing())
        driver.start()
        return str(driver.result())

    assert draw() == draw()
    assert draw("another") != draw()


# --- how a run ends -------------------------------------------------------------------


class Refused(Exception):
    """What one version of the code raises."""


def _endings() -> dict[str, Any]:
    """Ways for code to end that differ; each asks for the same before."""

    def fail(error: Exception) -> Callable[[], Any]:
        def raise_it() -> Any:
            raise error

        return raise_it

    return {
        "1": lambda: 1,
        "2": lambda: 2,
        "true": lambda: True,
        "text": lambda: "1",
        "failure": fail(ApplicationError("why")),
        "other message": fail(ApplicationError("why not")),
        "other type": fail(ApplicationError("why", type="Other")),
        "own class": fail(Refused("why")),
        "next": lambda: continue_as_new(1),
        "other next": lambda: continue_as_new(2),
    }


@pytest.mark.parametrize("then", _endings())
@pytest.mark.parametrize("now", _endings())
def test_another_end_of_the_run_is_found(then: str, now: str) -> None:
    way = then

    @workflow(name="replay.ending")
    async def ending(number: int = 0) -> Any:
        await add(1, 1)
        return _endings()[way]()

    driver = Driver(ending())
    driver.start()
    driver.complete(2, 2)
    assert driver.is_closed
    replay(driver.history, [ending])
    way = now
    if now == then:
        replay_at_every_prefix(driver.history, [ending])
        return
    with pytest.raises(NondeterminismError) as caught:
        replay(driver.history, [ending])
    assert caught.value.event_id == driver.history[-1].event_id
    assert "why" not in str(caught.value)


def test_where_an_object_lay_in_memory_is_no_difference() -> None:
    @workflow(name="replay.ending")
    async def ending() -> None:
        raise ApplicationError(f"{object()!r} is odd")

    driver = Driver(ending())
    driver.start()
    with contextlib.suppress(WorkflowFailedError):
        driver.result()
    kept = [object() for _ in range(3)]
    replay(driver.history, [ending])
    assert kept


def test_a_set_of_texts_replays_in_every_process(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sets_of_texts.py")
    file = tmp_path / "history.json"
    for seed, task in enumerate(("record", "replay", "replay", "replay"), start=1):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script), task, str(file)],
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_a_list_in_another_order_is_a_difference() -> None:
    order = 1

    @workflow(name="replay.ordering")
    async def ordering() -> set[str]:
        await join(["a", "b"][::order], {"a", "b"})
        return {"a", "b"}

    driver = Driver(ordering())
    driver.start()
    driver.complete(2, "ab")
    order = -1
    with pytest.raises(NondeterminismError, match="arguments"):
        replay(driver.history, [ordering, join])
    with pytest.raises(NondeterminismError, match="before workflow task 1"):
        replay_at_every_prefix(driver.history, [ordering, join])

"""The timer machine at every cut: how it can stand when a turn ends."""

import asyncio
from typing import Any

import pytest

from durable import NondeterminismError, activity, sleep, wait_condition, workflow
from durable.core.history.commands import CancelTimer, CompleteWorkflowExecution
from durable.core.history.events import TimerCanceled, TimerFired, TimerStarted
from durable.core.machines.machine import Move, State
from durable.core.machines.timer import TimerMachine
from durable.errors import InternalError
from durable.testing.driver import Driver


@activity(name="timer machine.look", retry=None)
async def look() -> int:
    return 1


@workflow(name="timer machine.waiting")
async def waiting(seconds: float) -> str:
    await sleep(seconds, summary="a nap")
    return "rested"


def started(seconds: float = 10) -> Driver:
    driver = Driver(waiting(seconds))
    driver.start()
    return driver


def test_started_event_holds_the_duration_in_microseconds() -> None:
    event = started(1.5).history[1].attributes
    assert isinstance(event, TimerStarted)
    assert (event.timer_id, event.start_to_fire_timeout) == ("1", 1_500_000)
    assert event.summary == "a nap"
    assert event.source.startswith(__file__)


@pytest.mark.parametrize("crash", [False, True])
def test_pending_timer_waits_and_never_fires_early(crash: bool) -> None:
    driver = started(10)
    if crash:
        driver.crash()
    assert driver.advance(9.999999) is None
    assert driver.next_timer_at == driver.history[0].time + 10_000_000


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("late", [0, 86_400 * 365])
def test_due_timer_fires_once_however_late(crash: bool, late: float) -> None:
    driver = started(10)
    if crash:
        driver.crash()
    driver.clock.advance(10 + late)
    driver.turn()
    fired = [e for e in driver.history if isinstance(e.attributes, TimerFired)]
    assert len(fired) == 1
    assert driver.result() == "rested"
    assert driver.next_timer_at is None


def test_overdue_timers_fire_in_the_order_in_which_they_were_due() -> None:
    @workflow
    async def sorting() -> list[int]:
        order: list[int] = []

        async def nap(seconds: int) -> None:
            await sleep(seconds)
            order.append(seconds)

        await asyncio.gather(nap(3), nap(1), nap(2), nap(1))
        return order

    driver = Driver(sorting())
    driver.start()
    driver.clock.advance("1d")
    driver.turn()
    assert driver.result() == [1, 1, 2, 3]
    fired = [
        e.attributes.timer_id
        for e in driver.history
        if isinstance(e.attributes, TimerFired)
    ]
    assert fired == ["2", "4", "3", "1"]


def test_timer_cancelled_in_its_own_turn_is_never_recorded() -> None:
    @workflow
    async def hasty() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        await sleep(1)

    driver = Driver(hasty())
    driver.start()
    (event,) = driver.history[1:]
    assert isinstance(event.attributes, TimerStarted)
    assert event.attributes.timer_id == "2"
    driver.crash()
    driver.fire_next_timer()
    assert driver.is_closed


def cancelling() -> Driver:
    @workflow
    async def cancelling() -> str:
        try:
            async with asyncio.timeout(10):
                await look()
        except TimeoutError:
            return "late"
        await sleep(100)
        return "in time"

    driver = Driver(cancelling())
    driver.start()
    return driver


@pytest.mark.parametrize("crash", [False, True])
def test_cancelled_timer_is_recorded_and_never_fires(crash: bool) -> None:
    driver = cancelling()
    if crash:
        driver.crash()
    completion = driver.complete(3, 1)
    assert isinstance(completion.commands[0], CancelTimer)
    assert any(isinstance(e.attributes, TimerCanceled) for e in driver.history)
    if crash:
        driver.crash()
    assert driver.advance(10) is None
    driver.advance(90)
    assert driver.result() == "in time"


@pytest.mark.parametrize("crash", [False, True])
def test_timer_that_fires_in_the_turn_of_the_result_loses(crash: bool) -> None:
    """Results are applied before timers, so the code gets the result."""
    driver = cancelling()
    driver.clock.advance(10)
    if crash:
        driver.crash()
    completion = driver.complete(3, 1)
    names = [type(event.attributes).__name__ for event in completion.events]
    assert names == ["ActivityTaskCompleted", "TimerFired", "TimerStarted"]
    driver.crash()
    driver.fire_next_timer()
    assert driver.result() == "in time"


def test_timer_of_call_later_queues_its_call() -> None:
    @workflow
    async def calling() -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen: list[float] = []
        loop.call_later(2, lambda: seen.append(loop.time() - began))
        loop.call_at(began + 1, lambda: seen.append(loop.time() - began))
        loop.call_later(3, seen.append, 9).cancel()
        await sleep(5)
        return seen

    driver = Driver(calling())
    driver.start()
    while not driver.is_closed:
        driver.crash()
        driver.fire_next_timer()
    assert driver.result() == [1, 2]


def test_timer_instead_of_nothing_is_a_mismatch() -> None:
    is_edited = False

    @workflow
    async def editing() -> None:
        if is_edited:
            await sleep(1)

    driver = Driver(editing())
    driver.start()
    is_edited = True
    driver.crash()
    with pytest.raises(NondeterminismError) as caught:
        driver.replay()
    assert "WorkflowExecutionCompleted" in str(caught.value)
    assert "StartTimer(id 1, 1 s)" in str(caught.value)


def test_timer_of_another_id_is_a_mismatch() -> None:
    is_edited = False

    @workflow
    async def editing() -> None:
        if is_edited:
            async with asyncio.timeout(10):  # begun and dropped: it takes the id 1
                await asyncio.sleep(0)
        await sleep(1)

    driver = Driver(editing())
    driver.start()
    is_edited = True
    driver.crash()
    with pytest.raises(NondeterminismError, match="the timer id differs"):
        driver.replay()


def test_cancel_of_another_timer_is_a_mismatch() -> None:
    which = 0

    @workflow
    async def choosing() -> None:
        naps = [asyncio.ensure_future(sleep(100)) for _ in range(2)]
        await look()
        naps[which].cancel()
        await sleep(1)

    driver = Driver(choosing())
    driver.start()
    driver.complete(driver.pending[0], 1)
    which = 1
    driver.crash()
    with pytest.raises(NondeterminismError, match="the timer differs"):
        driver.replay()


@pytest.mark.parametrize(
    ("state", "move"),
    [
        (State.CREATED, Move.RESOLVE),
        (State.PENDING, Move.RECORD),
        (State.CLOSED, Move.CANCEL),
        (State.CLOSED, Move.RESOLVE),
        (State.CLOSED, Move.RECORD),
    ],
)
def test_illegal_move_is_refused_by_name(state: State, move: Move) -> None:
    machine = TimerMachine.__new__(TimerMachine)
    machine.state = state
    with pytest.raises(InternalError, match=f"{move.name} while {state.name}"):
        machine.move(move)


def test_tiny_delay_is_at_least_a_microsecond() -> None:
    @workflow
    async def hurrying() -> None:
        await asyncio.sleep(1e-9)

    driver = Driver(hurrying())
    driver.start()
    event = driver.history[1].attributes
    assert isinstance(event, TimerStarted)
    assert event.start_to_fire_timeout == 1


def test_closed_run_has_no_timer_to_wake_for() -> None:
    @workflow
    async def leaving() -> None:
        asyncio.ensure_future(sleep(100))  # noqa: RUF006 - left behind on purpose
        await sleep(1)

    driver = Driver(leaving())
    driver.start()
    assert driver.next_timer_at == driver.clock.now() + 1_000_000
    completion = driver.fire_next_timer()
    assert [type(command) for command in completion.commands] == [
        CompleteWorkflowExecution
    ]


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(lambda: asyncio.sleep(1), id="asyncio sleep"),
        pytest.param(lambda: sleep(1), id="durable sleep"),
        pytest.param(lambda: wait_condition(lambda: False, timeout=1), id="condition"),
        pytest.param(lambda: asyncio.wait_for(look(), 1), id="wait_for"),
    ],
)
def test_source_is_the_line_of_workflow_code(wait: Any) -> None:
    @workflow
    async def waiting() -> None:
        await wait()

    driver = Driver(waiting())
    driver.start()
    event = driver.history[1].attributes
    assert isinstance(event, TimerStarted)
    assert event.source.startswith(f"{__file__}:")

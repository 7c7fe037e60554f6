"""The replayer's own rules: malformed histories, inputs that wait, failed turns."""

import msgspec
import pytest

from durable import activity, info, logger, sleep, workflow
from durable.core.history import flags
from durable.core.history.events import (
    UNPROCESSED,
    ActivityTaskScheduled,
    HistoryEvent,
    TimerFired,
    WorkflowTaskStarted,
)
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskFailureKind, WorkflowTask
from durable.errors import (
    CorruptHistoryError,
    InternalError,
    NotRegisteredError,
    WorkflowBlockedError,
)
from durable.testing.driver import Driver


@activity(name="replayer.look", retry=None)
async def look(value: int = 0) -> int:
    return value


@workflow(name="replayer.looking")
async def looking(times: int) -> list[int]:
    seen = []
    for number in range(times):
        seen.append(await look(number))
        seen.append(info().history_length)
    return seen


def recorded(times: int = 3) -> list[HistoryEvent]:
    driver = Driver(looking(times))
    driver.start()
    while driver.pending:
        driver.complete(driver.pending[0], 7)
    return driver.history


def replayer() -> Replayer:
    return Replayer(lambda _: looking)


def replay_only(history: list[HistoryEvent]) -> object:
    completion = replayer().process(WorkflowTask(0, (), history, is_replay_only=True))
    if completion.failure is not None:
        raise completion.failure.error
    return completion


@pytest.mark.parametrize("drop", [1, 3, 5])
def test_history_with_a_gap_is_corrupt(drop: int) -> None:
    history = recorded()
    del history[drop]
    with pytest.raises(CorruptHistoryError, match=f"event {drop + 1} must be"):
        replay_only(history)


def test_history_with_a_repeated_event_is_corrupt() -> None:
    history = recorded()
    history.insert(2, history[2])
    with pytest.raises(CorruptHistoryError, match="event 4 must be"):
        replay_only(history)


def test_history_without_its_beginning_is_corrupt() -> None:
    history = [
        msgspec.structs.replace(event, event_id=index)
        for index, event in enumerate(recorded()[1:], 1)
    ]
    with pytest.raises(
        CorruptHistoryError, match="begin with WorkflowExecutionStarted"
    ):
        replay_only(history)


def test_terminal_event_in_the_middle_is_never_survived() -> None:
    history = recorded()
    more = HistoryEvent(
        len(history) + 1, 99, history[-1].time, TimerFired("1", 2), flags.CURRENT
    )
    completion = replayer().process(
        WorkflowTask(0, (), [*history, more], is_replay_only=True)
    )
    assert completion.is_closed or completion.failure is not None


def test_replay_gives_no_commands_and_no_events() -> None:
    completion = replayer().process(
        WorkflowTask(0, (), recorded(), is_replay_only=True)
    )
    assert (completion.commands, completion.events) == ((), ())
    assert completion.is_closed
    assert completion.task_number == 4


def test_unknown_workflow_type_is_a_failed_task() -> None:
    def unknown(_: object) -> object:
        raise NotRegisteredError("No workflow of that name.")

    driver = Driver(looking(1))
    task = WorkflowTask(1, (driver.started(),))
    completion = Replayer(unknown).process(task)  # type: ignore[arg-type]  # as a registry does
    assert completion.failure is not None
    assert completion.failure.kind is TaskFailureKind.BUG
    assert [event.task_number for event in completion.events] == [UNPROCESSED]


# --- inputs that wait -----------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_inputs_recorded_before_any_task_are_taken_by_the_next(split: bool) -> None:
    driver = Driver(looking(1))
    driver.start()
    driver.record(driver.completed(2, 5))
    assert driver.history[-1].task_number == UNPROCESSED
    assert not driver.is_closed
    if split:
        driver.record(driver.cancel_requested())
    driver.turn()
    kinds = [type(event.attributes) for event in driver.history]
    assert kinds.count(WorkflowTaskStarted) == 1
    assert driver.is_closed
    driver.crash()
    driver.replay()


def test_run_recorded_without_a_task_is_started_by_the_next() -> None:
    driver = Driver(looking(1))
    driver.record(driver.started())
    driver.turn()
    (pending,) = driver.pending
    driver.complete(pending, 5)
    assert driver.result()[0] == 5


@pytest.mark.parametrize("crash", [False, True])
def test_info_history_length_counts_the_events_before_the_task(crash: bool) -> None:
    @workflow
    async def counting() -> list[int]:
        lengths = [info().history_length]
        for number in range(3):
            await look(number)
            lengths.append(info().history_length)
        return lengths

    driver = Driver(counting())
    driver.start()
    driver.record(driver.completed(2, 1))  # 3: waits, then 4: the task takes it
    driver.turn()
    if crash:
        driver.crash()
    driver.complete(driver.pending[0], 1)
    if crash:
        driver.crash()
    driver.complete(driver.pending[0], 1)
    assert driver.result() == [0, 3, 5, 7]


# --- failed turns ---------------------------------------------------------------------


def test_failed_turn_keeps_its_inputs_and_nothing_else() -> None:
    is_broken = True

    @workflow
    async def breaking() -> int:
        value = await look()
        await sleep(1)
        if is_broken:
            raise AssertionError("a bug")
        return value

    driver = Driver(breaking())
    driver.start()
    driver.complete(2, 5)
    before = len(driver.history)
    with pytest.raises(AssertionError):
        driver.advance(1)
    assert len(driver.history) == before  # a timer's fire is derived again
    is_broken = False
    driver.turn()
    assert driver.result() == 5


def test_blocked_code_is_told_from_a_bug() -> None:
    @workflow
    async def blocking() -> None:
        raise WorkflowBlockedError("held its thread")

    driver = Driver(blocking())
    replaying = Replayer(lambda _: blocking)
    completion = replaying.process(WorkflowTask(1, (driver.started(),)))
    assert completion.failure is not None
    assert completion.failure.kind is TaskFailureKind.BLOCKED


def test_event_that_is_no_input_is_refused() -> None:
    driver = Driver(looking(1))
    driver.start()
    scheduled = driver.history[1].attributes
    assert isinstance(scheduled, ActivityTaskScheduled)
    with pytest.raises(CorruptHistoryError, match="is no input"):
        driver.turn(scheduled)


def test_closed_run_takes_no_more_tasks() -> None:
    driver = Driver(looking(0))
    driver.start()
    with pytest.raises(InternalError, match="closed run"):
        driver.turn(driver.cancel_requested())


# --- replaying ------------------------------------------------------------------------


def test_logger_is_silent_while_replaying(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def logging() -> None:
        logger.warning("first")
        await look()
        logger.warning("second")

    driver = Driver(logging())
    with caplog.at_level("INFO"):
        driver.start()
        driver.crash()
        driver.complete(2, 1)
        driver.crash()
        driver.replay()
    assert [record.message for record in caplog.records] == ["first", "second"]
    assert {record.workflow_id for record in caplog.records} == {"workflow"}  # type: ignore[attr-defined]  # set by the adapter


def test_every_turn_keeps_its_number_and_time() -> None:
    driver = Driver(looking(2))
    driver.start()
    for _ in range(2):
        driver.clock.advance(1)
        driver.complete(driver.pending[0], 0)
    start = driver.history[0].time
    assert [(e.task_number, (e.time - start) // 10**6) for e in driver.history] == [
        (1, 0),
        (1, 0),
        (2, 1),
        (2, 1),
        (3, 2),
        (3, 2),
    ]


@workflow(name="replayer.timed")
async def timed() -> list[int]:
    first = info().started_at
    await sleep(1)
    return [first, info().started_at]


@pytest.mark.parametrize("crashes", [False, True])
def test_run_started_when_that_was_recorded_not_when_its_first_task_ran(
    crashes: bool,
) -> None:
    driver = Driver(timed())
    driver.record(driver.started())
    recorded_at = driver.clock.now()
    driver.clock.advance(60)
    driver.turn()
    if crashes:
        driver.crash()
    driver.fire_next_timer()
    assert driver.result() == [recorded_at, recorded_at]


def test_times_never_fall_though_the_clock_of_another_worker_was_ahead() -> None:
    driver = Driver(timed())
    driver.clock.advance(60)
    driver.record(driver.started())
    driver.clock.set_back(30)
    driver.record(driver.cancel_requested())
    driver.turn()
    times = [event.time for event in driver.history]
    assert times == sorted(times)

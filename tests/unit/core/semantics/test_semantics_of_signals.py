"""Rows 1 to 3 of the semantics, and what signals add to rows 12 and 14 to 17.

See `test_semantics.py` for the others.
"""

import asyncio
from typing import Any

from durable import (
    ApplicationError,
    Signal,
    continue_as_new,
    set_query_handler,
    set_signal_handler,
    set_update_handler,
    sleep,
    wait_condition,
    workflow,
)
from durable.core.history.commands import (
    CancelTimer,
    CompleteWorkflowExecution,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
    RecordMarker,
    ScheduleActivityTask,
    StartTimer,
)
from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
)
from durable.testing import Driver, replay_at_every_prefix
from tests.unit.core.semantics.logbook import Log, finished, kinds, numbers, ship, words

# --- row 1 ----------------------------------------------------------------------------


def test_row_01_the_object_then_early_signals_then_the_first_line() -> None:
    driver = Driver(Log.run("log"))
    driver.turn(
        driver.started(),
        driver.signalled(Log.add("first")),
        driver.signalled(Log.ship("box")),
        driver.signalled(Log.add("second")),
    )
    assert driver.query(Log.read()) == [
        "made log",
        "first",
        "box begins",
        "second",
        "run begins",
    ]


def test_row_01_signals_that_were_recorded_before_the_first_task_come_first_too() -> (
    None
):
    driver = Driver(Log.run("log"))
    driver.record(driver.started(), driver.signalled(Log.add("early")))
    driver.turn(driver.signalled(Log.add("late")))
    assert driver.query(Log.read())[1:] == ["early", "late", "run begins"]


def test_row_01_sync_handlers_finish_in_order_and_async_ones_interleave() -> None:
    driver = Driver(Log.run("log"))
    driver.start()
    driver.turn(
        driver.signalled(Log.ship("one")),
        driver.signalled(Log.add("between")),
        driver.signalled(Log.ship("two")),
    )
    one, two = driver.pending
    driver.complete(two, "two")
    driver.crash()
    driver.complete(one, "one")
    driver.signal(Log.close())
    assert finished(driver)[2:] == [
        "one begins",
        "between",
        "two begins",
        "two ends",
        "one ends",
    ]


# --- row 2 ----------------------------------------------------------------------------


def test_row_02_signals_wait_by_name_for_a_handler_that_is_set_later() -> None:
    @workflow(name="messages.late")
    async def late() -> list[str]:
        seen: list[str] = []
        await sleep(1)
        set_signal_handler("b", lambda value: seen.append(f"b {value}"))
        set_signal_handler(None, lambda name, value: seen.append(f"{name} {value}"))
        await asyncio.sleep(0)
        return seen

    driver = Driver(late())
    driver.start()
    for name, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)):
        driver.signal(name, value)
    driver.fire_next_timer()
    assert finished(driver) == ["b 2", "b 5", "a 1", "a 3", "c 4"]


def test_row_02_a_named_handler_beats_one_of_all_names_and_unset_it_is_kept() -> None:
    @workflow(name="messages.choosy")
    async def choosy() -> list[str]:
        seen: list[str] = []
        set_signal_handler(None, lambda name, value: seen.append(f"any {value}"))
        set_signal_handler("a", lambda value: seen.append(f"named {value}"))
        await sleep(1)
        set_signal_handler("a", None)
        await sleep(1)
        set_signal_handler(None, None)
        await sleep(1)
        set_signal_handler("a", lambda value: seen.append(f"at last {value}"))
        await asyncio.sleep(0)
        return seen

    driver = Driver(choosy())
    driver.start()
    for value in range(3):
        driver.signal("a", value)
        driver.fire_next_timer()
    assert finished(driver) == ["named 0", "any 1", "at last 2"]


def test_row_02_a_signal_that_cannot_be_read_alone_is_set_aside() -> None:
    @workflow(name="messages.reading")
    async def reading() -> list[int]:
        return [await numbers.receive(), await numbers.receive()]

    driver = Driver(reading())
    driver.start()
    done = driver.turn(
        driver.signalled("numbers", 1),
        driver.signalled("numbers", "no number"),
        driver.signalled("numbers", 3),
    )
    assert kinds(done) == [RecordMarker, CompleteWorkflowExecution]
    assert finished(driver) == [1, 3]


def test_row_02_a_signal_once_set_aside_stays_so_even_if_code_could_read_it() -> None:
    """A deploy that widens the type must not change what is history."""

    def make(type_: Any) -> Any:
        channel = Signal("widening", type_)

        @workflow(name="messages.widening")
        async def widening() -> list[Any]:
            first = await channel.receive()
            await ship("on the way")
            return [first]

        return widening

    driver = Driver(make(int)())
    driver.start()
    driver.turn(driver.signalled("widening", "a word"), driver.signalled("widening", 7))
    history: list[HistoryEvent] = driver.history
    wider = Driver(make(int | str)())
    wider.history = list(history)
    wider.complete(wider.pending[0], "x")
    assert wider.result() == [7]


# --- row 3 ----------------------------------------------------------------------------


def test_row_03_signals_that_nobody_received_are_known_when_a_run_continues() -> None:
    @workflow(name="messages.going_on")
    async def going_on(count: int) -> None:
        await words.receive()
        continue_as_new(count + 1)

    driver = Driver(going_on(0))
    driver.start()
    driver.signal("others", 1)
    done = driver.turn(
        driver.signalled(words("taken")),
        driver.signalled(words("left")),
        driver.signalled("others", 2),
    )
    assert kinds(done) == [ContinueAsNewWorkflowExecution]
    unread = driver.unread_signals()
    assert [(one.number, one.signal_name) for one in unread] == [
        (1, "others"),
        (3, "words"),
        (4, "others"),
    ]


def test_row_03_what_comes_after_continuing_was_decided_is_for_the_next_run() -> None:
    """Code that runs on in the last turn would take it away from the next run."""
    took: list[str] = []

    @workflow(name="messages.leaving")
    async def leaving() -> None:
        def leave() -> None:
            continue_as_new()

        def take(value: str) -> None:
            took.append(value)

        async def listen() -> None:
            while True:
                took.append(await words.receive())

        set_signal_handler("leave", leave)
        set_signal_handler("take", take)
        set_update_handler("ask", lambda: 5)
        await listen()

    driver = Driver(leaving())
    driver.start()
    done = driver.turn(
        driver.signalled("take", "before"),
        driver.signalled("leave"),
        driver.signalled("take", "after"),
        driver.signalled(words("after, too")),
        driver.requested("ask", update_id="late"),
    )
    assert kinds(done) == [ContinueAsNewWorkflowExecution]
    assert took == ["before"]
    names = [one.signal_name for one in driver.unread_signals()]
    assert names == ["take", "words"]
    assert done.rejected == ()
    assert not any(
        isinstance(event.attributes, WorkflowExecutionUpdateAccepted)
        for event in done.events
    )
    replay_at_every_prefix(driver.history)


# --- row 12 ---------------------------------------------------------------------------


def test_row_12_a_cancel_in_the_turn_of_a_signal_does_not_swallow_that() -> None:
    @workflow(name="messages.interrupted")
    async def interrupted() -> list[str]:
        try:
            await words.receive()
        except asyncio.CancelledError:
            return ["cancelled", await words.receive(), await words.receive()]
        return []

    driver = Driver(interrupted())
    driver.start()
    driver.turn(
        driver.signalled(words("one")),
        driver.cancel_requested(),
        driver.signalled(words("two")),
    )
    assert finished(driver) == ["cancelled", "one", "two"]


def test_row_12_a_receiver_that_gives_up_leaves_its_signal_to_the_next_in_order() -> (
    None
):
    @workflow(name="messages.sharing")
    async def sharing() -> list[str]:
        first = asyncio.ensure_future(words.receive())
        second = asyncio.ensure_future(words.receive())

        def give_up() -> None:
            first.cancel()

        set_signal_handler("give_up", give_up)
        seen = [await second]
        return [*seen, await words.receive()]

    driver = Driver(sharing())
    driver.start()
    driver.turn(
        driver.signalled("give_up"),
        driver.signalled(words("one")),
        driver.signalled(words("two")),
    )
    assert finished(driver) == ["one", "two"]


def test_row_12_a_signal_goes_to_a_handler_that_was_set_as_its_receiver_gave_up() -> (
    None
):
    @workflow(name="messages.changing_hands")
    async def changing_hands() -> list[str]:
        seen: list[str] = []
        receiving = asyncio.ensure_future(words.receive())
        await asyncio.sleep(0)

        def change() -> None:
            receiving.cancel()
            set_signal_handler(words, seen.append)

        set_signal_handler("change", change)
        await wait_condition(lambda: bool(seen))
        return seen

    driver = Driver(changing_hands())
    driver.start()
    driver.turn(driver.signalled("change"), driver.signalled(words("one")))
    assert finished(driver) == ["one"]


# --- row 14 ---------------------------------------------------------------------------


def test_row_14_a_condition_is_looked_at_once_after_all_handlers_of_a_turn() -> None:
    looks: list[int] = []

    @workflow(name="messages.looking")
    async def looking() -> int:
        count = 0

        def add() -> None:
            nonlocal count
            count += 1

        def enough() -> bool:
            looks.append(count)
            return count >= 3

        set_signal_handler("add", add)
        await wait_condition(enough, timeout=10)
        return count

    driver = Driver(looking())
    driver.start()
    looks.clear()
    done = driver.turn(*(driver.signalled("add") for _ in range(4)))
    assert looks == [4]
    assert kinds(done) == [CancelTimer, CompleteWorkflowExecution]
    assert driver.result() == 4


def test_row_14_a_condition_is_never_looked_at_for_a_query_or_validator() -> None:
    looks: list[bool] = []

    @workflow(name="messages.watching")
    async def watching() -> None:
        def look() -> bool:
            looks.append(True)
            return False

        set_query_handler("read", lambda: 5)
        set_update_handler("ask", lambda: 5, validator=_refuse_all)
        await wait_condition(look)

    driver = Driver(watching())
    driver.start()
    before = len(looks)
    driver.query("read")
    driver.update("ask")
    assert len(looks) == before


def _refuse_all() -> None:
    raise ValueError("not now")


def test_row_14_receiving_within_a_time_drops_the_timer_or_raises() -> None:
    @workflow(name="messages.hurried")
    async def hurried() -> list[str]:
        seen = [await asyncio.wait_for(words.receive(), 5)]
        try:
            async with asyncio.timeout(5):
                await words.receive()
        except TimeoutError:
            seen.append("too late")
        return [*seen, await words.receive()]

    driver = Driver(hurried())
    assert kinds(driver.start()) == [StartTimer]
    assert kinds(driver.signal(words("in time"))) == [CancelTimer, StartTimer]
    driver.advance(5)
    driver.signal(words("after all"))
    assert finished(driver) == ["in time", "too late", "after all"]


# --- rows 15 and 16 -------------------------------------------------------------------


def test_row_15_messages_come_before_other_results_of_the_turn() -> None:
    @workflow(name="messages.racing")
    async def racing() -> list[str]:
        seen: list[str] = []

        async def shipping() -> None:
            seen.append(await ship("box"))

        set_signal_handler("add", seen.append)
        set_update_handler("ask", lambda: seen.append("asked"))
        task = asyncio.ensure_future(shipping())
        word = await words.receive()
        await task
        return [*seen, word]

    driver = Driver(racing())
    driver.start()
    driver.turn(
        driver.completed(driver.pending[0], "shipped"),
        driver.signalled("add", "first"),
        driver.requested("ask"),
        driver.signalled("add", "second"),
        driver.signalled(words("received")),
    )
    assert finished(driver) == ["first", "asked", "second", "shipped", "received"]


def test_row_16_queries_see_settled_state() -> None:
    @workflow(name="messages.settling")
    async def settling() -> None:
        state = {"steps": 0}
        set_query_handler("read", lambda: state["steps"])
        async for _ in words:
            for _ in range(5):
                state["steps"] += 1
                await asyncio.sleep(0)

    driver = Driver(settling())
    driver.start()
    driver.turn(driver.signalled(words("a")), driver.signalled(words("b")))
    assert driver.query("read") == 10
    driver.crash()
    assert driver.query("read") == 10


# --- row 17 ---------------------------------------------------------------------------


def test_row_17_the_first_ending_wins() -> None:
    @workflow(name="messages.ending")
    async def ending(result: str) -> str:
        def fail() -> None:
            raise ApplicationError("from a handler")

        def go_on() -> None:
            continue_as_new("again")

        set_signal_handler("fail", fail)
        set_signal_handler("go_on", go_on)
        return await words.receive()

    def play(*names: str) -> list[type]:
        driver = Driver(ending("x"))
        driver.start()
        done = driver.turn(
            *(
                driver.signalled(words(name) if name == "words" else name)
                for name in names
            )
        )
        replay_at_every_prefix(driver.history)
        return kinds(done)

    assert play("fail", "go_on") == [FailWorkflowExecution]
    assert play("go_on", "fail") == [ContinueAsNewWorkflowExecution]
    assert play("go_on", "words") == [ContinueAsNewWorkflowExecution]
    assert play("fail", "words") == [FailWorkflowExecution]


def test_row_17_commands_of_handlers_in_the_last_turn_are_recorded_before_its_end() -> (
    None
):
    driver = Driver(Log.run("log"))
    driver.start()
    done = driver.turn(driver.signalled(Log.close()), driver.signalled(Log.ship("box")))
    assert kinds(done) == [ScheduleActivityTask, CompleteWorkflowExecution]
    assert [type(e.attributes) for e in done.events[:2]] == [
        WorkflowExecutionSignaled,
        WorkflowExecutionSignaled,
    ]
    assert finished(driver)[-1] == "box begins"

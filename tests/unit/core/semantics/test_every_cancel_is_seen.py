"""A request to stop is seen once, whatever the run waits for as it comes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    ApplicationError,
    ChildCancellationType,
    WorkflowCancelledError,
    activity,
    continue_as_new,
    sleep,
    start_child,
    workflow,
)
from durable.core.history import flags
from durable.core.history.events import (
    Attributes,
    RequestCancelExternalWorkflowExecutionInitiated,
    WorkflowExecutionCanceled,
    WorkflowExecutionContinuedAsNew,
)
from durable.testing import Driver, replay_at_every_prefix
from tests.unit.core.semantics.logbook import words

ANSWERS = ("completed", "failed", "timed out", "cancelled")
KINDS = list(ChildCancellationType)
WAITING = [k for k in KINDS if k.value.startswith("wait")]
SAME_TURN = ("outcome first", "cancel first")


@activity(
    name="seen.work",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def work(value: int) -> int:
    return value


@workflow(name="seen.child")
async def child(value: int) -> int:
    await sleep(1)
    return value


def a_child(kind: ChildCancellationType, name: str = "kid") -> Awaitable[int]:
    return child.options(id=name, cancellation_type=kind)(1)


def begin(call: Any) -> Driver:
    driver = Driver(call)
    driver.start()
    if driver.children:
        driver.turn(*[kid.started() for kid in driver.children])
    return driver


def answer(driver: Driver, how: str, which: int = 0) -> Attributes:
    """The outcome of what the run waits for."""
    if driver.children:
        kid = driver.children[which]
        outcomes: dict[str, Callable[[], Attributes]] = {
            "completed": lambda: kid.completed(7),
            "failed": lambda: kid.failed(ApplicationError("no")),
            "timed out": kid.timed_out,
            "cancelled": kid.cancelled,
        }
    else:
        pending = driver.pending[which]
        outcomes = {
            "completed": lambda: driver.completed(pending, 7),
            "failed": lambda: driver.failed(pending, ApplicationError("no")),
            "timed out": lambda: driver.timed_out(pending),
            "cancelled": lambda: driver.cancelled(pending),
        }
    return outcomes[how]()


def give(driver: Driver, how: str) -> None:
    """Let all messages arrive, and then the outcome."""
    driver.turn(*[d.delivered() for d in driver.deliveries], answer(driver, how))


def finished(driver: Driver) -> Any:
    """The result, once a replay of every prefix agrees."""
    replay_at_every_prefix(driver.history)
    return driver.result()


async def report(waiting: Awaitable[int]) -> list[str]:
    """Wait, then wait twice more; write down what each wait gave."""
    seen: list[str] = []
    waits: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: waiting,
        words.receive,
        words.receive,
    )
    for wait in waits:
        try:
            seen.append(f"{await wait()}")
        except asyncio.CancelledError:
            seen.append("cancelled")
        except Exception as error:  # noqa: BLE001 - any failure
            seen.append("failed" if str(error) else "")
    return seen


@workflow(name="seen.of_child")
async def of_child(kind: ChildCancellationType) -> list[str]:
    return await report(a_child(kind))


@workflow(name="seen.of_work")
async def of_work() -> list[str]:
    return await report(work(1))


CALLS = [*(pytest.param(of_child(k), id=k.value) for k in KINDS), of_work()]
WAITING_CALLS = [
    *(pytest.param(of_child(kind), id=kind.value) for kind in WAITING),
    of_work(),
]


def say_what_is_missing(driver: Driver) -> list[str]:
    for _ in range(9):
        if not driver.is_closed:
            driver.signal(words("word"))
    seen: list[str] = finished(driver)
    return seen


# --- the outcome is there as the cancel arrives ---------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("order", SAME_TURN)
@pytest.mark.parametrize("when", ["live", "after a crash", "after downtime"])
def test_a_cancel_beats_an_outcome_that_was_there_before(
    call: Any, how: str, order: str, when: str
) -> None:
    driver = begin(call)
    inputs = [answer(driver, how), driver.cancel_requested()]
    if order == "cancel first":
        inputs.reverse()
    if when == "after a crash":
        driver.crash()
    if when == "after downtime":
        for one in inputs:
            driver.record(one)
        driver.turn()
    else:
        driver.turn(*inputs)
    assert say_what_is_missing(driver) == ["cancelled", "word", "word"]


# --- the outcome is the answer to the cancel ------------------------------------------


@pytest.mark.parametrize("call", WAITING_CALLS)
@pytest.mark.parametrize("how", ["completed", "failed", "timed out"])
@pytest.mark.parametrize("crash", [False, True])
def test_a_cancel_that_was_answered_otherwise_is_raised_by_the_next_wait(
    call: Any, how: str, crash: bool
) -> None:
    driver = begin(call)
    driver.cancel()
    if crash:
        driver.crash()
    give(driver, how)
    if crash:
        driver.crash()
    first = "7" if how == "completed" else "failed"
    assert say_what_is_missing(driver) == [first, "cancelled", "word"]


@pytest.mark.parametrize("call", WAITING_CALLS)
def test_a_cancel_that_was_answered_with_a_stop_is_raised_there(call: Any) -> None:
    driver = begin(call)
    driver.cancel()
    give(driver, "cancelled")
    assert say_what_is_missing(driver) == ["cancelled", "word", "word"]


def test_a_delivered_request_is_raised_there_if_that_is_all_that_is_waited_for() -> (
    None
):
    driver = begin(of_child(ChildCancellationType.WAIT_CANCELLATION_REQUESTED))
    driver.cancel()
    driver.turn(driver.deliveries[0].delivered(), driver.children[0].started())
    assert say_what_is_missing(driver) == ["cancelled", "word", "word"]


@pytest.mark.parametrize("call", WAITING_CALLS)
def test_a_second_request_changes_nothing(call: Any) -> None:
    driver = begin(call)
    driver.cancel("once")
    driver.cancel("twice")
    give(driver, "completed")
    driver.cancel("thrice")
    assert say_what_is_missing(driver) == ["7", "cancelled", "word"]


def test_code_that_waits_for_nothing_more_ends_with_the_result() -> None:
    @workflow(name="seen.ending")
    async def ending() -> int:
        return await work(1)

    driver = begin(ending())
    driver.cancel()
    give(driver, "completed")
    assert finished(driver) == 7


def test_the_next_run_of_a_chain_is_not_begun_over_an_unseen_cancel() -> None:
    @workflow(name="seen.chain")
    async def chain(lap: int) -> None:
        await work(lap)
        continue_as_new(lap + 1)

    driver = begin(chain(1))
    driver.cancel()
    give(driver, "completed")
    assert isinstance(driver.history[-1].attributes, WorkflowExecutionCanceled)
    other = begin(chain(1))
    other.turn(answer(other, "completed"))
    assert isinstance(other.history[-1].attributes, WorkflowExecutionContinuedAsNew)


def test_each_of_several_children_may_answer_the_cancel_in_turn() -> None:
    @workflow(name="seen.several")
    async def several() -> list[str]:
        kids = [await start_child(child.options(id=f"kid-{n}")(n)) for n in range(3)]
        results = [f"{await kid}" for kid in kids]
        try:
            await words.receive()
        except asyncio.CancelledError:
            return [*results, "cancelled"]
        return results

    driver = Driver(several())
    driver.start()
    for number in range(3):
        driver.turn(driver.children[number].started())
    driver.cancel()
    for number in range(3):
        driver.crash()
        (asked,) = [kid for kid in driver.children if kid.is_cancel_requested]
        assert asked.workflow_id == f"kid-{number}"
        driver.turn(asked.completed(number))
    assert finished(driver) == ["0", "1", "2", "cancelled"]


# --- through tasks --------------------------------------------------------------------


async def in_a_task() -> int:
    return await asyncio.create_task(_work())


async def in_a_task_of_a_task() -> int:
    return await asyncio.create_task(in_a_task())


async def gathered() -> int:
    return sum(await asyncio.gather(work(1)))


async def waited_for() -> int:
    return await asyncio.wait_for(work(1), 1_000)


async def in_a_group() -> int:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_work())
    return task.result()


async def inside_a_group() -> int:
    async with asyncio.TaskGroup():
        return await work(1)


async def within_a_timeout() -> int:
    async with asyncio.timeout(1_000):
        return await work(1)


async def _work() -> int:
    return await work(1)


@workflow(name="seen.through")
async def through(name: str) -> list[str]:
    return await report(globals()[name]())


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("in_a_task", "7"),
        ("in_a_task_of_a_task", "7"),
        ("waited_for", "7"),
        ("inside_a_group", "7"),
        ("within_a_timeout", "7"),
        # asyncio itself raises what it has gone through meanwhile.
        ("gathered", "cancelled"),
        ("in_a_group", "cancelled"),
    ],
)
@pytest.mark.parametrize("crash", [False, True])
def test_a_cancel_is_seen_once_through_tasks_and_scopes(
    name: str, first: str, crash: bool
) -> None:
    driver = begin(through(name))
    driver.cancel()
    if crash:
        driver.crash()
    give(driver, "completed")
    rest = ["word", "word"] if first == "cancelled" else ["cancelled", "word"]
    assert say_what_is_missing(driver) == [first, *rest]


@pytest.mark.parametrize("name", ["in_a_task", "gathered", "in_a_group"])
def test_a_failure_that_answers_a_cancel_hides_it_in_no_task(name: str) -> None:
    driver = begin(through(name))
    driver.cancel()
    give(driver, "failed")
    assert say_what_is_missing(driver) == ["failed", "cancelled", "word"]


def test_what_the_code_of_an_inner_task_has_seen_is_not_raised_again() -> None:
    @workflow(name="seen.inner")
    async def inner() -> list[str]:
        async def handling() -> int:
            with contextlib.suppress(asyncio.CancelledError):
                await sleep(1_000)
            return await work(1)

        async def wait() -> int:
            return await asyncio.create_task(handling())

        return await report(wait())

    driver = begin(inner())
    driver.cancel()
    give(driver, "completed")
    assert say_what_is_missing(driver) == ["7", "word", "word"]


def test_shielded_work_leaves_the_cancel_to_the_wait_around_it() -> None:
    @workflow(name="seen.shielded")
    async def shielded() -> list[str]:
        return await report(asyncio.shield(asyncio.ensure_future(_work())))

    driver = begin(shielded())
    driver.cancel()
    assert not driver.pending[0].is_cancel_requested
    give(driver, "completed")
    assert say_what_is_missing(driver) == ["cancelled", "word", "word"]


# --- cancels of the code's own --------------------------------------------------------


def test_a_task_that_the_code_cancels_sees_that_once_too() -> None:
    @workflow(name="seen.own")
    async def own() -> list[str]:
        task = asyncio.create_task(report(work(1)))
        await words.receive()
        task.cancel()
        return await task

    driver = begin(own())
    driver.signal(words("cancel"))
    give(driver, "completed")
    assert say_what_is_missing(driver) == ["7", "cancelled", "word"]


@pytest.mark.parametrize("how", ["completed", "failed"])
def test_a_scope_that_ends_takes_its_own_cancel_back(how: str) -> None:
    async def scoped() -> int:
        async with asyncio.timeout(5):
            return await work(1)

    @workflow(name=f"seen.scope {how}")
    async def scope() -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        return [*await report(scoped()), task.cancelling()]

    driver = begin(scope())
    driver.advance(5)
    give(driver, how)
    first = "7" if how == "completed" else "failed"
    assert say_what_is_missing(driver) == [first, "word", "word", 0]


def test_a_wait_within_the_scope_raises_its_cancel() -> None:
    async def scoped() -> int:
        async with asyncio.timeout(5):
            await work(1)
            await words.receive()
        return 0

    @workflow(name="seen.within")
    async def within() -> list[str]:
        try:
            await scoped()
        except TimeoutError:
            return await report(words.receive())  # type: ignore[arg-type]  # a text
        return []

    driver = begin(within())
    driver.advance(5)
    give(driver, "completed")
    assert say_what_is_missing(driver) == ["word", "word", "word"]


def test_a_request_and_a_scope_that_expire_at_once_are_both_told() -> None:
    async def scoped() -> int:
        async with asyncio.timeout(5):
            return await work(1)

    @workflow(name="seen.both")
    async def both() -> list[str]:
        return await report(scoped())

    driver = begin(both())
    driver.clock.advance(5)
    driver.turn(driver.cancel_requested())
    give(driver, "completed")
    assert say_what_is_missing(driver) == ["7", "cancelled", "word"]


@pytest.mark.parametrize("how", ["completed", "cancelled"])
def test_the_group_that_cancels_its_block_takes_that_back(how: str) -> None:
    async def block() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(_fail_at_a_word())
            await work(1)
        return 0

    @workflow(name=f"seen.block {how}")
    async def blocked() -> list[str]:
        return await report(block())

    driver = begin(blocked())
    driver.signal(words("fail"))
    give(driver, how)
    assert say_what_is_missing(driver) == ["failed", "word", "word"]


async def _fail_at_a_word() -> None:
    await words.receive()
    raise ApplicationError("a member's own")


# --- what a task was cancelled for ----------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k.value != "abandon"])
def test_the_reason_of_a_cancelled_task_reaches_its_child(
    kind: ChildCancellationType,
) -> None:
    @workflow(name=f"seen.why {kind.value}")
    async def why() -> None:
        task = asyncio.ensure_future(a_child(kind))
        await words.receive()
        task.cancel("the customer has left")
        await asyncio.wait([task])

    driver = begin(why())
    driver.signal(words("go"))
    (reason,) = [
        event.attributes.reason
        for event in driver.history
        if isinstance(event.attributes, RequestCancelExternalWorkflowExecutionInitiated)
    ]
    assert reason == "the customer has left"


@pytest.mark.parametrize(
    "reason", [None, "", 5, "\ud800", "Cancelled via cancel scope 7f"]
)
def test_what_is_no_reason_for_others_is_not_told_as_one(reason: Any) -> None:
    @workflow(name=f"seen.odd reason {reason!r}")
    async def odd() -> None:
        task = asyncio.ensure_future(a_child(ChildCancellationType.TRY_CANCEL))
        await words.receive()
        task.cancel(reason)
        await asyncio.wait([task])

    driver = begin(odd())
    driver.signal(words("go"))
    found = [getattr(event.attributes, "reason", "") for event in driver.history]
    expected = "\\ud800" if reason == "\ud800" else "Its parent asked it to stop."
    assert expected in found


# --- histories of old -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["completed", "failed"])
@pytest.mark.parametrize("call", [of_child(KINDS[2]), of_child(KINDS[3]), of_work()])
@pytest.mark.parametrize("is_together", [True, False])
def test_a_history_that_lost_a_cancel_replays(
    monkeypatch: pytest.MonkeyPatch, call: Any, how: str, is_together: bool
) -> None:
    monkeypatch.setattr(flags, "CURRENT", int(flags.Flag.DRAIN_ONCE))
    driver = begin(call)
    if is_together:
        driver.turn(answer(driver, how), driver.cancel_requested())
    else:
        driver.cancel()
        give(driver, how)
    driver.signal(words("word"))
    driver.crash()
    monkeypatch.undo()
    driver.signal(words("word"))
    first = "7" if how == "completed" else "failed"
    assert finished(driver) == [first, "word", "word"]
    assert len({event.flags for event in driver.history}) == 2


def test_a_request_is_never_heard_as_a_failure_of_the_run() -> None:
    @workflow(name="seen.plain end")
    async def plain_end() -> None:
        with contextlib.suppress(ApplicationError):
            await work(1)
        await words.receive()

    driver = begin(plain_end())
    driver.cancel()
    give(driver, "failed")
    with pytest.raises(WorkflowCancelledError):
        driver.result()

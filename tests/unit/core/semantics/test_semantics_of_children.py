"""Row 23 of the semantics, and what other runs add to rows 10 to 12 and 19.

See `test_semantics.py` for the others.
"""

import asyncio
from typing import Any

import pytest

from durable import (
    ApplicationError,
    ChildCancellationType,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    external,
    sleep,
    start_child,
    workflow,
)
from durable.core.history.commands import (
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    RequestCancelExternalWorkflowExecution,
    SignalExternalWorkflowExecution,
    StartChildWorkflowExecution,
)
from durable.errors import NondeterminismError
from durable.testing import Driver, PendingChild, replay_at_every_prefix
from tests.unit.core.semantics.logbook import kinds, words

go = Signal("go", int)


@workflow(name="kin.child")
async def child(value: int) -> int:
    await sleep(1)
    return value


def finished(driver: Driver) -> Any:
    """The result, once a replay of every prefix agrees."""
    replay_at_every_prefix(driver.history)
    return driver.result()


# --- row 23 ---------------------------------------------------------------------------


def test_row_23_the_start_and_the_result_of_a_child_are_two_waits() -> None:
    @workflow(name="kin.starting")
    async def starting() -> list[Any]:
        seen: list[Any] = []
        kid = await start_child(child(1), id="kid")
        seen.append(kid.run_id)
        seen.append(await kid)
        return seen

    driver = Driver(starting())
    assert kinds(driver.start()) == [StartChildWorkflowExecution]
    (kid,) = driver.children
    assert kid.run_id is None
    assert kinds(driver.turn(kid.started())) == []
    driver.crash()
    (kid,) = driver.children
    driver.turn(kid.completed(7))
    assert finished(driver) == [kid.run_id, 7]


def test_row_23_an_end_that_comes_before_the_news_of_the_start_is_both() -> None:
    @workflow(name="kin.hasty")
    async def hasty() -> list[Any]:
        kid = await start_child(child(1), id="kid")
        return [kid.run_id, await kid]

    driver = Driver(hasty())
    driver.start()
    (kid,) = driver.children
    ended = kid.completed(7)
    driver.turn(ended)
    assert finished(driver) == [ended.run_id, 7]


def test_row_23_a_taken_id_is_raised_at_the_start_even_if_the_result_is_awaited() -> (
    None
):
    @workflow(name="kin.refused")
    async def refused() -> list[str]:
        seen: list[str] = []
        kid = child.options(id="taken")
        for attempt in range(2):
            try:
                if attempt:
                    await start_child(kid(2))
                else:
                    await kid(1)
            except WorkflowAlreadyStartedError as error:
                seen.append(error.workflow_id)
        return seen

    driver = Driver(refused())
    driver.start()
    for _ in range(2):
        driver.turn(driver.children[0].refused())
    assert finished(driver) == ["taken", "taken"]


def test_row_23_cancelling_the_wait_for_a_start_leaves_the_child_alone() -> None:
    @workflow(name="kin.impatient")
    async def impatient() -> str:
        starting = asyncio.ensure_future(start_child(child(1), id="kid"))
        await words.receive()
        starting.cancel()
        await asyncio.wait([starting])
        return f"{starting.cancelled()}"

    driver = Driver(impatient())
    driver.start()
    done = driver.signal(words("now"))
    assert kinds(done) == [CompleteWorkflowExecution]
    assert finished(driver) == "True"


def test_row_23_a_child_given_up_in_the_turn_that_asks_for_it_never_exists() -> None:
    @workflow(name="kin.fickle")
    async def fickle() -> str:
        for attempt in range(2):
            task: asyncio.Future[Any] = asyncio.ensure_future(
                start_child(child(2)) if attempt else child(1)
            )
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        return "done"

    driver = Driver(fickle())
    assert kinds(driver.start()) == [CompleteWorkflowExecution]
    assert finished(driver) == "done"


def test_row_23_an_abandoned_child_of_the_last_turn_is_still_asked_for() -> None:
    @workflow(name="kin.leaving")
    async def leaving() -> str:
        asyncio.ensure_future(start_child(child(1), id="kid"))  # noqa: RUF006 - on purpose
        await asyncio.sleep(0)
        return "done"

    driver = Driver(leaving())
    assert kinds(driver.start()) == [
        StartChildWorkflowExecution,
        CompleteWorkflowExecution,
    ]


def test_row_23_ids_of_nameless_children_are_the_same_on_replay() -> None:
    @workflow(name="kin.nameless")
    async def nameless() -> list[int]:
        return list(await asyncio.gather(child(1), child(2)))

    def ids() -> list[str]:
        driver = Driver(nameless())
        driver.start()
        driver.crash()
        return [kid.workflow_id for kid in driver.children]

    first, second = ids(), ids()
    assert first == second
    assert len(set(first)) == 2


# --- rows 10 to 12 --------------------------------------------------------------------


def _cancelling(kind: ChildCancellationType) -> Driver:
    @workflow(name=f"kin.cancelling {kind.value}")
    async def cancelling() -> str:
        try:
            return f"result {await child.options(id='kid', cancellation_type=kind)(1)}"
        except asyncio.CancelledError:
            await words.receive()
            return "cancelled"
        except ApplicationError as error:
            return f"failed {error.message}"

    driver = Driver(cancelling())
    driver.start()
    driver.turn(driver.children[0].started())
    return driver


def _kid(driver: Driver) -> PendingChild:
    return driver.children[0]


def _is_waiting_for_words(driver: Driver) -> bool:
    driver.signal(words("go on"))
    return driver.is_closed


def test_row_10_abandon_raises_at_once_and_sends_nothing() -> None:
    driver = _cancelling(ChildCancellationType.ABANDON)
    assert kinds(driver.cancel()) == []
    assert _is_waiting_for_words(driver)
    assert finished(driver) == "cancelled"


def test_row_10_try_cancel_raises_at_once_and_asks_the_child_to_stop() -> None:
    driver = _cancelling(ChildCancellationType.TRY_CANCEL)
    assert kinds(driver.cancel()) == [RequestCancelExternalWorkflowExecution]
    assert _is_waiting_for_words(driver)
    assert finished(driver) == "cancelled"


def test_row_10_wait_requested_raises_once_the_child_has_the_request() -> None:
    driver = _cancelling(ChildCancellationType.WAIT_CANCELLATION_REQUESTED)
    assert kinds(driver.cancel()) == [RequestCancelExternalWorkflowExecution]
    assert not _is_waiting_for_words(driver)
    driver.crash()
    driver.turn(driver.deliveries[0].delivered())
    assert finished(driver) == "cancelled"


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_row_10_wait_completed_gives_the_true_outcome(outcome: str) -> None:
    driver = _cancelling(ChildCancellationType.WAIT_CANCELLATION_COMPLETED)
    driver.cancel()
    driver.turn(driver.deliveries[0].delivered())
    driver.crash()
    assert _kid(driver).is_cancel_requested
    if outcome == "completed":
        driver.turn(_kid(driver).completed(7))
        assert finished(driver) == "result 7"
    elif outcome == "failed":
        driver.turn(_kid(driver).failed(ApplicationError("late")))
        assert finished(driver) == "failed late"
    else:
        driver.turn(_kid(driver).cancelled())
        assert _is_waiting_for_words(driver)
        assert finished(driver) == "cancelled"


def test_row_11_a_cancel_in_the_turn_of_a_childs_result_is_seen() -> None:
    driver = _cancelling(ChildCancellationType.TRY_CANCEL)
    done = driver.turn(_kid(driver).completed(7), driver.cancel_requested())
    assert kinds(done) == []
    assert _is_waiting_for_words(driver)
    assert finished(driver) == "cancelled"


def test_row_12_repeated_cancels_while_waiting_ask_the_child_once() -> None:
    @workflow(name="kin.stubborn")
    async def stubborn() -> str:
        waiting = asyncio.ensure_future(_wait())
        for _ in range(3):
            await words.receive()
            waiting.cancel()
        return await waiting

    async def _wait() -> str:
        async with asyncio.timeout(None):
            return f"{await child.options(id='kid')(1)}"

    driver = Driver(stubborn())
    driver.start()
    driver.turn(driver.children[0].started())
    asked = [kinds(driver.signal(words("cancel"))) for _ in range(3)]
    assert asked == [[RequestCancelExternalWorkflowExecution], [], []]
    driver.turn(_kid(driver).completed(7))
    assert finished(driver) == "7"


def test_row_12_a_cancelled_child_that_was_asked_to_stop_cancels_its_parent() -> None:
    @workflow(name="kin.obedient")
    async def obedient() -> int:
        return await child.options(id="kid")(1)

    driver = Driver(obedient())
    driver.start()
    driver.turn(driver.children[0].started())
    driver.cancel()
    done = driver.turn(_kid(driver).cancelled())
    assert kinds(done) == [CancelWorkflowExecution]
    with pytest.raises(WorkflowCancelledError):
        driver.result()


def test_row_12_shield_keeps_the_child() -> None:
    @workflow(name="kin.shielding")
    async def shielding() -> str:
        kid = asyncio.ensure_future(child.options(id="kid")(1))
        try:
            await asyncio.shield(kid)
        except asyncio.CancelledError:
            return f"after all {await kid}"
        return "never"

    driver = Driver(shielding())
    driver.start()
    driver.turn(driver.children[0].started())
    assert kinds(driver.cancel()) == []
    driver.turn(_kid(driver).completed(7))
    assert finished(driver) == "after all 7"


# --- other runs -----------------------------------------------------------------------


def test_row_10_a_message_to_another_run_waits_for_its_acceptance() -> None:
    @workflow(name="kin.telling")
    async def telling() -> list[str]:
        seen: list[str] = []
        other = external("other")
        for attempt in range(4):
            try:
                if attempt < 2:
                    await other.signal(go(attempt))
                else:
                    await other.cancel()
                seen.append("ok")
            except WorkflowNotFoundError:
                seen.append("not found")
            except WorkflowClosedError:
                seen.append("closed")
        return seen

    driver = Driver(telling())
    assert kinds(driver.start()) == [SignalExternalWorkflowExecution]
    driver.turn(driver.deliveries[0].delivered())
    driver.turn(driver.deliveries[0].refused())
    driver.crash()
    driver.turn(driver.deliveries[0].delivered())
    driver.turn(driver.deliveries[0].refused(is_closed=True))
    assert finished(driver) == ["ok", "not found", "ok", "closed"]


def test_row_12_a_message_given_up_in_its_own_turn_is_never_sent() -> None:
    @workflow(name="kin.hesitating")
    async def hesitating() -> str:
        task = asyncio.ensure_future(external("other").signal(go(1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return "kept"

    driver = Driver(hesitating())
    assert kinds(driver.start()) == [CompleteWorkflowExecution]


# --- row 19 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("child kid 1", "child other 1"),
        ("child kid 1", "child kid 2"),
        ("child kid 1", "tell kid"),
        ("tell kid", "tell other"),
        ("tell kid", "stop kid"),
        ("tell kid", "shout kid"),
        ("stop kid", "stop other"),
    ],
)
def test_row_19_other_runs_are_matched_by_kind_id_name_and_arguments(
    first: str, second: str
) -> None:
    @workflow(name=f"kin.changed {first} {second}")
    async def changed() -> None:
        do, who, *value = deployed[0].split()
        if do == "child":
            await child.options(id=who)(int(value[0]))
        elif do == "stop":
            await external(who).cancel()
        else:
            await external(who).signal(do, 1)

    deployed = [first]
    driver = Driver(changed())
    driver.start()
    driver.crash()
    driver.replay()
    driver.crash()
    deployed[0] = second
    with pytest.raises(NondeterminismError):
        driver.replay()


@pytest.mark.parametrize("policy", list(ChildCancellationType))
def test_row_19_options_of_a_child_may_change(policy: ChildCancellationType) -> None:
    @workflow(name=f"kin.options {policy.value}")
    async def changing() -> int:
        result: int = await child.options(id="kid", **options)(1)
        return result

    options: dict[str, Any] = {}
    driver = Driver(changing())
    driver.start()
    driver.crash()
    options |= {
        "run_timeout": 5,
        "cancellation_type": policy,
        "summary": "another",
        "memo": {"a": 1},
    }
    driver.turn(driver.children[0].started())
    driver.turn(driver.children[0].completed(3))
    assert driver.result() == 3

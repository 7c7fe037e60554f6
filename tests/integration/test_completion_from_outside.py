"""Activities that somebody outside completes, and promises of workflows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

from durable import (
    ActivityNotFoundError,
    ActivityTimeoutError,
    AttemptOverError,
    Engine,
    PayloadError,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    complete_later,
    complete_later_sync,
    external_promise,
    sleep,
    workflow,
)
from durable.errors import InvalidCallError, InvalidIdError, NotInWorkflowError

TOKENS: list[str] = []
QUICK = RetryPolicy(max_attempts=2, initial_interval=0.01)


class Receipt(msgspec.Struct):
    amount: int


@pytest.fixture(autouse=True)
def _fresh() -> None:
    TOKENS.clear()


@activity(name="outside.charge", retry=QUICK)
async def charge(amount: int) -> Receipt:
    later = await complete_later()
    TOKENS.append(later.token)
    return later.outcome  # type: ignore[no-any-return]  # it stands for what comes


@activity(name="outside.plain", retry=QUICK)
def plain(amount: int) -> Receipt:
    later = complete_later_sync()
    TOKENS.append(later.token)
    return later.outcome  # type: ignore[no-any-return]  # it stands for what comes


@activity(name="outside.raises", retry=QUICK)
async def raises(amount: int) -> Receipt:
    later = await complete_later()
    TOKENS.append(later.token)
    if activity_info().attempt == 1:
        raise ValueError("the gateway is down")
    return later.outcome  # type: ignore[no-any-return]  # it stands for what comes


@activity(name="outside.tell")
async def tell(token: str) -> None:
    TOKENS.append(token)


@workflow(name="outside.pay")
async def pay(amount: int, kind: str = "charge", queue: str | None = None) -> int:
    call = {"charge": charge, "plain": plain, "raises": raises}[kind]
    return (await call.options(task_queue=queue)(amount)).amount


@workflow(name="outside.impatient")
async def impatient(queue: str | None = None) -> str:
    hasty = charge.options(start_to_close_timeout=0.2, retry=None, task_queue=queue)
    try:
        await hasty(1)
    except ActivityTimeoutError as error:
        return error.timeout_type
    return ""


@workflow(name="outside.heard")
async def heard() -> tuple[str, list[object]]:
    watched = charge.options(heartbeat_timeout=0.4, retry=None)
    try:
        await watched(1)
    except ActivityTimeoutError as error:
        return error.timeout_type, [*error.heartbeat_details]
    return "", []


@workflow(name="outside.gives_up")
async def gives_up() -> str:
    task = asyncio.create_task(charge(1))
    await sleep(0.2)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "given up"
    return "paid"


@workflow(name="outside.approve")
async def approve(seconds: float) -> bool:
    promise = external_promise(bool)
    await tell(promise.token)
    try:
        async with asyncio.timeout(seconds):
            return await promise
    except TimeoutError:
        return False


@workflow(name="outside.two")
async def two() -> tuple[Receipt, int, int]:
    first, second = external_promise(int), external_promise(Receipt)
    await tell(first.token)
    await tell(second.token)
    return await second, await first, await first


DEFINITIONS = [
    *(pay, impatient, heard, gives_up, approve, two),
    *(charge, plain, raises, tell),
]


def make_engine(database: str) -> Engine:
    return Engine(database, definitions=DEFINITIONS, activity_queues={"elsewhere": 10})


@pytest.fixture(params=[None, "elsewhere"])
def queue(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", ["charge", "plain"])
async def test_it_is_completed_by_its_token(
    database: str, kind: str, queue: str | None
) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7, kind, queue), id="p")
        await until(lambda: TOKENS)
        await engine.activities.complete(TOKENS[0], Receipt(7))
        assert await run.result() == 7


async def test_everybody_may_be_gone_meanwhile(
    database: str, queue: str | None
) -> None:
    async with make_engine(database) as engine:
        await engine.start(pay(7, queue=queue), id="p")
        await until(lambda: TOKENS)
    async with Engine(database, worker=False, definitions=[]) as client:
        await client.activities.complete(TOKENS[0], {"amount": 8})
    async with make_engine(database) as engine:
        assert await (await engine.get("p")).result() == 8


async def test_it_is_completed_by_its_ids(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7), id="p")
        await until(lambda: TOKENS)
        await engine.activities.complete(
            result=Receipt(9), workflow_id="p", activity_id="1"
        )
        assert await run.result() == 9


async def test_one_that_waits_is_completed_by_its_ids(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7, queue="nobody"), id="p")
        (found,) = await engine.activities.list(state="waiting")
        assert (found.workflow_id, found.activity_id) == ("p", "1")
        await engine.activities.complete(
            result=Receipt(9), workflow_id="p", activity_id="1"
        )
        assert await run.result() == 9
    assert TOKENS == []


async def test_a_failure_is_tried_again(database: str, queue: str | None) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7, queue=queue), id="p")
        await until(lambda: TOKENS)
        await engine.activities.fail(TOKENS[0], ValueError("declined"))
        await until(lambda: len(TOKENS) == 2)
        began = time.monotonic()
        with pytest.raises(AttemptOverError):
            await engine.activities.complete(TOKENS[0], Receipt(1))
        assert time.monotonic() - began < 1
        await engine.activities.fail(TOKENS[1], "declined for good")
        with pytest.raises(WorkflowFailedError, match="declined for good"):
            await run.result()
        rows = await run.attempts()
    assert [row.state.value for row in rows] == ["failed", "failed"]


async def test_what_its_function_raises_then_counts(
    database: str, queue: str | None
) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7, "raises", queue), id="p")
        await until(lambda: len(TOKENS) == 2)
        with pytest.raises(AttemptOverError):
            await engine.activities.complete(TOKENS[0], Receipt(1))
        await engine.activities.complete(TOKENS[1], Receipt(2))
        assert await run.result() == 2


async def test_late_repeated_and_bogus_tokens(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(pay(7), id="p")
        await until(lambda: TOKENS)
        complete = engine.activities.complete
        with pytest.raises(PayloadError):
            await complete(TOKENS[0], "seven")
        await complete(TOKENS[0], Receipt(7), request_id="once")
        with pytest.raises(ActivityNotFoundError):
            await complete(TOKENS[0], Receipt(8))
        assert await run.result() == 7
        for say in (complete, engine.activities.fail):
            with pytest.raises(ActivityNotFoundError):
                await say(TOKENS[0], "late")
        with pytest.raises(ActivityNotFoundError):
            await engine.activities.heartbeat(TOKENS[0], 1)
        with pytest.raises(ActivityNotFoundError):
            await complete("01942000-0000-7000-8000-000000000000.2.1.5", 1)
        for bogus in ("", "x", "a.b.c", "a.1", ".1.1.1", "a.1.1", "a.1.1.x", "a:b"):
            with pytest.raises(InvalidIdError):
                await complete(bogus, 1)
        with pytest.raises(InvalidCallError):
            await complete()
        with pytest.raises(InvalidCallError):
            await complete(TOKENS[0], 1, workflow_id="p")


async def test_the_same_request_is_known_until_it_is_taken(database: str) -> None:
    async with make_engine(database) as engine:
        await engine.start(pay(7), id="p")
        await until(lambda: TOKENS)
    async with Engine(database, worker=False, definitions=DEFINITIONS) as client:
        for _ in range(2):
            await client.activities.complete(
                TOKENS[0], Receipt(7), request_id="webhook-1"
            )
        with pytest.raises(ActivityNotFoundError):
            await client.activities.complete(TOKENS[0], Receipt(8))


async def test_its_timeouts_count_on(database: str, queue: str | None) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(impatient(queue), id="p")
        await until(lambda: TOKENS)
        assert await run.result() == "start_to_close"
        with pytest.raises(ActivityNotFoundError):
            await engine.activities.complete(TOKENS[0], Receipt(1))


async def test_heartbeats_come_from_outside(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(heard(), id="p")
        await until(lambda: TOKENS)
        for n in range(5):
            await asyncio.sleep(0.2)
            await engine.activities.heartbeat(TOKENS[0], n)
        (found,) = await engine.activities.list()
        assert (found.state, found.heartbeat_details) == ("external", (4,))
        assert found.token == TOKENS[0]
        assert await run.result() == ("heartbeat", [4])


async def test_a_cancel_voids_the_token(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(gives_up(), id="p")
        assert await run.result() == "given up"
        with pytest.raises(ActivityNotFoundError):
            await engine.activities.heartbeat(TOKENS[0])


async def test_it_may_be_stopped_from_outside(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(gives_up(), id="p")
        await until(lambda: TOKENS)
        await engine.activities.cancel(TOKENS[0])
        assert await run.result() == "given up"


@pytest.mark.parametrize("value", [True, False])
async def test_a_promise_is_kept(database: str, value: bool) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(approve(60), id="a")
        await until(lambda: TOKENS)
        await engine.activities.complete(TOKENS[0], value)
        assert await run.result() is value


async def test_a_promise_survives_its_worker(database: str) -> None:
    async with make_engine(database) as engine:
        await engine.start(two(), id="t")
        await until(lambda: len(TOKENS) == 2)
    async with Engine(database, worker=False, definitions=[]) as client:
        await client.activities.complete(TOKENS[0], 1)
    async with make_engine(database) as engine:
        await engine.activities.complete(TOKENS[1], {"amount": 2})
        run = await engine.get("t", workflow=two)
        assert await run.result() == (Receipt(2), 1, 1)


async def test_a_promise_has_an_end(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(approve(0.2), id="a")
        assert await run.result() is False
        with pytest.raises(ActivityNotFoundError):
            await engine.activities.complete(TOKENS[0], True)


async def test_a_promise_may_fail(database: str) -> None:
    async with make_engine(database) as engine:
        run = await engine.start(approve(60), id="a")
        await until(lambda: TOKENS)
        await engine.activities.fail(TOKENS[0], ValueError("nobody is there"))
        with pytest.raises(WorkflowFailedError, match="nobody is there"):
            await run.result()


async def test_outside_of_activities_it_is_refused() -> None:
    with pytest.raises(NotInWorkflowError):
        await complete_later()
    with pytest.raises(InvalidCallError):
        complete_later_sync()
    with pytest.raises(NotInWorkflowError):
        external_promise(int)

"""Context that travels: what users of such systems have reported as lost or leaked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from durable import (
    ContextPropagator,
    Engine,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    Next,
    RetryPolicy,
    Signal,
    activity,
    activity_client,
    activity_info,
    continue_as_new,
    external,
    info,
    logger,
    run,
    signal,
    sleep,
    start_child,
    update,
    wait_condition,
    workflow,
)
from durable.testing import TestEnvironment, dump_history, replay

tenant: ContextVar[str] = ContextVar("tenant")
WITHIN = [ContextPropagator(tenant, "tenant")]
GO = Signal("go", bool)
ATTEMPTS: list[str] = []


@pytest.fixture(autouse=True)
def _as_acme() -> Iterator[None]:
    ATTEMPTS.clear()
    token = tenant.set("acme")
    yield
    tenant.reset(token)


def current() -> str:
    return tenant.get("") or "none"


@activity(name="travel.async")
async def ask() -> str:
    return current()


@activity(name="travel.thread")
def ask_in_thread() -> str:
    return current()


@activity(name="travel.process", run_in="process")
def ask_in_process() -> str:
    return activity_info().headers.get("tenant", "none")


@workflow(name="travel.child")
async def child() -> str:
    return f"{current()} {await ask()}"


@workflow(name="travel.parent")
async def parent() -> list[str]:
    handle = await start_child(child())
    return [
        *(current(), await ask(), await ask_in_thread()),
        *(await ask_in_process(), await handle, await child()),
    ]


async def test_a_start_hands_it_to_activities_of_all_kinds_and_to_children(
    database: str,
) -> None:
    async with Engine(database, interceptors=WITHIN) as engine:
        expected = ["acme"] * 4 + ["acme acme"] * 2
        assert await engine.execute(parent()) == expected


@workflow(name="travel.changing")
async def changing() -> list[str]:
    seen = [await ask()]
    tenant.set("other")
    seen += [await ask(), await child(), await ask_in_process()]
    tenant.set("")
    return [*seen, await ask(), await child()]


async def test_what_the_code_sets_is_handed_on_and_nothing_once_it_is_taken_back(
    database: str,
) -> None:
    async with Engine(database, interceptors=WITHIN) as engine:
        assert await engine.execute(changing()) == [
            *("acme", "other", "other other", "other", "none", "none none")
        ]


# --- reported of continuations, retries and test environments -------------------------


@workflow(name="travel.chain")
async def chain(rounds: int) -> str:
    if rounds == 2:
        continue_as_new(1)
    if rounds == 1:
        tenant.set("other")
        continue_as_new(0)
    return f"{current()} {await ask()} {info().headers}"


@pytest.mark.parametrize("is_test", [False, True])
async def test_run_that_goes_on_as_new_keeps_it_in_tests_too(is_test: bool) -> None:
    make = TestEnvironment if is_test else Engine
    async with make("memory://", interceptors=WITHIN) as engine:
        found = await engine.execute(chain(2))
        assert found == "other other {'tenant': 'other'}"


@activity(name="travel.flaky", retry=RetryPolicy(initial_interval=0.01))
def flaky() -> str:
    ATTEMPTS.append(current())
    if len(ATTEMPTS) < 3:
        raise ConnectionError("again")
    return current()


@workflow(name="travel.flaky_run")
async def flaky_run() -> str:
    if info().attempt == 1:
        raise ConnectionError("again")
    return f"{current()} {await flaky()}"


async def test_each_further_try_has_it(database: str) -> None:
    async with Engine(database, interceptors=WITHIN) as engine:
        policy = RetryPolicy(initial_interval=0.01)
        assert await engine.execute(flaky_run(), retry=policy) == "acme acme"
    assert ATTEMPTS == ["acme"] * 3


@workflow(name="travel.Box")
class Box:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @signal
    def put(self) -> None:
        self.seen.append(f"signal {current()}")

    @update
    async def change(self) -> str:
        return f"{current()} {await ask()}"

    @run
    async def run(self) -> list[str]:
        await wait_condition(lambda: len(self.seen) == 2)
        return [*self.seen, current()]


@pytest.mark.parametrize("is_test", [False, True])
async def test_a_handler_has_that_of_its_sender_and_the_run_its_own(
    is_test: bool,
) -> None:
    make = TestEnvironment if is_test else Engine
    async with make("memory://", interceptors=WITHIN) as engine:
        box = await engine.start(Box.run())
        tenant.set("other")
        await box.signal(Box.put())
        assert await box.update(Box.change()) == "other other"
        tenant.set("")
        await box.signal(Box.put())
        assert await box.result() == ["signal other", "signal acme", "acme"]


async def test_a_signal_that_starts_its_run_has_it() -> None:
    async with Engine("memory://", interceptors=WITHIN) as engine:
        box = await engine.start(Box.run(), with_signal=Box.put())
        await box.signal(Box.put())
        assert await box.result() == ["signal acme", "signal acme", "acme"]


@workflow(name="travel.sender")
async def sender() -> None:
    tenant.set("other")
    await external("box").signal(Box.put())
    await external("box").signal(Box.put())


async def test_a_signal_of_another_workflow_has_what_that_had() -> None:
    async with Engine("memory://", interceptors=WITHIN) as engine:
        box = await engine.start(Box.run(), id="box")
        await engine.execute(sender())
        assert await box.result() == ["signal other", "signal other", "acme"]


@activity(name="travel.starts")
async def starts() -> str:
    handle = await activity_client().start(child())
    result: str = await handle.result()
    return result


@workflow(name="travel.nested")
async def nested() -> str:
    return await starts()


async def test_what_an_activity_starts_has_it() -> None:
    async with Engine("memory://", interceptors=WITHIN) as engine:
        assert await engine.execute(nested()) == "acme acme"


# --- reported of threads --------------------------------------------------------------


async def test_a_thread_that_is_used_again_keeps_nothing_of_the_call_before() -> None:
    options: Any = {"interceptors": WITHIN, "max_activity_threads": 1}
    async with Engine("memory://", **options) as engine:
        assert (await engine.execute(parent()))[2] == "acme"
        tenant.set("")
        assert (await engine.execute(parent()))[2] == "none"


class Lingers(Interceptor):
    """Is busy after the function has returned, until it is out of time."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        result = await next(input)
        if input.info.attempt == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return result


@activity(
    name="travel.short",
    start_to_close_timeout=0.05,
    retry=RetryPolicy(initial_interval=0.01),
)
def short() -> int:
    return activity_info().attempt


@workflow(name="travel.call_short")
async def call_short() -> int:
    return await short()


async def test_running_out_of_time_after_the_function_costs_no_thread() -> None:
    lingers = Lingers()
    options: Any = {"interceptors": [lingers], "max_activity_threads": 1}
    async with Engine("memory://", **options) as engine:
        for _ in range(2):
            assert await engine.execute(call_short()) == 2
    assert lingers.cancelled == 2


# --- reported of order, replay and eviction -------------------------------------------


class Tells(Interceptor):
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        self.told.append(f"{self.name} before")
        try:
            return await next(input)
        finally:
            self.told.append(f"{self.name} after")


async def test_interceptors_stack_and_the_outer_one_hears_of_the_end_last() -> None:
    told: list[str] = []
    within = [Tells("a", told), Tells("b", told)]
    async with Engine("memory://", interceptors=within) as engine:
        await engine.execute(child())
    assert told == ["a before", "b before", "b after", "a after"]


@workflow(name="travel.by_role")
async def by_role() -> str:
    if current() == "acme":
        return await ask()
    await sleep(0.01)
    return "a stranger"


async def test_code_that_goes_by_it_replays_with_what_was_recorded() -> None:
    async with Engine("memory://", interceptors=WITHIN) as engine:
        handle = await engine.start(by_role())
        assert await handle.result() == "acme"
        history = dump_history(await handle.history())
    tenant.set("somebody else")
    assert replay(history, [by_role], interceptors=WITHIN).result == "acme"


class Logs(Interceptor):
    async def execute_workflow(
        self, input: ExecuteWorkflowInput, next: Next[ExecuteWorkflowInput]
    ) -> Any:
        logger.info("begins")
        try:
            return await next(input)
        finally:
            logger.info("ends")


@workflow(name="travel.waiting")
async def waiting() -> str:
    first = await ask()
    await GO.receive()
    return f"{first} {await ask()} {current()}"


async def test_runs_that_leave_memory_tell_once_and_have_it_when_they_are_back(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durable.workflow")
    options: Any = {"interceptors": [*WITHIN, Logs()], "max_cached_runs": 1}
    async with Engine(database, **options) as engine:
        handles = [await engine.start(waiting()) for _ in range(4)]
        for handle in handles:
            await handle.signal(GO(True))
        assert [await handle.result() for handle in handles] == ["acme acme acme"] * 4
    said = [record.message for record in caplog.records if record.name.endswith("flow")]
    assert sorted(said) == ["begins"] * 4 + ["ends"] * 4


async def test_run_that_began_without_interceptors_goes_on_with_them(
    tmp_path: Any,
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    tenant.set("")
    async with Engine(url) as engine:
        handle = await engine.start(waiting(), id="old")
        box = await engine.start(Box.run(), id="box")
        await box.signal(Box.put())
    tenant.set("acme")
    async with Engine(url, interceptors=[*WITHIN, Logs()]) as engine:
        handle, box = await engine.get("old"), await engine.get("box")
        await handle.signal(GO(True))
        await box.signal(Box.put())
        assert await handle.result() == "none none none"
        assert await box.result() == ["signal none", "signal acme", "none"]

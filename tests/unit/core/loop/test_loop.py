"""The loop of a run: its order, what it refuses, and what it makes stable."""

import asyncio
import contextvars
import decimal
import gc
from typing import Any

import pytest

from durable import activity, info, sleep, wait_condition, workflow
from durable.core.loop import loop as loop_module
from durable.core.loop.stable_asyncio import install_stable_asyncio
from durable.errors import ForbiddenInWorkflowError
from durable.testing.driver import RUN_ID, Driver

OTHER_RUN_ID = "01942000-0000-7000-8000-00000000000f"


@activity(name="loop.echo", retry=None)
async def echo(value: int) -> int:
    return value


def run(definition: Any, *, run_id: str = RUN_ID) -> Any:
    driver = Driver(definition(), run_id=run_id)
    driver.start()
    while not driver.is_closed:
        if driver.pending:
            pending = driver.pending[0]
            driver.complete(pending, int(bytes(pending.arguments[0].json)))
        else:
            driver.fire_next_timer()
    return driver.result()


# --- order ----------------------------------------------------------------------------


def test_calls_run_in_the_order_in_which_they_were_queued() -> None:
    @workflow
    async def queueing() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()

        def call(name: str) -> None:
            seen.append(name)
            if len(name) < 2:
                loop.call_soon(call, name * 2)

        for name in "abc":
            loop.call_soon(call, name)
        loop.call_soon(seen.append, "never").cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    assert run(queueing) == ["a", "b", "c", "aa", "bb", "cc"]


def test_tasks_begin_in_the_order_in_which_they_were_made() -> None:
    @workflow
    async def tasking() -> list[str | None]:
        seen: list[str | None] = []

        async def one() -> None:
            task = asyncio.current_task()
            seen.append(None if task is None else task.get_name())

        await asyncio.gather(*(one() for _ in range(3)))
        return seen

    assert run(tasking) == ["Task-2", "Task-3", "Task-4"]


def test_locks_and_queues_are_fair() -> None:
    @workflow
    async def queueing() -> list[int]:
        lock, queue, seen = asyncio.Lock(), asyncio.Queue[int](1), list[int]()

        async def put(number: int) -> None:
            async with lock:
                await queue.put(number)

        putting = [asyncio.ensure_future(put(number)) for number in range(5)]
        for _ in putting:
            seen.append(await queue.get())
        return seen

    assert run(queueing) == [0, 1, 2, 3, 4]


def order_of_sets(make: Any) -> Any:
    """A workflow that says in which order a set of these iterates."""

    @workflow
    async def iterating() -> list[int]:
        made = [make(number) for number in range(40)]
        index = {id(item): number for number, item in enumerate(made)}
        order = [index[id(item)] for item in set(made)]
        for item in made:
            item.cancel()
        await asyncio.wait(made)
        return order

    return iterating


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda n: asyncio.ensure_future(asyncio.sleep(n)), id="task"),
        pytest.param(lambda _: asyncio.get_running_loop().create_future(), id="future"),
        pytest.param(lambda n: asyncio.gather(asyncio.sleep(n)), id="gather"),
        pytest.param(lambda n: asyncio.shield(asyncio.sleep(n)), id="shield"),
    ],
)
def test_sets_iterate_alike_in_one_run_and_spread_over_runs(make: Any) -> None:
    iterating = order_of_sets(make)
    first = run(iterating)
    ballast = [object() for _ in range(1000)]  # other addresses for the same things
    assert run(iterating) == first
    assert sorted(first) == list(range(40))
    assert first != list(range(40))
    assert run(iterating, run_id=OTHER_RUN_ID) != first
    del ballast


def test_gather_outside_of_workflows_hashes_as_ever() -> None:
    async def main() -> bool:
        future = asyncio.gather(asyncio.sleep(0))
        await future
        return hash(future) == object.__hash__(future) and future in {future}

    assert asyncio.run(main())


def test_as_completed_of_bare_coroutines_begins_them_in_the_order_given() -> None:
    @workflow
    async def completing() -> list[int]:
        seen: list[int] = []

        async def one(number: int) -> int:
            seen.append(number)
            return number

        for result in asyncio.as_completed([one(number) for number in range(30)]):
            await result
        return seen

    assert run(completing) == list(range(30))


def test_wait_for_begins_in_the_callers_own_step() -> None:
    """On 3.11 asyncio's own makes a task first: commands would come in other order."""

    @workflow
    async def waiting() -> list[str]:
        seen: list[str] = []

        async def inner() -> int:
            seen.append("inner")
            return 1

        asyncio.get_running_loop().call_soon(seen.append, "queued")
        await asyncio.wait_for(inner(), 5)
        await asyncio.sleep(0)
        return seen

    assert run(waiting) == ["inner", "queued"]


@pytest.mark.parametrize("seconds", [0, -1, None])
def test_wait_for_without_time_only_takes_what_is_there(seconds: int | None) -> None:
    @workflow
    async def waiting() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result("there")
        first = await asyncio.wait_for(future, seconds)
        if seconds is None:
            return first
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), seconds)
        return first

    assert run(waiting) == "there"


def test_wait_for_elsewhere_is_untouched() -> None:
    async def main() -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), 0)
        done = list(asyncio.as_completed([asyncio.sleep(0, 1), asyncio.sleep(0, 2)]))
        return sum([await one for one in done])

    install_stable_asyncio(loop_module.DeterministicLoop)
    install_stable_asyncio(loop_module.DeterministicLoop)  # once is enough
    assert asyncio.run(main()) == 3


def test_conditions_see_the_loop_at_rest() -> None:
    @workflow
    async def resting() -> list[int]:
        seen: list[int] = []
        count = 0

        async def work() -> None:
            nonlocal count
            for _ in range(5):
                count += 1
                await asyncio.sleep(0)

        def predicate() -> bool:
            seen.append(count)
            return count == 5

        task = asyncio.ensure_future(work())
        await wait_condition(predicate)
        await task
        return seen

    assert run(resting) == [5]


# --- context --------------------------------------------------------------------------

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_nothing_of_the_drivers_context_reaches_the_code() -> None:
    @workflow
    async def looking() -> list[str]:
        seen = [colour.get(), str(decimal.Decimal(1) / 3)]
        await sleep(1)
        return [*seen, colour.get(), str(decimal.Decimal(1) / 3)]

    driver = Driver(looking())
    token = colour.set("red")
    try:
        with decimal.localcontext() as context:
            context.prec = 3
            driver.start()
    finally:
        colour.reset(token)
    driver.crash()
    driver.fire_next_timer()
    third = "0." + "3" * 28
    assert driver.result() == ["none", third, "none", third]


def test_context_variables_work_within_the_run() -> None:
    @workflow
    async def colouring() -> list[str]:
        async def paint(name: str) -> str:
            colour.set(name)
            await sleep(1)
            return colour.get()

        colour.set("outer")
        inner = await asyncio.gather(paint("a"), paint("b"))
        return [*inner, colour.get()]

    assert run(colouring) == ["a", "b", "outer"]
    assert colour.get() == "none"


# --- refusals -------------------------------------------------------------------------

FORBIDDEN = [
    *sorted(loop_module._FORBIDDEN),
    "run_in_executor",
    "call_soon_threadsafe",
]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_call_is_refused_with_advice(name: str) -> None:
    @workflow
    async def misbehaving() -> None:
        getattr(asyncio.get_running_loop(), name)(None)

    with pytest.raises(ForbiddenInWorkflowError) as caught:
        Driver(misbehaving()).start()
    error = caught.value
    assert name in error.message
    assert error.hint
    assert error.hint in str(error)
    assert isinstance(error, NotImplementedError)


def test_every_abstract_method_of_a_loop_is_there() -> None:
    missing = [
        name
        for name in vars(asyncio.AbstractEventLoop)
        if not name.startswith("_")
        and getattr(loop_module.DeterministicLoop, name)
        is getattr(asyncio.AbstractEventLoop, name)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: asyncio.to_thread(print), id="to_thread"),
        pytest.param(
            lambda: asyncio.create_subprocess_exec("true"), id="create_subprocess_exec"
        ),
        pytest.param(
            lambda: asyncio.open_connection("localhost", 1), id="open_connection"
        ),
        pytest.param(
            lambda: asyncio.start_server(print, "localhost", 1), id="start_server"
        ),
    ],
)
def test_what_asyncio_builds_upon_it_is_refused(call: Any) -> None:
    @workflow
    async def misbehaving() -> None:
        await call()

    with pytest.raises(ForbiddenInWorkflowError):
        Driver(misbehaving()).start()


def test_a_loop_within_the_loop_is_refused() -> None:
    @workflow
    async def nesting() -> str:
        coroutine = echo(1)
        try:
            asyncio.run(coroutine)
        except RuntimeError as error:
            coroutine.close()
            return str(error)
        return "ran"

    assert "running event loop" in run(nesting)


def test_what_may_be_asked_of_the_loop_is_answered() -> None:
    @workflow
    async def asking() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [
            loop.get_debug(),
            loop.is_running(),
            loop.is_closed(),
            loop.get_task_factory(),
            loop.get_exception_handler(),
            loop.time() * 1_000_000 == info().started_at,
        ]

    assert run(asking) == [False, True, False, None, None, True]


# --- what a run keeps -----------------------------------------------------------------


def test_loop_forgets_done_tasks() -> None:
    @workflow
    async def many() -> int:
        for _ in range(2_000):
            await asyncio.ensure_future(asyncio.sleep(0))
        loop: Any = asyncio.get_running_loop()
        return len(loop.tasks)

    assert run(many) < 500


def test_finished_runs_leave_nothing_behind() -> None:
    @workflow
    async def leaving() -> int:
        async def generate() -> Any:
            yield 1
            yield 2

        async for number in generate():
            return int(number)
        return 0

    def count() -> int:
        gc.collect()
        return sum(
            isinstance(item, loop_module.DeterministicLoop) for item in gc.get_objects()
        )

    before = count()
    for _ in range(5):
        driver = Driver(leaving())
        driver.start()
        driver.crash()
        del driver
    assert count() == before

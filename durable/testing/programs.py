"""Programs as data: small trees that one workflow interprets with plain asyncio.

A property about replay needs many different workflows. A `Node` is one step of such a
workflow; `run_program` is the workflow that walks it and returns what it saw, in the
order in which it saw it. Programs are JSON, so that another process can run the same.

`durable.testing.strategies` draws programs at random; this module needs no hypothesis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias, cast

import msgspec

from durable.api.activity import Activity, activity
from durable.api.operations import info, now, patched, sleep, uuid4, wait_condition
from durable.api.operations import random as run_random
from durable.api.workflow import WorkflowCall, workflow
from durable.errors import ActivityError, ApplicationError, FailureError
from durable.options import ActivityCancellationType


class _Step(msgspec.Struct, frozen=True, tag=True, tag_field="do", omit_defaults=True):
    """Base of the nodes; `do` in their JSON says which one it is."""


class Act(_Step, frozen=True):
    """Await an activity: 0 tries to cancel it, 1 waits for that, 2 abandons it."""

    kind: int = 0
    value: int = 0


class Sleep(_Step, frozen=True):
    """Await a durable timer, by `durable.sleep`; 0 is a timer too."""

    seconds: int = 0


class Pause(_Step, frozen=True):
    """Await `asyncio.sleep`; 0 only yields."""

    seconds: int = 0


class Draw(_Step, frozen=True):
    """Note a random number, a UUID, the time, or the history's length."""

    what: int = 0


class Patch(_Step, frozen=True):
    """Ask for a patch, and go one way or the other."""

    patch: int
    then: Node
    otherwise: Node


class Fail(_Step, frozen=True):
    """Raise an ApplicationError."""

    kind: int = 0


class Put(_Step, frozen=True):
    """Put into the queue, count up, and set the event."""

    value: int = 0


class Take(_Step, frozen=True):
    """Take from the queue, within some seconds."""

    seconds: int = 1


class Await(_Step, frozen=True):
    """Wait until the count is high enough, within some seconds or without a timer."""

    count: int = 0
    seconds: int | None = 1


class Signalled(_Step, frozen=True):
    """Wait for the event, within some seconds."""

    seconds: int = 1


class Seq(_Step, frozen=True):
    """One after the other."""

    steps: tuple[Node, ...]


class Gather(_Step, frozen=True):
    """All at once, by `asyncio.gather`."""

    steps: tuple[Node, ...]
    keep_errors: bool = True


class Group(_Step, frozen=True):
    """All at once, in a TaskGroup."""

    steps: tuple[Node, ...]


class Race(_Step, frozen=True):
    """Until the first is done, by `asyncio.wait` upon a set; then cancel the others."""

    steps: tuple[Node, ...]
    drop: bool = True


class Completed(_Step, frozen=True):
    """As they finish, by `asyncio.as_completed`, of tasks or of bare coroutines."""

    steps: tuple[Node, ...]
    bare: bool = False


class Bag(_Step, frozen=True):
    """Make a set of tasks and await them as the set iterates."""

    steps: tuple[Node, ...]


class Within(_Step, frozen=True):
    """Within a time: 0 by `asyncio.timeout`, 1 by `asyncio.wait_for`."""

    seconds: int
    step: Node
    how: int = 0


class Shield(_Step, frozen=True):
    """Await through `asyncio.shield`."""

    step: Node


class Cancel(_Step, frozen=True):
    """Make a task, let the loop turn or time pass, cancel it, await it."""

    step: Node
    turns: int = 0
    seconds: int = 0


class Cleanup(_Step, frozen=True):
    """`try: step finally: cleanup`."""

    step: Node
    cleanup: Node


class Swallow(_Step, frozen=True):
    """Await, and go on after a CancelledError."""

    step: Node


class Locked(_Step, frozen=True):
    """Await while holding the lock."""

    step: Node


class Limited(_Step, frozen=True):
    """Await while holding one of the semaphore's two places."""

    step: Node


class Generate(_Step, frozen=True):
    """Iterate an async generator over steps; leave it after some, closed or not."""

    steps: tuple[Node, ...]
    leave_after: int | None = None
    close: bool = True


Node: TypeAlias = (
    Act
    | Sleep
    | Pause
    | Draw
    | Patch
    | Fail
    | Put
    | Take
    | Await
    | Signalled
    | Seq
    | Gather
    | Group
    | Race
    | Completed
    | Bag
    | Within
    | Shield
    | Cancel
    | Cleanup
    | Swallow
    | Locked
    | Limited
    | Generate
)


# --- the activities that programs call ------------------------------------------------


@activity(name="durable.testing.try", retry=None)
async def step_try(value: int) -> int:
    """Return the value."""
    return value


@activity(
    name="durable.testing.wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def step_wait(value: int) -> int:
    """Return the value."""
    return value


@activity(
    name="durable.testing.abandon",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def step_abandon(value: int) -> int:
    """Return the value."""
    return value


_ACTIVITIES: Final[tuple[Activity[[int], int], ...]] = (
    step_try,
    step_wait,
    step_abandon,
)


# --- the interpreter ------------------------------------------------------------------


@workflow(name="durable.testing.program")
async def run_program(program: Node) -> list[str]:
    """Walk a program; return what it saw, in order."""
    interpreter = _Interpreter()
    await interpreter.run(program)
    return interpreter.seen


def program_call(program: Node) -> WorkflowCall[list[str]]:
    """The workflow call that runs a program."""
    return run_program(program)


class _Interpreter:
    """What the tasks of one program share."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._count = 0
        self._lock = asyncio.Lock()
        self._places = asyncio.Semaphore(2)
        self._queue: asyncio.Queue[int] = asyncio.Queue(3)
        self._event = asyncio.Event()

    def note(self, what: object) -> None:
        """Put something on record."""
        self.seen.append(str(what))

    async def run(self, node: Node) -> int:
        """Walk one node; return how many leaves it walked, for the sake of a value."""
        try:
            return await _WALK[type(node)](self, node)
        except asyncio.CancelledError:
            self.note(f"{type(node).__name__} cancelled")
            raise

    async def catch(self, awaitable: Awaitable[Any]) -> Any:
        """Await, and note what was raised instead of raising it."""
        try:
            return await awaitable
        except (TimeoutError, FailureError, ExceptionGroup) as error:
            self.note(f"caught {_name(error)}")
            return -1

    # --- leaves -----------------------------------------------------------------------

    async def act(self, node: Act) -> int:
        result = await self.catch(_ACTIVITIES[node.kind % 3](node.value))
        self.note(f"act {node.value} = {result}")
        return 1

    async def sleep(self, node: Sleep) -> int:
        await sleep(node.seconds)
        self.note(f"slept {node.seconds}")
        return 1

    async def pause(self, node: Pause) -> int:
        await asyncio.sleep(node.seconds)
        self.note(f"paused {node.seconds}")
        return 1

    async def draw(self, node: Draw) -> int:
        draws: tuple[Callable[[], object], ...] = (
            lambda: run_random().randrange(1_000_000),
            uuid4,
            now,
            lambda: info().history_length,
        )
        self.note(draws[node.what % 4]())
        return 1

    async def patch(self, node: Patch) -> int:
        is_new = patched(f"patch-{node.patch}")
        self.note(f"patch {node.patch} {is_new}")
        return await self.run(node.then if is_new else node.otherwise)

    async def fail(self, node: Fail) -> int:
        self.note("fail")
        raise ApplicationError("a program's own failure", type=f"Kind{node.kind}")

    async def put(self, node: Put) -> int:
        self._count += 1
        self._event.set()
        if not self._queue.full():
            self._queue.put_nowait(node.value)
        self.note(f"put {node.value}")
        return 1

    async def take(self, node: Take) -> int:
        self.note(await self.catch(asyncio.wait_for(self._queue.get(), node.seconds)))
        return 1

    async def wait(self, node: Await) -> int:
        wanted = node.count
        await self.catch(
            wait_condition(lambda: self._count >= wanted, timeout=node.seconds)
        )
        self.note(f"waited for {wanted}, {self._count}")
        return 1

    async def signalled(self, node: Signalled) -> int:
        await self.catch(asyncio.wait_for(self._event.wait(), node.seconds))
        self._event.clear()
        return 1

    # --- one after the other ----------------------------------------------------------

    async def seq(self, node: Seq) -> int:
        total = 0
        for step in node.steps:
            total += await self.run(step)
        return total

    async def within(self, node: Within) -> int:
        if node.how % 2:
            return int(
                await self.catch(asyncio.wait_for(self.run(node.step), node.seconds))
            )
        try:
            async with asyncio.timeout(node.seconds):
                return await self.run(node.step)
        except TimeoutError:
            self.note("timeout")
            return -1

    async def shield(self, node: Shield) -> int:
        return int(await asyncio.shield(self.run(node.step)))

    async def cleanup(self, node: Cleanup) -> int:
        try:
            return await self.run(node.step)
        finally:
            self.note("cleanup")
            await self.run(node.cleanup)

    async def swallow(self, node: Swallow) -> int:
        try:
            return await self.run(node.step)
        except asyncio.CancelledError:
            self.note("swallowed")
            return -1

    async def locked(self, node: Locked) -> int:
        async with self._lock:
            return await self.run(node.step)

    async def limited(self, node: Limited) -> int:
        async with self._places:
            return await self.run(node.step)

    async def generate(self, node: Generate) -> int:
        generator = self._results(node.steps)
        total = 0
        if node.close:
            async with aclosing(generator):
                return await self._consume(generator, node.leave_after)
        total += await self._consume(generator, node.leave_after)
        return total

    async def _results(self, steps: tuple[Node, ...]) -> AsyncGenerator[int]:
        try:
            for step in steps:
                yield await self.run(step)
        finally:
            self.note("generator ends")

    async def _consume(self, results: AsyncIterator[int], most: int | None) -> int:
        total = count = 0
        async for result in results:
            total += result
            count += 1
            if count == most:
                break
        return total

    # --- all at once ------------------------------------------------------------------

    async def gather(self, node: Gather) -> int:
        results = await self.catch(
            asyncio.gather(
                *map(self.run, node.steps), return_exceptions=node.keep_errors
            )
        )
        self.note(f"gathered {_outcomes(results)}")
        return len(node.steps)

    async def group(self, node: Group) -> int:
        try:
            async with asyncio.TaskGroup() as tasks:
                for step in node.steps:
                    tasks.create_task(self.run(step))
        except* (FailureError, TimeoutError) as group:
            self.note(f"group raised {_name(group)}")
        return len(node.steps)

    async def race(self, node: Race) -> int:
        tasks = self._tasks(node.steps)
        if not tasks:
            return 0
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:  # a set: in the order of its hashes
            self.note(f"{task.get_name()} won: {_outcome(task)}")
        for task in others:
            if node.drop:
                task.cancel()
            else:
                self.note(f"{task.get_name()}: {_outcome(await _settled(task))}")
        return len(done)

    async def completed(self, node: Completed) -> int:
        each: Any = map(self.run, node.steps) if node.bare else self._tasks(node.steps)
        for number, next_one in enumerate(asyncio.as_completed(each)):
            self.note(f"completed {number}: {await self.catch(next_one)}")
        return len(node.steps)

    async def bag(self, node: Bag) -> int:
        for task in self._tasks(node.steps):
            self.note(f"{task.get_name()}: {_outcome(await _settled(task))}")
        return len(node.steps)

    async def cancel(self, node: Cancel) -> int:
        task = asyncio.create_task(self.run(node.step))
        for _ in range(node.turns):
            await asyncio.sleep(0)
        if node.seconds:
            await asyncio.sleep(node.seconds)
        task.cancel()
        self.note(f"cancelled task: {_outcome(await _settled(task))}")
        return 1

    def _tasks(self, steps: tuple[Node, ...]) -> set[asyncio.Task[int]]:
        return {
            asyncio.create_task(self.run(step), name=f"task {index}")
            for index, step in enumerate(steps)
        }


async def _settled(task: asyncio.Task[int]) -> asyncio.Task[int]:
    await asyncio.wait([task])
    return task


def _outcome(task: asyncio.Task[int]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return str(task.result()) if error is None else _name(error)


def _outcomes(results: Any) -> str:
    if not isinstance(results, list):
        return str(results)
    each: list[Any] = [*results]
    return str([_name(r) if isinstance(r, BaseException) else r for r in each])


def _name(error: BaseException) -> str:
    """Name an exception; never its text, which differs between Python versions."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return f"{type(group).__name__}({', '.join(map(_name, group.exceptions))})"
    if isinstance(error, ActivityError):
        return f"{type(error).__name__} of {error.activity_type}"
    if isinstance(error, ApplicationError):
        return f"ApplicationError {error.type}"
    return type(error).__name__


_WALK: Final[dict[type[Any], Callable[[_Interpreter, Any], Awaitable[int]]]] = {
    Act: _Interpreter.act,
    Sleep: _Interpreter.sleep,
    Pause: _Interpreter.pause,
    Draw: _Interpreter.draw,
    Patch: _Interpreter.patch,
    Fail: _Interpreter.fail,
    Put: _Interpreter.put,
    Take: _Interpreter.take,
    Await: _Interpreter.wait,
    Signalled: _Interpreter.signalled,
    Seq: _Interpreter.seq,
    Gather: _Interpreter.gather,
    Group: _Interpreter.group,
    Race: _Interpreter.race,
    Completed: _Interpreter.completed,
    Bag: _Interpreter.bag,
    Within: _Interpreter.within,
    Shield: _Interpreter.shield,
    Cancel: _Interpreter.cancel,
    Cleanup: _Interpreter.cleanup,
    Swallow: _Interpreter.swallow,
    Locked: _Interpreter.locked,
    Limited: _Interpreter.limited,
    Generate: _Interpreter.generate,
}

"""The workflow that walks programs (`durable.testing.programs`), with plain asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn

from durable.api.workflows.continuation import checkpoint, continue_as_new
from durable.api.workflows.operations import (
    info,
    now,
    patched,
    sleep,
    uuid4,
    wait_condition,
)
from durable.api.workflows.operations import random as run_random
from durable.api.workflows.workflow import WorkflowCall, workflow
from durable.errors import ApplicationError, FailureError
from durable.testing.programs import programs as p
from durable.testing.programs.conversation import ACTIVITIES, Conversation, name_of

_LAPS_MAX: Final = 3


@workflow(name="durable.testing.program", checkpoint_every=1)
async def run_program(program: p.Node, laps: int = 0) -> list[str]:
    """Walk a program; return what it saw, in order.

    Args:
        program: the program.
        laps: how often a checkpoint has begun it anew.
    """
    interpreter = Interpreter(program, laps)
    await interpreter.run(program)
    return interpreter.seen


def program_call(program: p.Node) -> WorkflowCall[list[str]]:
    """The workflow call that runs a program."""
    return run_program(program)


class Interpreter(Conversation):
    """What the tasks of one program share."""

    def __init__(self, program: p.Node, laps: int) -> None:
        super().__init__()
        self._program = program
        self._laps = laps
        self._main = asyncio.current_task()
        self._lock = asyncio.Lock()
        self._places = asyncio.Semaphore(2)
        self._queue: asyncio.Queue[int] = asyncio.Queue(3)
        self._event = asyncio.Event()
        self._condition = asyncio.Condition()

    async def run(self, node: p.Node) -> int:
        """Walk one node; return how many leaves it walked, for the sake of a value."""
        try:
            walk: Callable[[Any], Awaitable[int]]
            walk = getattr(self, f"walk_{type(node).__name__.lower()}")
            return await walk(node)
        except asyncio.CancelledError:
            self.note(f"{type(node).__name__} cancelled")
            raise

    def leave(self) -> NoReturn:
        """Continue as new, as the program's `Again` does."""
        self.note("leaves")
        continue_as_new(run_program(self._program))

    # --- leaves -----------------------------------------------------------------------

    async def walk_act(self, node: p.Act) -> int:
        acting = ACTIVITIES[node.kind % 3](node.value)
        result = await (acting if node.raises else self.catch(acting))
        self.note(f"act {node.value} = {result}")
        return 1

    async def walk_sleep(self, node: p.Sleep) -> int:
        await sleep(node.seconds)
        self.note(f"slept {node.seconds}")
        return 1

    async def walk_pause(self, node: p.Pause) -> int:
        await asyncio.sleep(node.seconds)
        self.note(f"paused {node.seconds}")
        return 1

    async def walk_draw(self, node: p.Draw) -> int:
        draws: tuple[Callable[[], object], ...] = (
            lambda: run_random().randrange(1_000_000),
            uuid4,
            now,
            lambda: info().history_length,
        )
        self.note(draws[node.what % 4]())
        return 1

    async def walk_patch(self, node: p.Patch) -> int:
        is_new = patched(f"patch-{node.patch}")
        self.note(f"patch {node.patch} {is_new}")
        return await self.run(node.then if is_new else node.otherwise)

    async def walk_fail(self, node: p.Fail) -> int:
        self.note("fail")
        raise ApplicationError("a program's own failure", type=f"Kind{node.kind}")

    async def walk_put(self, node: p.Put) -> int:
        self.count += 1
        self._event.set()
        if not self._queue.full():
            self._queue.put_nowait(node.value)
        self.note(f"put {node.value}")
        return 1

    async def walk_take(self, node: p.Take) -> int:
        self.note(await self.catch(asyncio.wait_for(self._queue.get(), node.seconds)))
        return 1

    async def walk_await(self, node: p.Await) -> int:
        wanted = node.count
        await self.catch(
            wait_condition(lambda: self.count >= wanted, timeout=node.seconds)
        )
        if node.takes and self.count >= wanted:
            self.count -= wanted
        self.note(f"waited for {wanted}, {self.count}")
        return 1

    async def walk_notify(self, node: p.Notify) -> int:
        async with self._condition:
            self._condition.notify(node.count)
        self.note(f"notified {node.count}")
        return 1

    async def walk_noticed(self, node: p.Noticed) -> int:
        async with self._condition:
            await self.catch(asyncio.wait_for(self._condition.wait(), node.seconds))
        self.note("noticed")
        return 1

    async def walk_signalled(self, node: p.Signalled) -> int:
        await self.catch(asyncio.wait_for(self._event.wait(), node.seconds))
        self._event.clear()
        return 1

    async def walk_again(self, node: p.Again) -> int:
        self.note("again")
        continue_as_new(run_program(self._program, node.value))

    async def walk_mark(self, node: p.Mark) -> int:
        if asyncio.current_task() is not self._main or self._laps >= _LAPS_MAX:
            return 0
        checkpoint(run_program(self._program, self._laps + 1))
        self.note("no checkpoint")
        return 1

    # --- one after the other ----------------------------------------------------------

    async def walk_seq(self, node: p.Seq) -> int:
        total = 0
        for step in node.steps:
            total += await self.run(step)
        return total

    async def walk_within(self, node: p.Within) -> int:
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

    async def walk_shield(self, node: p.Shield) -> int:
        return int(await asyncio.shield(self.run(node.step)))

    async def walk_cleanup(self, node: p.Cleanup) -> int:
        try:
            return await self.run(node.step)
        finally:
            self.note("cleanup")
            await self.run(node.cleanup)

    async def walk_swallow(self, node: p.Swallow) -> int:
        try:
            return await self.run(node.step)
        except asyncio.CancelledError:
            self.note("swallowed")
            return -1

    async def walk_locked(self, node: p.Locked) -> int:
        async with self._lock:
            return await self.run(node.step)

    async def walk_limited(self, node: p.Limited) -> int:
        async with self._places:
            return await self.run(node.step)

    async def walk_generate(self, node: p.Generate) -> int:
        generator = self._results(node.steps)
        total = 0
        if node.close:
            async with aclosing(generator):
                return await self._consume(generator, node.leave_after)
        total += await self._consume(generator, node.leave_after)
        return total

    async def _results(self, steps: tuple[p.Node, ...]) -> AsyncGenerator[int]:
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

    async def walk_gather(self, node: p.Gather) -> int:
        each: list[Any] = [self.run(step) for step in node.steps]
        if node.turns is not None:
            each = [asyncio.create_task(one) for one in each]
            for _ in range(node.turns):
                await asyncio.sleep(0)
        results = await self.catch(
            asyncio.gather(*each, return_exceptions=node.keep_errors)
        )
        self.note(f"gathered {_outcomes(results)}")
        return len(node.steps)

    async def walk_group(self, node: p.Group) -> int:
        try:
            async with asyncio.TaskGroup() as tasks:
                for step in node.steps:
                    tasks.create_task(self.run(step))
        except* (FailureError, TimeoutError) as group:
            self.note(f"group raised {name_of(group)}")
        return len(node.steps)

    async def walk_race(self, node: p.Race) -> int:
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

    async def walk_completed(self, node: p.Completed) -> int:
        each: Any = map(self.run, node.steps) if node.bare else self._tasks(node.steps)
        for number, next_one in enumerate(asyncio.as_completed(each)):
            self.note(f"completed {number}: {await self.catch(next_one)}")
        return len(node.steps)

    async def walk_bag(self, node: p.Bag) -> int:
        for task in self._tasks(node.steps):
            self.note(f"{task.get_name()}: {_outcome(await _settled(task))}")
        return len(node.steps)

    async def walk_cancel(self, node: p.Cancel) -> int:
        task = asyncio.create_task(self.run(node.step))
        for _ in range(node.turns):
            await asyncio.sleep(0)
        if node.seconds:
            await asyncio.sleep(node.seconds)
        task.cancel()
        self.note(f"cancelled task: {_outcome(await _settled(task))}")
        return 1

    def _tasks(self, steps: tuple[p.Node, ...]) -> set[asyncio.Task[int]]:
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
    return str(task.result()) if error is None else name_of(error)


def _outcomes(results: Any) -> str:
    if not isinstance(results, list):
        return str(results)
    each: list[Any] = [*results]
    return str([name_of(r) if isinstance(r, BaseException) else r for r in each])

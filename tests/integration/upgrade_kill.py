"""Random programs in two versions, whose workers and upgrades are killed and go on.

A program of its own, run by `test_upgrade_kills.py`. Each run changes hands as one of
the ways of `docs/how-to/upgrade-without-downtime.md` has it: pinned, moved, by patches,
by compatible code, or by a rule at a continue-as-new or a checkpoint. Workers of the
old and of the new code, and `durable upgrade`, are forked children that kill themselves
with a real SIGKILL before or after one of their commits, and are started again. In the
end each run must have ended once, as its rule says, on the version that its rule says,
and the ledger that its activities write must hold what that version does, no more.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from durable import Engine, WorkflowStuckError, limits
from durable.cli.main import cli
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.store.threads.groups import GroupExecutor
from tests.integration.crash_sweep import Point

SECONDS_MAX = 40
# A worker that claims eight runs and takes them to where they wait writes oftener.
EARLY = 4
END = 0
OPERATIONS: tuple[str, ...] = ("step", "nap", "both", "child")
ORDERS = ("pinned", "moved", "moved-too", "misfit", "compatible", "patched")
LOOPS = ("chain", "loop")

BASE = """
import asyncio
import os
from dataclasses import dataclass

from durable import (
    Signal, activity, activity_info, checkpoint, continue_as_new, info, patched,
    set_state, sleep, workflow, RetryPolicy,
)

QUICK = RetryPolicy(max_attempts=50, initial_interval="1ms", max_interval="1ms")
go = Signal("go", int)

@activity(retry=QUICK)
async def note(what: str) -> str:
    now = activity_info()
    with open(os.environ["UPGRADES_LEDGER"], "a") as ledger:
        ledger.write(f"{what}\\t{now.idempotency_key}\\t{now.attempt}\\n")
    return what

@workflow
async def kid(what: str) -> str:
    return await note(what)

async def play(operations, label):
    for number, operation in enumerate(operations):
        what = f"{info().workflow_id} {label} {number}"
        if operation == "step":
            await note(what)
        elif operation == "nap":
            await sleep("1ms")
        elif operation == "both":
            await asyncio.gather(note(what + "a"), note(what + "b"))
        else:
            await kid(what)

async def wait_at_gate(before):
    await play(before, "before")
    set_state(1)
    await go.receive()

async def order(code, before, after):
    await wait_at_gate(before)
    await play(after, code)
    return code

@dataclass
class Money:
    cents: int
    path: list[str]
"""
OLD = """
from base import *

@workflow(name="pinned", version="1.0.0")
async def pinned_1(before: list[str], after: list[str]) -> str:
    return await order("1", before, after)

@workflow(name="misfit", version="1.0.0")
async def misfit_1(before: list[str], after: list[str]) -> str:
    return await order("1", before, after)

@workflow(name="chain", version="1.0.0")
async def chain_1(euros: int, path: list[str]) -> str:
    set_state(len(path))
    amount = await go.receive()
    if not amount:
        return f"1 {euros * 100} {''.join(path)}"
    await note(f"{info().workflow_id} lap {len(path)} 1 {amount}")
    continue_as_new(euros + amount, [*path, "1"])

@workflow(name="loop", version="1.0.0")
async def loop_1(euros: int, path: list[str]) -> str:
    while True:
        checkpoint(euros, path)
        set_state(len(path))
        amount = await go.receive()
        if not amount:
            return f"1 {euros * 100} {''.join(path)}"
        await note(f"{info().workflow_id} lap {len(path)} 1 {amount}")
        euros, path = euros + amount, [*path, "1"]
"""
V1 = (
    OLD
    + """
@workflow(name="moved", version="1.0.0")
async def moved_1(before: list[str], after: list[str]) -> str:
    return await order("1", before, after)

@workflow(name="compatible", version="1.0.0")
async def compatible_1(before: list[str], after: list[str]) -> str:
    return await order("1", before, after)

@workflow(name="patched")
async def patched_run(before: list[str], after: list[str]) -> str:
    return await order("1", before, after)
"""
)
V2 = (
    OLD
    + """
@pinned_1.version("2.0.0")
async def pinned(before: list[str], after: list[str]) -> str:
    return await order("2", before, after)

@workflow(version="2.0.0")
async def moved(before: list[str], after: list[str]) -> str:
    return await order("2", before, after)

@misfit_1.version("2.0.0")
async def misfit(before: list[str], after: list[str]) -> str:
    await note("not at first")
    return await order("2", before, after)

@workflow(version="2.1.0", compatible_with=">=1,<3")
async def compatible(before: list[str], after: list[str]) -> str:
    await wait_at_gate(before)
    code = "2" if patched("after") else "1"
    await play(after, code)
    return code

@workflow(name="patched")
async def patched_run(before: list[str], after: list[str]) -> str:
    await wait_at_gate(before)
    code = "2" if patched("after") else "1"
    await play(after, code)
    return code

@chain_1.version("2.0.0")
async def chain(money: Money) -> str:
    set_state(len(money.path))
    amount = await go.receive()
    if not amount:
        return f"2 {money.cents} {''.join(money.path)}"
    await note(f"{info().workflow_id} lap {len(money.path)} 2 {amount}")
    continue_as_new(chain(Money(money.cents + 100 * amount, [*money.path, "2"])))

@loop_1.version("2.0.0")
async def loop(money: Money) -> str:
    while True:
        checkpoint(money)
        set_state(len(money.path))
        amount = await go.receive()
        if not amount:
            return f"2 {money.cents} {''.join(money.path)}"
        await note(f"{info().workflow_id} lap {len(money.path)} 2 {amount}")
        money = Money(money.cents + 100 * amount, [*money.path, "2"])

@chain.migrates_from("<2")
def chain_as_money(euros: int, path: list[str]):
    return chain(Money(euros * 100, path))

@loop.migrates_from("<2")
def loop_as_money(euros: int, path: list[str]):
    return loop(Money(euros * 100, path))
"""
)


class World:
    """One database, its programs, and the moments at which they are killed."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder = url, folder
        self.random = random.Random(seed)
        draw = self.random
        self.programs = {
            name: [draw.choices(OPERATIONS, k=draw.randint(0, 3)) for _ in "ab"]
            for name in ORDERS
        }
        self.early, self.late = (
            [draw.randint(1, 9) for _ in range(draw.randint(1, 3))] for _ in "ab"
        )
        self.is_beside = draw.random() < 0.5
        self.kills = 0
        for name, text in (("base", BASE), ("v1", V1), ("v2", V2)):
            (folder / f"{name}.py").write_text(text)
        self.ledger = folder / "ledger"
        self.ledger.touch()
        os.environ["UPGRADES_LEDGER"] = str(self.ledger)
        os.chdir(folder)
        sys.path.insert(0, str(folder))

    # --- children ---------------------------------------------------------------------

    def fork(self, work: Callable[[], object]) -> int:
        """Do something in a child; give its process id."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - a forked child must never return
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def worker(self, module: str, at: int) -> int:
        """Let a child work for ever, or until its moment."""

        async def work() -> None:
            program = importlib.import_module(module)
            async with Engine(self.url, definitions=[program], blocked_after=None):
                await asyncio.Event().wait()

        def begin() -> None:
            kill_at_commit(at)
            asyncio.run(work())

        return self.fork(begin)

    def live(
        self, modules: list[str], kills: Iterator[int], goal: Callable[[Any], Any]
    ) -> None:
        """Have workers killed and started again until a client has what it wants."""
        client = self.fork(lambda: asyncio.run(self.visit(goal)))
        workers = {self.worker(name, next(kills, 0)): name for name in modules}
        workers[client] = "the client"
        try:
            while True:
                pid, status = os.wait()
                code = os.waitstatus_to_exitcode(status)
                name = workers.pop(pid)
                if pid == client:
                    break
                if code != -signal.SIGKILL:
                    raise SystemExit(f"a worker of {name} ended with {code}")
                self.kills += 1
                workers[self.worker(name, next(kills, 0))] = name
        finally:
            for pid in workers:  # they rest, or are about to do what nobody waits for
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if code != 0:
            raise SystemExit(f"the client ended with {code}")

    async def visit(self, goal: Callable[[Any], Awaitable[None]]) -> None:
        program = importlib.import_module("v1")
        async with Engine(self.url, definitions=[program], worker=False) as engine:
            try:
                async with asyncio.timeout(SECONDS_MAX):
                    await goal(engine)
            except TimeoutError:
                for run in await engine.list(status="running"):
                    handle = await engine.get(run.workflow_id)
                    print(await handle.describe(), *await handle.history(), sep="\n")
                raise

    def upgrade(self, name: str, kills: Iterator[int]) -> int:
        """Move the runs of a workflow; again, if that is killed."""
        words = ["upgrade", "v2.py", "--workflow", name, "--to", "2.0.0", "--yes"]
        while True:
            at = next(kills, 0)

            def work(at: int = at) -> None:
                kill_at_commit(at)
                with (self.folder / "upgrade.log").open("a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                cli.main(["--database", self.url, *words])

            pid = self.fork(work)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code != -signal.SIGKILL:
                return code
            self.kills += 1

    # --- what clients do --------------------------------------------------------------

    async def begin(self, engine: Any) -> None:
        """Start all runs, and wait until each has come to where the deploy finds it."""
        for name in ORDERS:
            await engine.start(name.partition("-")[0], *self.programs[name], id=name)
        for name in LOOPS:
            run = await engine.start(name, 0, [], id=name)
            await self.pay(run, self.early, 0)
        for name in (*ORDERS, *LOOPS):
            wanted = 1 if name in ORDERS else len(self.early)
            run = await engine.get(name)
            while await run.state() != wanted:
                await asyncio.sleep(0.01)
                run = await engine.get(name)

    async def pay(self, run: Any, amounts: list[int], first: int) -> None:
        program: Any = importlib.import_module("base")
        for number, amount in enumerate(amounts, first):
            await run.signal(program.go(amount), request_id=f"pay {number}")

    async def finish(self, engine: Any) -> None:
        """Let all go on to their ends; write what came of them."""
        for name in ORDERS:
            await self.pay(await engine.get(name), [1], 0)
        for name in LOOPS:
            run = await engine.get(name)
            await self.pay(run, [*self.late, END], len(self.early))
        found = {}
        for name in (*ORDERS, *LOOPS):
            run = await engine.get(name)
            result = await self.result_of(run)
            lives = await engine.list(workflow_id=name)
            found[name] = {
                "result": result,
                "version": lives[0].version,
                "ends": [life.status.value for life in lives],
            }
        (self.folder / "found.json").write_text(json.dumps(found))

    async def result_of(self, run: Any) -> Any:
        """Wait for a run's end, also while the worker is away that has its code."""
        while True:
            try:
                return await run.result()
            except WorkflowStuckError:
                await asyncio.sleep(0.05)

    # --- judgement --------------------------------------------------------------------

    def judge(self) -> None:
        found = json.loads((self.folder / "found.json").read_text())
        wanted: Counter[str] = Counter()
        for name in ORDERS:
            wanted.update(self.judge_order(name, found[name]))
        for name in LOOPS:
            wanted.update(self.judge_loop(name, found[name]))
        attempts = [line.split("\t") for line in self.ledger.read_text().splitlines()]
        effects = Counter(
            what for what, _ in {(what, key) for what, key, _ in attempts}
        )
        self.expect("the ledger", effects, wanted)
        # An attempt is begun once, and another one only if its worker died.
        begun = Counter(map(tuple, attempts))
        self.expect("attempts begun twice", [a for a in begun if begun[a] > 1], [])
        tries = Counter(what for what, _, _ in attempts)
        self.expect(
            "effects without a kill", max(tries.values()) > self.kills + 1, False
        )

    def judge_order(self, name: str, found: dict[str, Any]) -> list[str]:
        before, after = self.programs[name]
        code, version = {
            "pinned": ("1", "1.0.0"),
            "misfit": ("1", "1.0.0"),
            "moved": ("2", "2.0.0"),
            "moved-too": ("2", "2.0.0"),
            "compatible": ("2", "1.0.0"),
            "patched": ("2", None),
        }[name]
        if self.is_beside and name in ("compatible", "patched"):
            code = found["result"]  # whichever worker took it: its effects are as one
            self.expect(name, code in ("1", "2"), True)
        self.expect(
            name, found, {"result": code, "version": version, "ends": ["completed"]}
        )
        return [*effects_of(name, before, "before"), *effects_of(name, after, code)]

    def judge_loop(self, name: str, found: dict[str, Any]) -> list[str]:
        amounts = [*self.early, *self.late]
        code, cents, path = found["result"].split(" ")
        self.expect(name, int(cents), 100 * sum(amounts))
        self.expect(name, len(path), len(amounts))
        # The lap that begins before the deploy is the old code's; then the rule leads.
        olds = path.count("1")
        self.expect(name, path, "1" * olds + "2" * (len(path) - olds))
        if not self.is_beside:
            self.expect(name, olds, len(self.early) + 1)
            self.expect(name, code, "2")
        self.expect(name, code in ("2", path[-1]), True)
        self.expect(name, found["version"], f"{code}.0.0")
        lives = len(amounts) + 1 if name == "chain" else int(code)
        self.expect(
            name, found["ends"], ["completed"] + ["continued_as_new"] * (lives - 1)
        )
        return [
            f"{name} lap {number} {by} {amount}"
            for number, (by, amount) in enumerate(zip(path, amounts, strict=True))
        ]

    def expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise SystemExit(f"{what}: found {found}, wanted {wanted}")

    def check_database(self) -> None:
        """Let the checker look; it must find nothing."""

        async def look() -> None:
            store = connect(self.url)
            await store.open()
            try:
                findings = [finding async for finding in examine(store, settle=0)]
            finally:
                await store.close()
            if serious := [f for f in findings if not f.check.is_notice]:
                raise AssertionError(serious)

        pid = self.fork(lambda: asyncio.run(look()))
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the checker found something")


def effects_of(name: str, operations: list[str], label: str) -> list[str]:
    """What a run's operations write into the ledger."""
    found: list[str] = []
    for number, operation in enumerate(operations):
        what = f"{name} {label} {number}"
        if operation == "both":
            found += [what + "a", what + "b"]
        elif operation != "nap":
            found.append(what)
    return found


def kill_at_commit(at: int) -> None:
    """Make each group of writes two moments, and die at one of them; never at 0."""
    point, execute = Point(at), GroupExecutor.execute

    def watched(self: GroupExecutor, *arguments: Any) -> Any:
        point.passed()
        outcome = execute(self, *arguments)
        point.passed()
        return outcome

    GroupExecutor.execute = watched  # type: ignore[assignment, method-assign]  # in a child of its own


def main(url: str, folder: Path, seed: int) -> None:
    """Live one random world to its end, and judge it."""
    # What a dead worker has, and what a living one has set aside, is soon looked for.
    vars(limits)["LEASE_SECONDS"] = 4.0
    world = World(url, folder, seed)
    draw = world.random

    def moments(count: int, most: int, early: int = 0) -> Iterator[int]:
        """Draw moments to die at; the first ones come however writes are grouped."""
        each = [EARLY] * early + [most] * (count - early)
        return iter([draw.randint(1, most) for most in each])

    world.live(["v1"], moments(4, 40, 1), world.begin)
    moving = moments(3, 8)
    if world.upgrade("moved", moving) != 0:
        raise SystemExit("the upgrade ended badly")
    if world.upgrade("misfit", moving) != 8:
        raise SystemExit("what does not fit was not told")
    modules = ["v1", "v2"] if world.is_beside else ["v2"]
    world.live(modules, moments(6, 40, len(modules)), world.finish)
    world.judge()
    world.check_database()
    print(f"{world.kills} killed, beside: {world.is_beside}, 0 wrong")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

"""A process that forks while it has a file open: parent and children lose nothing."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

PREAMBLE = """
import asyncio, logging, multiprocessing, os, sqlite3, sys, threading, warnings
# Python 3.12 and later warn of every fork in a process with threads.
warnings.simplefilter("ignore", DeprecationWarning)
# Of an SQLite that had better not be shared; elsewhere it is tested.
logging.getLogger("durable.store").setLevel(logging.ERROR)
from durable import Engine, SyncEngine, activity, workflow
from durable.errors import *

path = sys.argv[1]
url = f"sqlite:///{path}"

@activity
async def add(number: int) -> int:
    return number + 1

@workflow
async def count(number: int) -> int:
    return await add(number)

def say(*words):
    # Not print(): a fork would copy what is in its buffer.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Signal:
    '''Set in one process, waited for in another.'''
    def __init__(self):
        self.ends = os.pipe()
    def set(self):
        os.write(self.ends[1], b".")
    def wait(self):
        os.read(self.ends[0], 1)

async def execute(engine, name, numbers):
    for number in numbers:
        await engine.execute(count(number), id=f"{name}-{number}")
        say(f"{name}-{number}")

def work(name, begun, go_on):
    '''What a child does: opens an engine of its own, and outlives its parent's.'''
    # A child that was forked within a loop inherits the belief that it runs.
    asyncio.events._set_running_loop(None)
    async def main():
        async with Engine(url) as engine:
            await execute(engine, name, range(10))
            begun.set()
            go_on.wait()
            await execute(engine, name, range(10, 30))
    asyncio.run(main())

def fork(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        except BaseException as error:
            say(f"{type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)
    return child

def wait_for(*children):
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            say("status", status)
"""


def run(tmp_path: Path, code: str) -> list[str]:
    """Run a program on the test's file; return the lines that it printed."""
    ended = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, str(tmp_path / "x.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split("\n")[:-1]


def check_that_all_is_there(tmp_path: Path, acknowledged: list[str]) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute(
        "SELECT workflow_id FROM durable_runs WHERE status = 'completed'"
    )
    assert sorted(row[0] for row in rows) == sorted(acknowledged)
    assert connection.execute("SELECT count(*) FROM durable_workers").fetchone() == (0,)
    connection.close()


FORK = """
async def parent(begun, go_on):
    async with Engine(url) as engine:
        await execute(engine, "parent", range(1))
        child = fork(work, "child", begun, go_on)
        begun.wait()
    return child

begun, go_on = Signal(), Signal()
child = asyncio.run(parent(begun, go_on))
go_on.set()
wait_for(child)
"""

PRE_FORKING_SERVER = """
signals = [(Signal(), Signal()) for _ in range(4)]
engine = SyncEngine(url).open()
engine.execute(count(0), id="parent-0")
say("parent-0")
children = [
    fork(work, f"child{number}", *pair) for number, pair in enumerate(signals)
]
for begun, _ in signals:
    begun.wait()
engine.execute(count(1), id="parent-1")
say("parent-1")
engine.close()
for _, go_on in signals:
    go_on.set()
wait_for(*children)
"""

MULTIPROCESSING = """
signals = [(Signal(), Signal()) for _ in range(2)]
context = multiprocessing.get_context("fork")
with SyncEngine(url) as engine:
    engine.execute(count(0), id="parent-0")
    say("parent-0")
    children = [
        context.Process(target=work, args=(f"child{number}", *pair))
        for number, pair in enumerate(signals)
    ]
    for child in children:
        child.start()
    for begun, _ in signals:
        begun.wait()
for _, go_on in signals:
    go_on.set()
for child in children:
    child.join()
"""

UNDER_LOAD = """
async def parent(signals):
    async with Engine(url) as engine:
        load = [
            asyncio.create_task(execute(engine, f"parent{n}", range(15)))
            for n in range(6)
        ]
        children = [
            # From another thread, while the loop and the writer are at work.
            await asyncio.to_thread(fork, work, f"child{number}", *pair)
            for number, pair in enumerate(signals)
        ]
        for begun, _ in signals:
            await asyncio.to_thread(begun.wait)
        await asyncio.gather(*load)
    return children

signals = [(Signal(), Signal()) for _ in range(3)]
children = asyncio.run(parent(signals))
for _, go_on in signals:
    go_on.set()
wait_for(*children)
"""

IN_MID_WRITE = """
writing, forking = threading.Event(), threading.Event()

def pause(statement):
    if "INSERT INTO durable_runs" in statement:
        writing.set()
        forking.wait()

async def parent(begun, go_on):
    async with Engine(url) as engine:
        engine._store._writer._executor.open()._raw.set_trace_callback(pause)
        # Runs before the library's own hook, which was registered earlier.
        os.register_at_fork(before=forking.set)
        written = asyncio.create_task(execute(engine, "parent", range(2)))
        await asyncio.to_thread(writing.wait)
        child = fork(work, "child", begun, go_on)
        begun.wait()
        await written
    return child

begun, go_on = Signal(), Signal()
child = asyncio.run(parent(begun, go_on))
go_on.set()
wait_for(child)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "runs"),
    [
        pytest.param(FORK, 31, id="fork"),
        pytest.param(PRE_FORKING_SERVER, 122, id="pre-forking server"),
        pytest.param(MULTIPROCESSING, 61, id="multiprocessing"),
        pytest.param(UNDER_LOAD, 180, id="under load"),
        pytest.param(IN_MID_WRITE, 32, id="in mid-write"),
    ],
)
def test_nothing_acknowledged_is_lost_if_a_parent_closes_before_its_children(
    tmp_path: Path, code: str, runs: int
) -> None:
    acknowledged = run(tmp_path, code)

    assert len(acknowledged) == runs
    check_that_all_is_there(tmp_path, acknowledged)


@pytest.mark.slow
def test_child_of_a_parent_with_a_foreign_connection_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    said = run(
        tmp_path,
        """
with SyncEngine(url) as engine:
    engine.execute(count(0))
    foreign = sqlite3.connect(path)
    foreign.execute("SELECT count(*) FROM durable_runs").fetchall()
    wait_for(fork(work, "child", Signal(), Signal()))
    say(engine.execute(count(1)))
""",
    )

    assert said[0].startswith("DatabaseUnavailableError: sqlite:///")
    assert "was open in the parent process when this one was forked" in said[0]
    assert said[1:] == ["status 256", "2"]


@pytest.mark.slow
def test_everything_that_a_child_inherits_refuses_at_once(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
from durable import sleep

@workflow
async def wait() -> None:
    await sleep("1d")

async def inherit(engine, handle):
    for name, attempt in {
        "start": lambda: engine.start(count(1)),
        "execute": lambda: engine.execute(count(1)),
        "get": lambda: engine.get("w"),
        "list": lambda: engine.list(),
        "result": lambda: handle.result(),
        "describe": lambda: handle.describe(),
        "history": lambda: handle.history(),
        "attempts": lambda: handle.attempts(),
        "state": lambda: handle.state(),
        "dead_letters": lambda: handle.dead_letters(),
        "signal": lambda: handle.signal("go"),
        "query": lambda: handle.query("go"),
        "stack": lambda: handle.stack(),
        "update": lambda: handle.update("go"),
        "start_update": lambda: handle.start_update("go"),
        "cancel": lambda: handle.cancel(),
        "terminate": lambda: handle.terminate(),
    }.items():
        try:
            await attempt()
        except EngineClosedError as error:
            assert "before the fork" in str(error), error
            continue
        say(name, "was not refused")
    await engine.close()
    say("closed")

def child(engine, handle):
    asyncio.events._set_running_loop(None)
    asyncio.run(inherit(engine, handle))

async def main():
    async with Engine(url) as engine:
        handle = await engine.start(wait(), id="w")
        wait_for(fork(child, engine, handle))
        say(await engine.execute(count(1)))

asyncio.run(main())
""",
    )

    assert said == ["closed", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("url", ["url", "'memory://shared'"])
def test_child_may_open_what_it_inherited_and_gets_an_engine_of_its_own(
    tmp_path: Path, url: str
) -> None:
    said = run(
        tmp_path,
        f"url = {url}\n"
        """
def child(engine, handle):
    engine.open()
    say("child", engine.execute(count(1), id="child"))
    try:
        handle.result()
    except EngineClosedError:
        say("refused")
    engine.close()

with SyncEngine(url) as engine:
    handle = engine.start(count(5), id="parent")
    wait_for(fork(child, engine, handle))
    say("parent", engine.execute(count(2)), handle.result())
""",
    )

    assert said == ["child 2", "refused", "parent 3 6"]

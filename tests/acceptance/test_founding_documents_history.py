"""Histories and what survives: what was asked for (see `founding_rows`)."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from durable import (
    Engine,
    RunStatus,
    Signal,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    checkpoint,
    set_state,
    sleep,
    workflow,
)
from durable.testing import (
    TestEnvironment,
    dump_history,
    rebuild_state,
    replay,
    replay_at_every_prefix,
)
from tests.acceptance.founding_rows import shows

paid = Signal("paid", int)


class Declined(Exception):
    """The bank says no."""


@activity(name="founding.pack")
async def pack(item: str) -> str:
    await asyncio.sleep(5)
    return f"packed {item}"


@activity(name="founding.declines", retry=None)
async def declines() -> None:
    raise Declined("no")


@workflow(name="founding.parcel")
async def parcel(item: str, fails: bool = False) -> str:
    set_state("new")
    packed = await pack(item)
    set_state("packed")
    await paid.receive()
    try:
        await declines()
    except Declined:
        if fails:
            raise
    await sleep("1d")
    return packed


@shows(
    "event kinds",
    "`run.history()`, and `dump_history()` as JSON, with Temporal's names: started,"
    " activities, signals, `StateTransitioned`, how it ended, and also timers,"
    " children, updates, markers. Times are microseconds since 1970",
)
async def test_s2_3_1_dump_of_a_run_has_every_kind_with_integer_times() -> None:
    lines = []
    async with TestEnvironment() as env:
        for fails in (False, True):
            run = await env.start(parcel("tea", fails), id=f"parcel-{fails}")
            await run.signal(paid(5))
            if fails:
                with pytest.raises(WorkflowFailedError):
                    await run.result()
            else:
                await run.result()
            lines += json.loads(dump_history(await run.history()))
    found = {line["type"] for line in lines}
    assert {
        "WorkflowExecutionStarted",
        "ActivityTaskScheduled",
        "ActivityTaskCompleted",
        "ActivityTaskFailed",
        "WorkflowExecutionSignaled",
        "StateTransitioned",
        "TimerStarted",
        "TimerFired",
        "WorkflowExecutionCompleted",
        "WorkflowExecutionFailed",
    } <= found
    assert all(type(line["time"]) is int for line in lines)
    first = lines[0]["data"]
    assert (first["workflow_type"], first["workflow_id"]) == (
        "founding.parcel",
        "parcel-False",
    )
    states = [x["data"] for x in lines if x["type"] == "StateTransitioned"]
    assert [
        (state["previous"] and state["previous"]["json"], state["current"]["json"])
        for state in states[:2]
    ] == [(None, "new"), ("new", "packed")]


@shows(
    "event store",
    "each run's events are rows, numbered from 1 without gaps, in memory and on every"
    " database. A run that is not there is a `WorkflowNotFoundError`, not an empty"
    " list",
)
@pytest.mark.parametrize("place", ["memory", "file"])
async def test_s2_3_1_two_writers_never_share_a_number(
    place: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}" if place == "file" else "memory://two"

    @workflow(name="founding.counts")
    async def counts() -> int:
        return sum([await paid.receive() for _ in range(40)])

    async with Engine(url) as one, Engine(url) as other:
        run = await one.start(counts(), id="w")
        again = await other.get("w")
        await asyncio.gather(
            *((run if n % 2 else again).signal(paid(n)) for n in range(40))
        )
        assert await run.result(timeout="30s") == sum(range(40))
        for handle in (run, again):
            events = await handle.history()
            assert [event.event_id for event in events] == list(
                range(1, len(events) + 1)
            )
        with pytest.raises(WorkflowNotFoundError):
            await other.get("nobody")


@shows(
    "rebuild state",
    "`rebuild_state()` of `durable.testing`: status, result, what it waits for, what it"
    " shows, by its history alone",
)
async def test_s2_3_1_rebuilt_state_is_the_live_one_at_every_prefix() -> None:
    async with TestEnvironment() as env:
        run = await env.start(parcel("tea"), id="parcel")
        for moment in range(5):
            state = rebuild_state(await run.history())
            live, waits_for = await run.describe(), await run.activities()
            assert state.status == live.status
            assert [a.activity_type for a in state.pending_activities] == [
                a.activity_type for a in waits_for
            ]
            shown = None if state.published is None else bytes(state.published.json)
            assert shown == json.dumps(await run.state()).encode()
            if moment == 2:
                await run.signal(paid(5))
            await env.sleep(3 if moment < 3 else "1d")
        history = await run.history()
    assert state.status == "completed"
    assert state.result is not None
    assert bytes(state.result.json) == b'"packed tea"'
    assert state.violations == ()
    ends = [
        n
        for n in range(1, len(history))
        if history[n].task_number != history[n - 1].task_number
    ]
    assert len(ends) >= 3
    for end in ends:
        state, replayed = rebuild_state(history[:end]), replay(history[:end])
        assert state.status == "running"
        assert state.next_due_at() == replayed.next_timer_at
        types = tuple(a.activity_type for a in state.pending_activities)
        assert types == replayed.pending_activities


async def sum_up(total: int, left: int) -> int:
    while left:
        total += len(await pack("x" * left))
        left -= 1
        checkpoint(total, left)
    return total


@workflow(name="founding.often", checkpoint_every=10)
async def often(total: int, left: int) -> int:
    return await sum_up(total, left)


@workflow(name="founding.never", checkpoint_every=100_000)
async def never(total: int, left: int) -> int:
    return await sum_up(total, left)


@shows(
    "replay_from",
    "`checkpoint(state)` in a loop: from there on a replay needs no earlier event",
)
async def test_s1_4_1_1_replay_from_a_checkpoint_ends_as_one_from_the_start() -> None:
    async with TestEnvironment() as env:
        run, whole = await env.start(often(0, 30)), await env.start(never(0, 30))
        result = await run.result()
        assert result == await whole.result()
        history = await run.history()
    (*_, last) = [
        event
        for event in history
        if type(event.attributes).__name__ == "CheckpointRecorded"
    ]
    assert last.event_id > 40
    # Also with what the checkpoint carries on alone, at each of its turns.
    assert replay_at_every_prefix(history).result == result


PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from durable import Engine, activity, sleep, workflow

@activity
def step(number: int) -> int:
    with open("book.txt", "a") as book:
        print(number, file=book)
    killed = Path(f"killed-{number}")
    if not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number

@workflow
async def squares(count: int) -> int:
    total = 0
    for number in range(count):
        total += await step(number)
        await sleep(0.01)
    return total

async def main() -> None:
    async with Engine("sqlite:///squares.db") as engine:
        print(await engine.execute(squares(3), id="squares"))

asyncio.run(main())
"""


def run_program(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder in which a program was killed in the midst of each of its steps."""
    (tmp_path / "program.py").write_text(PROGRAM)
    for _ in range(3):
        assert run_program(tmp_path).returncode == -signal.SIGKILL
    done = run_program(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{0 + 1 + 4}\n"), done.stderr
    return tmp_path


@shows(
    "auto checkpoint",
    "every turn of a run is one commit, so there is nothing to set; a kill costs at"
    " most the turn that was open. `checkpoint_every=` says how long a replay may get",
)
@pytest.mark.slow
def test_s1_4_1_1_kill_in_every_step_costs_the_open_one_alone(killed: Path) -> None:
    book = (killed / "book.txt").read_text().split()
    assert book == ["0", "0", "1", "1", "2", "2"]


@shows(
    "crash recovery",
    "an engine that opens goes on with what it finds, by replay of the events;"
    " states are published by `set_state()`",
)
@pytest.mark.slow
def test_s1_program_that_was_killed_goes_on_from_its_events(killed: Path) -> None:
    again = run_program(killed)
    assert again.stdout == "5\n"
    database = sqlite3.connect(killed / "squares.db")
    kinds = [kind for (kind,) in database.execute("SELECT type FROM durable_history")]
    database.close()
    assert kinds.count("ActivityTaskCompleted") == 3
    assert kinds.count("WorkflowExecutionCompleted") == 1
    assert len((killed / "book.txt").read_text().split()) == 6


@shows(
    "snapshot",
    "`run.describe()`, as plain data by `to_dict()`, and `run.state()`;"
    ' `Engine("memory://")`'
    " keeps nothing",
)
async def test_s1_2_2_3_snapshot_is_json_with_id_workflow_state_and_status() -> None:
    async with TestEnvironment() as env:
        run = await env.start(parcel("tea"), id="parcel")
        await env.sleep(10)
        snapshot = json.loads(json.dumps((await run.describe()).to_dict()))
        assert {
            key: snapshot[key] for key in ("workflow_id", "workflow_type", "status")
        } == {
            "workflow_id": "parcel",
            "workflow_type": "founding.parcel",
            "status": "running",
        }
        assert snapshot["started_at"].startswith("2025-01-01T00:00:00")
        assert await run.state() == "packed"
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowNotFoundError):
            await env.get("parcel")


@workflow(name="founding.told")
async def told() -> int:
    return await paid.receive()


@shows(
    "write-ahead log",
    "that of SQLite, synced at every commit (`?synchronous=full`), or that of the"
    " server",
)
async def test_s1_5_3_what_was_acknowledged_is_in_the_file_and_its_log(
    tmp_path: Path,
) -> None:
    async with Engine(f"sqlite:///{tmp_path / 'shop.db'}") as engine:
        done = await engine.start(told(), id="done", with_signal=paid(7))
        assert await done.result() == 7
        await engine.start(told(), id="begun")
        cut = without_power(tmp_path)
    assert journal_of(cut) == ("wal",)
    async with Engine(f"sqlite:///{cut}", worker=False) as engine:
        assert await (await engine.get("done")).result() == 7
        begun = await engine.get("begun")
        assert (await begun.describe()).status is RunStatus.RUNNING
        assert (await begun.history())[0].event_id == 1


def without_power(folder: Path) -> Path:
    """What a machine would find on its disk if power went out now."""
    cut = folder / "cut"
    cut.mkdir()
    for file in folder.glob("shop.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, cut / file.name)
    assert (cut / "shop.db-wal").stat().st_size > 0
    return cut / "shop.db"


def journal_of(file: Path) -> object:
    database = sqlite3.connect(file)
    try:
        return database.execute("PRAGMA journal_mode").fetchone()
    finally:
        database.close()


@shows(
    "memory safety",
    "Python has the first. Against the second, a run is driven by one worker at a time,"
    " which holds a lease; what another writes, the database refuses",
)
@pytest.mark.slow
async def test_s1_3_1_3_workers_that_share_a_file_do_nothing_twice(
    tmp_path: Path,
) -> None:
    did: list[int] = []

    @activity(name="founding.once")
    async def once(number: int) -> int:
        did.append(number)
        await asyncio.sleep(0)
        return number

    @workflow(name="founding.fought_over")
    async def fought_over(number: int) -> int:
        await paid.receive()
        return await once(number)

    file = tmp_path / "shared.db"
    async with (
        Engine(f"sqlite:///{file}") as one,
        Engine(f"sqlite:///{file}") as other,
    ):
        runs = [await one.start(fought_over(n), id=f"w{n}") for n in range(20)]
        elsewhere = [await other.get(run.workflow_id) for run in runs]
        await asyncio.gather(
            *((runs, elsewhere)[n % 2][n].signal(paid(1)) for n in range(20))
        )
        results = [await run.result(timeout="30s") for run in runs]
    assert results == list(range(20))
    assert sorted(did) == list(range(20))
    check_by_doctor(file)


def check_by_doctor(file: Path) -> None:
    doctor = [sys.executable, "-m", "durable", "--database", str(file), "doctor"]
    done = subprocess.run(doctor, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


HELLO = """
import asyncio
from durable import Engine, activity, workflow

@activity
async def greeting(name: str) -> str:
    return f"hello {name}"

@workflow
async def greet(name: str) -> str:
    return await greeting(name)

async def main() -> None:
    async with Engine("sqlite:///hello.db") as engine:
        print(await engine.execute(greet("ada"), id="ada"))

asyncio.run(main())
"""


@shows(
    "embedded",
    "a library, a file, no server; or `memory://`, or a server for many machines",
)
@pytest.mark.slow
def test_s1_2_1_hello_world_has_under_15_lines_and_one_file(tmp_path: Path) -> None:
    assert sum(bool(line.strip()) for line in HELLO.splitlines()) < 15
    (tmp_path / "program.py").write_text(textwrap.dedent(HELLO))
    for _ in range(2):
        done = run_program(tmp_path)
        assert (done.returncode, done.stdout) == (0, "hello ada\n"), done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {"hello.db-wal", "hello.db-shm"} == {"program.py", "hello.db"}

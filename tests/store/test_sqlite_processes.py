"""Several processes on one SQLite file: creating, dying, sleeping past a lease."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from durable.store.connect import connect
from durable.store.queries import ListRuns, ReadHistory
from durable.store.records import ClaimRuns, ReapWorkers, RunFilter
from durable.testing.contract.rows import NAMESPACE, make_commit, make_worker

ROOT = Path(__file__).resolve().parent.parent.parent

Process = subprocess.Popen[str]
Launch = Callable[..., Process]

PREAMBLE = """
import asyncio, os, sys
from durable.errors import *
from durable.store.connect import connect
from durable.store.records import *
from durable.testing.contract.rows import *

path, name = sys.argv[1:]

def say(*words):
    print(*words, flush=True)

def wait():
    sys.stdin.readline()
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Yield what starts a process on the test's file; all are gone afterwards."""
    launched: list[Process] = []
    path = str(tmp_path / "x.db")

    def start(code: str, name: str = "") -> Process:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + code, path, name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        launched.append(process)
        return process

    yield start
    for process in launched:
        process.kill()
        process.communicate()


def hear(process: Process) -> str:
    output: IO[str] | None = process.stdout
    assert output is not None
    return output.readline().strip()


def tell(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    gaps = connection.execute(
        "SELECT run_id FROM durable_history GROUP BY run_id"
        " HAVING min(event_id) <> 1 OR max(event_id) <> count(*)"
    )
    assert gaps.fetchall() == []
    orphans = connection.execute(
        "SELECT run_id FROM durable_history WHERE run_id NOT IN (SELECT run_id"
        " FROM durable_runs)"
    )
    assert orphans.fetchall() == []
    connection.close()


CREATE = """
async def main():
    store = connect(f"sqlite:///{path}")
    say("ready")
    wait()
    await store.open()
    await store.perform(make_start(name))
    await store.close()
    say("done")

asyncio.run(main())
"""


@pytest.mark.slow
def test_processes_may_create_one_file_at_once(tmp_path: Path, launch: Launch) -> None:
    path = tmp_path / "x.db"
    processes = [launch(CREATE, f"r{n}") for n in range(4)]
    for process in processes:
        assert hear(process) == "ready"

    for process in processes:
        tell(process)

    assert [hear(process) for process in processes] == ["done"] * 4
    assert [process.wait() for process in processes] == [0] * 4
    check_integrity(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM durable_runs").fetchone() == (4,)
    revisions = connection.execute("SELECT version_num FROM durable_schema").fetchall()
    connection.close()
    assert len(revisions) == 1


WRITE_FOR_EVER = """
async def main():
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.register_worker(make_worker(name), lambda: None)
    for round in range(10**9):
        names = [f"{name}-{round}-{number}" for number in range(40)]
        for run_id in names[:-1]:
            store.submit(make_start(run_id, owner=name), lambda *_: None)
        await store.perform(make_start(names[-1], owner=name))
        for run_id in names[:20]:
            store.submit(make_closing(run_id, 3, 4), lambda *_: None)
        await store.perform(make_commit(names[-1], 3, 5))
        say(round)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 4, 11])
def test_killed_process_leaves_what_it_acknowledged(
    tmp_path: Path, launch: Launch, rounds: int
) -> None:
    path = tmp_path / "x.db"
    processes = [launch(WRITE_FOR_EVER, name) for name in ("a", "b")]
    for process in processes:
        for number in range(rounds):
            assert hear(process) == str(number)

    for process in processes:
        process.kill()
    acknowledged = Counter({name: rounds for name in ("a", "b")})
    for name, process in zip(("a", "b"), processes, strict=True):
        assert process.stdout is not None
        acknowledged[name] += len(process.stdout.read().splitlines())
        process.wait()

    check_integrity(path)
    connection = sqlite3.connect(path)
    for name, done in acknowledged.items():
        for number in range(done):
            prefix = f"{name}-{number}-%"
            found = connection.execute(
                "SELECT count(*), sum(status = 'completed') FROM durable_runs"
                " WHERE run_id LIKE ?",
                (prefix,),
            )
            assert found.fetchone() == (40, 20)
            rows = connection.execute(
                "SELECT count(*) FROM durable_history WHERE run_id LIKE ?", (prefix,)
            )
            assert rows.fetchone() == (40 * 2 + 20 * 2 + 3,)
    connection.close()


# Forks processes that die at the first, second, ... statement of a transaction that
# touches a whole family; the last one dies when it has heard that it was committed.
DIE_WITHIN_A_COMMIT = """
import itertools, signal

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def main(number):
    store = connect(f"sqlite:///{path}.{number}")
    await store.open()
    await store.register_worker(make_worker("w"), lambda: None)
    for operation in (
        make_start("p", owner="w"),
        make_start("other", owner="w"),
        make_child("t", "p", "terminate", owner="w"),
        make_child("t-t", "t", "terminate", owner="w"),
        make_child("c", "p", "request_cancel", owner="w"),
        make_message("p", "m"),
    ):
        await store.perform(operation)
    counted = itertools.count(1)
    connection = store._writer._executor.open()._raw
    connection.set_trace_callback(lambda _: next(counted) == number and die())
    following = make_start("next", owner="w", workflow_id="wf-p")
    free = make_start("free", messages=(make_message("other", "n"),))
    await store.perform(
        make_closing(
            "p", 3, 5, status=RunStatus.CONTINUED_AS_NEW, state="1",
            consumed_requests=("m",), has_children=True,
            replies=(ReplyRecord(run_id="p", request_id="m", data="1", created_at=1),),
            attempts=(make_attempt("p", 1),),
            messages=(make_message("other", "m"), make_message("none")),
            starts=(following, free),
        )
    )
    say("acknowledged")
    open(f"{path}.acknowledged", "x").close()
    die()

connect("sqlite://")  # imports what each fork would import by itself
for number in itertools.count(1):
    child = os.fork()
    if child == 0:
        asyncio.run(main(number))
    _, status = os.waitpid(child, 0)
    if os.path.exists(f"{path}.acknowledged"):
        break
    say(number, os.waitstatus_to_exitcode(status))
"""

ALL = {
    "runs": "c running,free running,next running,other running,"
    "p continued_as_new,t terminated,t-t terminated",
    "inbox": "c parent-close:p,other m,other n",
    "replies": "p m",
    "attempts": "p 1",
    "history": "c 2,free 2,next 2,other 2,p 5,t 3,t-t 3",
}
NOTHING = {
    "runs": "c running,other running,p running,t running,t-t running",
    "inbox": "p m",
    "replies": None,
    "attempts": None,
    "history": "c 2,other 2,p 2,t 2,t-t 2",
}
LOOK = {
    "runs": "SELECT run_id || ' ' || status AS line FROM durable_runs",
    "inbox": "SELECT run_id || ' ' || request_id AS line FROM durable_inbox",
    "replies": "SELECT run_id || ' ' || request_id AS line FROM durable_replies",
    "attempts": "SELECT run_id || ' ' || attempt AS line FROM durable_attempts",
    "history": (
        "SELECT run_id || ' ' || count(*) AS line FROM durable_history GROUP BY run_id"
    ),
}


def look(path: Path) -> dict[str, str | None]:
    check_integrity(path)
    connection = sqlite3.connect(path)
    found = {
        name: connection.execute(
            f"SELECT group_concat(line) FROM ({query} ORDER BY line)"  # noqa: S608 - from above
        ).fetchone()[0]
        for name, query in LOOK.items()
    }
    connection.close()
    return found


@pytest.mark.slow
def test_process_killed_within_a_commit_leaves_all_of_it_or_nothing(
    tmp_path: Path, launch: Launch
) -> None:
    process = launch(DIE_WITHIN_A_COMMIT)

    assert process.stdout is not None
    *died, last = [line.split() for line in process.stdout]

    assert last == ["acknowledged"]
    assert len(died) > 20
    for number, exit_code in died:
        assert int(exit_code) == -signal.SIGKILL
        assert look(tmp_path / f"x.db.{number}") == NOTHING
    assert look(tmp_path / f"x.db.{len(died) + 1}") == ALL


SLEEP_PAST_THE_LEASE = """
async def main():
    store = connect(f"sqlite:///{path}")
    await store.open()
    lost = asyncio.Event()
    await store.register_worker(make_worker(name), lost.set)
    await store.perform(make_start("r1", owner=name))
    say("ready")
    wait()
    for operation in (
        make_commit("r1", 3, 3),
        make_start("r2", owner=name),
        RecordAttempts(run_id="r1", attempts=(), is_active=True, wake_at=None),
    ):
        try:
            await store.perform(operation)
            say("written")
        except StoreError as error:
            say(type(error).__name__)
    await lost.wait()
    say("lost")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_stopped_process_can_write_nothing_once_its_lease_was_taken(
    tmp_path: Path, launch: Launch
) -> None:
    path = tmp_path / "x.db"
    zombie = launch(SLEEP_PAST_THE_LEASE, "zombie")
    assert hear(zombie) == "ready"
    os.kill(zombie.pid, signal.SIGSTOP)
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.register_worker(make_worker("w"), lambda: None)

    assert await store.perform(ReapWorkers(presumed_dead=("zombie",))) == ["zombie"]
    claimed = await store.perform(ClaimRuns(workflow_types=("order",), limit=9))
    await store.perform(make_commit("r1", 3, 3, epoch=2))
    os.kill(zombie.pid, signal.SIGCONT)
    tell(zombie)

    assert claimed == {"r1": 2}
    heard = [await asyncio.to_thread(hear, zombie) for _ in range(4)]
    assert heard == ["LeaseLostError"] * 3 + ["lost"]
    assert await asyncio.to_thread(zombie.wait) == 0
    assert len(await store.read(ReadHistory("r1"))) == 3
    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 1
    assert await store.perform(make_commit("r1", 4, 4, epoch=2)) is None
    await store.close()


CROWD = """
async def main():
    store = connect(f"sqlite:///{path}")
    await store.open()
    for number in range(60):
        result = await store.perform(
            make_start(f"{name}-{number}", workflow_id=f"wf-{number}",
                       conflict_policy=IdConflictPolicy.USE_EXISTING)
        )
        say(number, result.run_id)
    await store.close()

from durable.options import IdConflictPolicy
asyncio.run(main())
"""


@pytest.mark.slow
def test_processes_agree_on_who_holds_an_id(tmp_path: Path, launch: Launch) -> None:
    path = tmp_path / "x.db"
    processes = [launch(CROWD, f"p{n}") for n in range(4)]

    answers = [process.communicate()[0].splitlines() for process in processes]

    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers[0]) == 60
    assert answers == [answers[0]] * 4
    check_integrity(path)


FORK = """
async def main():
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.perform(make_start("r1"))
    child = os.fork()
    if child == 0:
        try:
            await store.perform(make_start("r2"))
        except EngineClosedError as error:
            await store.close()
            say("child", error)
        os._exit(0)
    os.waitpid(child, 0)
    await store.perform(make_start("r3"))
    await store.close()
    say("parent done")

import warnings
# Python 3.12 and later warn of every fork in a process with threads.
warnings.simplefilter("ignore", DeprecationWarning)
asyncio.run(main())
"""


@pytest.mark.slow
def test_fork_refuses_the_child_and_leaves_the_parent_alone(
    tmp_path: Path, launch: Launch
) -> None:
    process = launch(FORK)

    child, parent = process.communicate()[0].splitlines()

    assert child.startswith("child ")
    assert "fork" in child
    assert "after the fork" in child
    assert parent == "parent done"
    check_integrity(tmp_path / "x.db")


async def test_opening_a_new_file_does_not_import_alembic(launch: Launch) -> None:
    code = """
async def main():
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.close()

asyncio.run(main())
say("alembic" in sys.modules)
"""
    process = launch(code)

    assert await asyncio.to_thread(hear, process) == "False"


def test_store_in_memory_does_not_import_sqlalchemy(launch: Launch) -> None:
    code = """
connect("memory://")
say("sqlalchemy" in sys.modules)
"""
    process = launch(code)

    assert hear(process) == "False"

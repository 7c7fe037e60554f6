"""Several processes on one PostgreSQL database: creating, killed, frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable import limits
from durable.store.connect import connect
from durable.store.queries import ListRuns
from durable.store.records import ReapWorkers, RunFilter
from durable.store.sql.schema import HEAD
from durable.store.sql.tables import METADATA
from durable.testing.contract.rows import (
    NAMESPACE,
    make_commit,
    make_message,
    make_start,
    make_termination,
    make_worker,
)
from tests.servers import PostgresDatabases

pytestmark = [pytest.mark.slow, pytest.mark.sweep(1, of_class=True)]

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = len(METADATA.tables) + 2  # with those of the version and of the life

Process = subprocess.Popen[str]
Launch = Callable[..., Process]

PREAMBLE = """
import asyncio, os, signal, sys, time
import durable.store.sql.schema as schema
from durable.store.connect import connect
from durable.store.postgresql.session import PostgresSession
from durable.testing.contract.rows import *

url, name = sys.argv[1:]

def say(*words):
    print(*words, flush=True)

def wait():
    sys.stdin.readline()
"""


@pytest.fixture
def launch(postgres_url: str) -> Iterator[Launch]:
    """Yield what starts a process on the test's database; all are gone afterwards."""
    launched: list[Process] = []

    def start(code: str, name: str = "") -> Process:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + code, postgres_url, name],
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
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


# --- creating -------------------------------------------------------------------------


CREATE = """
async def main():
    store = connect(url)
    say("ready")
    wait()
    await store.open()
    await store.perform(make_start(name))
    await store.close()
    say("done")

asyncio.run(main())
"""


def test_processes_may_make_the_tables_at_once(
    launch: Launch, postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    processes = [launch(CREATE, f"r{n}") for n in range(8)]
    for process in processes:
        assert hear(process) == "ready"

    for process in processes:
        tell(process)

    assert [hear(process) for process in processes] == ["done"] * 8
    name = postgres_url.rpartition("/")[2]
    versions = postgres_server.execute("SELECT * FROM durable_schema", name)
    assert versions == [(HEAD,)]
    assert postgres_server.execute("SELECT count(*) FROM durable_runs", name) == [(8,)]


DIE_CREATING = """
import sqlalchemy as sa

number = 0

def die(*_):
    global number
    number += 1
    if number == int(name):
        os.kill(os.getpid(), signal.SIGKILL)

create = schema.create_tables

def create_and_die(connection):
    sa.event.listen(connection, "after_cursor_execute", die)
    create(connection)

schema.create_tables = create_and_die

async def main():
    store = connect(url)
    await store.open()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [1, 9, 16])
async def test_creation_that_is_killed_leaves_nothing_in_the_way(
    launch: Launch,
    postgres_server: PostgresDatabases,
    postgres_url: str,
    number: int,
) -> None:
    process = launch(DIE_CREATING, str(number))
    assert process.wait(30) == -signal.SIGKILL

    store = connect(postgres_url)
    await store.open()
    assert (await store.perform(make_start("r"))).created
    await store.close()
    name = postgres_url.rpartition("/")[2]
    text = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'durable%'"
    assert postgres_server.execute(text, name) == [(TABLES,)]


# --- a process that stands still ------------------------------------------------------


STAND_STILL = """
send = PostgresSession.send
trips = []

def send_and_stop(session, asked):
    answers = send(session, asked)
    if "locked" in asked and trips and trips.pop():
        say("looked")
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.2)  # it takes a moment on some systems
    return answers

async def main():
    store = connect(url)
    await store.open()
    lost = asyncio.Event()
    await store.register_worker(make_worker("frozen"), lost.set)
    await store.perform(make_start("r", owner="frozen"))
    trips.append(1)
    PostgresSession.send = send_and_stop
    try:
        # One that only goes on would look for nothing.
        await store.perform(make_commit("r", update_run=True, is_active=True))
    except Exception as error:
        say(type(error).__name__)
        await asyncio.wait_for(lost.wait(), 30)
        say("lost")
    else:
        say("kept")

asyncio.run(main())
"""


async def test_process_that_is_frozen_between_look_and_write_lets_others_go_on(
    launch: Launch, postgres_url: str
) -> None:
    process = launch(STAND_STILL)
    assert hear(process) == "looked"
    store = connect(postgres_url)
    await store.open()
    await store.register_worker(make_worker("w"), lambda: None)
    began = time.monotonic()
    # What touches nothing of the frozen goes on at once, and all else soon.
    await store.perform(make_start("s", owner="w"))
    assert await store.perform(make_message("r")) == "r"
    assert await store.perform(make_commit("s")) is None
    ended = await store.perform(make_termination("r"))
    assert ended.run_id == "r"
    # So its lease is no longer in the way, either.
    assert await store.perform(ReapWorkers(presumed_dead=("frozen",))) == ["frozen"]
    assert time.monotonic() - began < limits.LEASE_SECONDS

    os.kill(process.pid, signal.SIGCONT)
    assert [hear(process), hear(process)] == ["LeaseLostError", "lost"]
    found = await store.read(ListRuns(NAMESPACE, RunFilter()))
    assert {run.run_id: run.status.value for run in found} == {
        "r": "terminated",
        "s": "running",
    }
    await store.close()

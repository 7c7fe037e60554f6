"""Plain activities in processes: what they get and give, and how their processes end.

Numbers in brackets are reports of users of other systems, done again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from durable import (
    ActivityCancellationReason,
    Engine,
    OutcomeUnknown,
    WorkflowCancelledError,
    activity,
    resource,
    workflow,
)
from durable.api.activities.activity_method import activity_method
from durable.errors import DefinitionError, WorkflowStuckError
from durable.store.records import AttemptState
from durable.telemetry import JsonFormatter
from durable.testing.environment import TestEnvironment
from durable.worker.activities.processes import pool as pool_module
from tests.integration.process_activities import (
    Point,
    ask_facts,
    big_one,
    caught,
    chatter_all,
    complain_once,
    compute_all,
    compute_in_time,
    die_alone,
    dies,
    slow_all,
    stop_well,
    try_both,
    turn,
    which_of,
)

pytestmark = pytest.mark.slow
SECONDS = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


async def process_counts(engine: Engine) -> tuple[int, int]:
    """How many there are, and how many were lost."""
    health = await engine.health()
    assert health is not None
    return health.processes, health.lost_processes


async def test_arguments_and_results_are_as_recorded_and_processes_are_reused() -> None:
    async with Engine("memory://", max_activity_processes=2) as engine:
        pid, point = await engine.execute(turn(Point(1, 2)))
        assert point == Point(2, 1)
        assert pid != os.getpid()
        pids = await engine.execute(which_of(20))
        assert pid in pids
        assert len(set(pids)) <= 2
        health = await engine.health()
        assert health is not None
        assert health.processes == len(set(pids))
    await until(lambda: not any(map(is_alive, pids)))


async def test_exceptions_keep_class_text_notes_and_cause() -> None:
    async with Engine("memory://") as engine:
        found = await engine.execute(caught(3))
        assert found[:4] == ["Odd(3)", "3", "seen in a process", "KeyError('key')"]
        runs = await engine.list()
        handle = await engine.get(runs[0].workflow_id)
        attempt = (await handle.attempts())[0]
        assert "in raise_odd" in str(attempt.failure)


async def test_activity_has_its_context_and_its_log_lines_reach_the_workers_handlers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Engine("memory://") as engine:
        found = await engine.execute(ask_facts(str(tmp_path)), id="facts-1")
    assert found == {
        "type": "processes.facts",
        "attempt": 1,
        "task_queue": "default",
        "left": 40_000_000,
        "retry": 3,
        "cancelled": False,
        "reason": None,
        "stopping": False,
        "in_activity": True,
    }
    said = {record.getMessage(): record for record in caplog.records}
    computing = vars(said["computing"])
    assert computing["workflow_id"] == "facts-1"
    assert (computing["activity_type"], computing["attempt"]) == ("processes.facts", 1)
    assert computing["folder"] == str(tmp_path)
    assert computing["process"] != os.getpid()
    assert said["one of 2"].name == "app"


async def test_traceback_that_was_logged_there_is_in_json_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Engine("memory://") as engine:
        await engine.execute(complain_once(), id="complain-1")
    record = next(r for r in caplog.records if r.getMessage() == "not found")
    entry = json.loads(JsonFormatter().format(record))
    assert entry["workflow_id"] == "complain-1"
    assert "KeyError: 'missing'" in entry["traceback"]
    assert "in complain" in entry["traceback"]


async def test_a_test_environment_waits_for_processes() -> None:
    async with TestEnvironment(max_activity_processes=1) as env:
        _, point = await env.execute(turn(Point(1, 2)))
        assert point == Point(2, 1)


# --- what cannot be -------------------------------------------------------------------


def test_resources_and_async_functions_are_refused_where_they_are_defined() -> None:
    with pytest.raises(DefinitionError, match="takes the resource 'pool'"):

        @activity(run_in="process")
        def with_pool(*, pool: Path = resource(Path)) -> None: ...

    with pytest.raises(DefinitionError, match="is async, but is to run in a process"):

        @activity(run_in="process")
        async def waits() -> None: ...

    with pytest.raises(DefinitionError, match="which has its object"):

        class Shop:
            @activity_method(run_in="process")  # type: ignore[call-overload, untyped-decorator]  # the test
            def charge(self) -> None: ...


async def test_function_that_cannot_be_pickled_parks_its_run_and_says_why(
    forgotten: None,
) -> None:
    lock = asyncio.Lock()
    guard = sys._getframe()

    @activity(run_in="process")
    def holds_frame() -> str:
        return f"{lock}{guard}"

    @workflow
    async def hold() -> str:
        return await holds_frame()

    async with Engine("memory://") as engine:
        with pytest.raises(WorkflowStuckError, match="cannot be pickled"):
            await engine.execute(hold())


async def test_engine_is_not_there_and_exit_is_a_failure() -> None:
    async with Engine("memory://") as engine:
        no_engine, left = await engine.execute(try_both())
    assert "runs in a thread or process" in no_engine
    assert left.startswith("ApplicationError: sys.exit(3)")


async def test_closures_travel_with_what_they_hold(forgotten: None) -> None:
    factor = 7

    @activity(run_in="process")
    def times(number: int) -> int:
        return factor * number

    @workflow
    async def multiply(number: int) -> int:
        return await times(number)

    async with Engine("memory://") as engine:
        assert await engine.execute(multiply(6)) == 42


# --- the death of a process -----------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "segfault", "kill"])
async def test_attempt_whose_process_dies_is_lost_and_followed_by_another(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool is not broken by a death."""
    async with Engine("memory://", max_activity_processes=1) as engine:
        handle = await engine.start(dies(how, str(tmp_path), 2))
        # Of the two attempts that may fail none has: three were needed.
        assert await handle.result() == 3
        states = [row.state for row in await handle.attempts()]
        assert states == [AttemptState.LOST] * 2 + [AttemptState.COMPLETED]
        health = await engine.health()
        assert health is not None
        assert health.lost_processes == 2
        await until(lambda: engine.running_activities() == [])
    words = {"exit": "exit code 3", "segfault": "SIGSEGV", "kill": "SIGKILL"}
    assert f"{words[how]}; nobody knows whether it took effect" in caplog.text


async def test_at_most_once_is_not_run_again_after_the_death_of_its_process(
    tmp_path: Path,
) -> None:
    async with Engine("memory://") as engine:
        assert "killed by SIGKILL" in await engine.execute(die_alone(str(tmp_path)))
    assert os.listdir(tmp_path) == ["kill-1"]


async def test_poison_ends_after_its_attempts_while_neighbours_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.limits.LOST_ATTEMPTS_MAX", 4)
    async with Engine("memory://", max_activity_processes=2) as engine:
        poison = await engine.start(dies("kill", str(tmp_path), 99))
        neighbours = [await engine.start(which_of(5)) for _ in range(5)]
        for neighbour in neighbours:
            assert len(await neighbour.result()) == 5
        with pytest.raises(Exception, match="failed") as failed:
            await poison.result()
        assert isinstance(failed.value.__cause__, OutcomeUnknown)
        assert len(await poison.attempts()) == 4
    assert len(os.listdir(tmp_path)) == 4


async def test_processes_killed_again_and_again_lose_no_result(tmp_path: Path) -> None:
    """Each kill costs one attempt, and the pool is whole in 1 s."""
    kills = 8
    async with Engine("memory://", max_activity_processes=2) as engine:
        handle = await engine.start(slow_all(str(tmp_path), 60))
        for kill in range(kills):
            await until(lambda: pids_in(tmp_path))
            os.kill(max(pids_in(tmp_path)), signal.SIGKILL)
            async with asyncio.timeout(SECONDS):  # and then it is whole again
                while await process_counts(engine) != (2, kill + 1):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(0.005)
        assert await handle.result() == list(range(60))
        lost = [r for r in await handle.attempts() if r.state is AttemptState.LOST]
        assert 0 < len(lost) <= kills


def pids_in(folder: Path) -> list[int]:
    pids = {int(path.name.partition("-")[2]) for path in folder.iterdir()}
    return [pid for pid in pids if is_alive(pid)]


async def test_no_zombies_are_left(tmp_path: Path) -> None:
    """A process that was killed is waited for."""
    async with Engine("memory://", max_activity_processes=1) as engine:
        await engine.execute(dies("kill", str(tmp_path), 2))
        dead = [int((tmp_path / f"kill-{n}").read_text()) for n in (1, 2)]
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in dead))


# --- cancellation ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["computes", "shielded"])
async def test_cancelled_function_is_interrupted_and_may_shield_itself(
    how: str, tmp_path: Path
) -> None:
    """What computes in a process can be cancelled."""
    async with Engine("memory://") as engine:
        handle = await engine.start(compute_all(str(tmp_path), how))
        await until((tmp_path / "begun").exists)
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert "ended" in os.listdir(tmp_path)  # its end was waited for
        # The same process goes on with something else.
        pid = int((tmp_path / "begun").read_text())
        assert pid in await engine.execute(which_of(1))
    names = set(os.listdir(tmp_path))
    assert names == {"begun", "ended"} | ({"shielded"} if how == "shielded" else set())
    assert "REQUESTED" in (tmp_path / "ended").read_text()


async def test_function_that_ignores_its_end_is_killed_after_a_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that does not stop is killed, and another takes its place."""
    monkeypatch.setattr(pool_module, "KILL_SECONDS", 0.2)
    async with Engine("memory://", max_activity_processes=1) as engine:
        await engine.execute(which_of(1))  # its process is there, and has imported
        found = await engine.execute(compute_in_time(str(tmp_path), "ignores"))
        assert found == "start_to_close"
        pid = int((tmp_path / "begun").read_text())
        assert await engine.execute(which_of(1)) != [pid]
        assert not is_alive(pid)
        health = await engine.health()
        assert health is not None
        assert health.lost_processes == 0  # nobody has to look for a reason
    assert "has not stopped within 0.2 s of being asked to" in caplog.text


# --- the end of the worker ------------------------------------------------------------


async def test_process_hears_that_its_worker_stops_and_ends_within_the_grace(
    database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "said"
    folder.mkdir()
    async with Engine(database) as engine:
        handle = await engine.start(stop_well(str(folder)), id="stop-1")
        await until((folder / "begun").exists)
    async with Engine(database) as engine:
        handle = await engine.get("stop-1", workflow=stop_well)
        assert await handle.result() == "ended well"
        assert not await handle.attempts()  # the first one was the last


async def test_worker_that_closes_asks_after_its_grace_and_then_kills(
    tmp_path: Path,
) -> None:
    async with Engine("memory://", drain_timeout="100ms") as engine:
        await engine.start(compute_all(str(tmp_path), "computes"))
        await until((tmp_path / "begun").exists)
    pid = int((tmp_path / "begun").read_text())
    await until(lambda: not is_alive(pid))
    reason = ActivityCancellationReason.WORKER_STOPPING
    assert (tmp_path / "ended").read_text() == str(reason)


async def test_processes_without_work_end_and_others_begin_when_there_is_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.1)
    async with Engine("memory://", max_activity_processes=1) as engine:
        (first,) = await engine.execute(which_of(1))
        await until(lambda: not is_alive(first))
        async with asyncio.timeout(SECONDS):
            while await process_counts(engine) != (0, 0):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        assert await engine.execute(which_of(1)) != [first]


async def test_process_begins_while_threads_hold_locks() -> None:
    """It is no fork, so no lock is held in it for ever."""
    log, begun, over = logging.getLogger("locked"), threading.Event(), threading.Event()
    handler = logging.StreamHandler()
    log.addHandler(handler)

    def hold() -> None:
        with handler.lock or contextlib.nullcontext():
            begun.set()
            over.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        await until(begun.is_set)
        async with Engine("memory://") as engine:
            assert await engine.execute(which_of(1))
    finally:
        over.set()
        thread.join()
        log.removeHandler(handler)


# --- the line to it -------------------------------------------------------------------


class Counting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


@pytest.fixture
async def counting() -> AsyncIterator[Counting]:
    log, handler = logging.getLogger("chatter"), Counting()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)
    log.propagate = True


async def test_thousands_of_lines_and_beats_of_eight_processes_do_not_jam_the_line(
    counting: Counting,
) -> None:
    """Frequent messages of many children stall nothing."""
    async with Engine("memory://", max_activity_processes=8) as engine:
        found = await engine.execute(chatter_all(8, 2_000))
        assert found == list(range(8))
        assert await engine.execute(which_of(1))
    assert counting.count == 8 * 2_000


async def test_large_results_pass_whole() -> None:
    async with Engine("memory://") as engine:
        assert await engine.execute(big_one(1_000_000)) == 1_000_000

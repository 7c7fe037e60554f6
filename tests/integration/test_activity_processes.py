"""Plain activities in processes: what they get and give, and how their processes end.

Numbers in brackets are reports of users of other systems, done again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from durable import (
    ActivityCancellationReason,
    ActivityCancellationType,
    ActivityTimeoutError,
    ApplicationError,
    Engine,
    OutcomeUnknown,
    RetryPolicy,
    WorkflowCancelledError,
    activity,
    activity_cancellation_reason,
    activity_client,
    activity_info,
    activity_logger,
    in_activity,
    is_activity_cancelled,
    is_worker_stopping,
    resource,
    shield_cancellation,
    wait_for_worker_stopping_sync,
    workflow,
)
from durable.api.activities.activity_method import activity_method
from durable.errors import DefinitionError, NotInWorkflowError, WorkflowStuckError
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment
from durable.worker.activities.processes import pool as pool_module

pytestmark = pytest.mark.slow
SECONDS = 20.0


@dataclass
class Point:
    x: int
    y: int


class Odd(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def wait_in_thread(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


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


@activity(run_in="process")
def turned(point: Point) -> tuple[int, Point]:
    return os.getpid(), Point(point.y, point.x)


@workflow
async def turn(point: Point) -> tuple[int, Point]:
    return await turned(point)


@activity(run_in="process")
def which(number: int) -> int:
    return os.getpid() + 0 * number


@workflow
async def which_of(count: int) -> list[int]:
    return list(await asyncio.gather(*[which(number) for number in range(count)]))


@activity(run_in="process", retry=None)
def raise_odd(number: int) -> None:
    try:
        {}["key"]
    except KeyError as error:
        odd = Odd(number)
        odd.add_note("seen in a process")
        raise odd from error


@workflow
async def caught(number: int) -> list[str]:
    try:
        await raise_odd(number)
    except Odd as error:
        return [
            repr(error),
            str(error.number),
            error.__notes__[0],
            repr(error.__cause__),
            "raise_odd" if "in raise_odd" in str(vars(error)) else "",
        ]
    return []


@activity(run_in="process", start_to_close_timeout="40s")
def facts(folder: str) -> dict[str, object]:
    info = activity_info()
    activity_logger.warning("computing", extra={"folder": folder})
    logging.getLogger("app").info("%s of %d", "one", 2)
    return {
        "type": info.activity_type,
        "attempt": info.attempt,
        "task_queue": info.task_queue,
        "left": info.deadline - info.started_at,
        "retry": info.retry_policy.max_attempts,
        "cancelled": is_activity_cancelled(),
        "reason": activity_cancellation_reason(),
        "stopping": is_worker_stopping(),
        "in_activity": in_activity(),
    }


@workflow
async def ask_facts(folder: str) -> dict[str, object]:
    return await facts(folder)


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
        "type": "facts",
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
    assert (computing["activity_type"], computing["attempt"]) == ("facts", 1)
    assert computing["folder"] == str(tmp_path)
    assert computing["process"] != os.getpid()
    assert said["one of 2"].name == "app"


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


@activity(run_in="process", retry=None)
def asks_for_engine() -> None:
    activity_client()


@activity(run_in="process", retry=None)
def leaves() -> None:
    sys.exit(3)


@workflow
async def try_both() -> list[str]:
    found: list[str] = []
    for call in (asks_for_engine, leaves):
        try:
            await call()
        except (NotInWorkflowError, ApplicationError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


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


@activity(run_in="process", retry=RetryPolicy(max_attempts=2))
def die(how: str, folder: str, times: int) -> int:
    attempt = activity_info().attempt
    Path(folder, f"{how}-{attempt}").write_text(str(os.getpid()))
    if attempt <= times:
        if how == "exit":
            os._exit(3)
        elif how == "segfault":
            import ctypes

            ctypes.string_at(0)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return attempt


@workflow
async def dies(how: str, folder: str, times: int) -> int:
    return await die(how, folder, times)


@pytest.mark.parametrize("how", ["exit", "segfault", "kill"])
async def test_attempt_whose_process_dies_is_lost_and_followed_by_another(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[apscheduler 362, sdk-python 245, pebble 97] A pool is not broken by a death."""
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


@workflow
async def die_alone(folder: str) -> str:
    once = die.options(at_most_once=True)
    try:
        await once("kill", folder, 99)
    except OutcomeUnknown as error:
        return str(error)
    return ""


async def test_at_most_once_is_not_run_again_after_the_death_of_its_process(
    tmp_path: Path,
) -> None:
    async with Engine("memory://") as engine:
        assert "killed by SIGKILL" in await engine.execute(die_alone(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["kill-1"]


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
    assert len(list(tmp_path.iterdir())) == 4


@activity(run_in="process")
def slow(folder: str, number: int) -> int:
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(0.05)
    return number


@workflow
async def slow_all(folder: str, count: int) -> list[int]:
    return list(await asyncio.gather(*[slow(folder, n) for n in range(count)]))


async def test_processes_killed_again_and_again_lose_no_result(tmp_path: Path) -> None:
    """[ai-dial-rag 11] Each kill costs one attempt, and the pool is whole in 1 s."""
    waits: list[float] = []
    async with Engine("memory://", max_activity_processes=2) as engine:
        handle = await engine.start(slow_all(str(tmp_path), 60))
        for _ in range(8):
            await until(lambda: len(pids_in(tmp_path)) > 0)
            victim = max(pids_in(tmp_path), default=0)
            if handle is not None and victim:
                os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            await until(lambda gone=victim: not is_alive(gone))  # type: ignore[misc]  # of this turn
            while True:
                health = await engine.health()
                if health is None or health.processes == 2:
                    break
                await asyncio.sleep(0.01)
            waits.append(time.monotonic() - began)
        assert await handle.result() == list(range(60))
        lost = [r for r in await handle.attempts() if r.state is AttemptState.LOST]
        health = await engine.health()
        assert health is not None
        assert len(lost) <= 8
        assert health.lost_processes == len(lost)


def pids_in(folder: Path) -> list[int]:
    pids = {int(path.name.partition("-")[2]) for path in folder.iterdir()}
    return [pid for pid in pids if is_alive(pid)]


async def test_no_zombies_are_left(tmp_path: Path) -> None:
    """[rq 1193] A process that was killed is waited for."""
    async with Engine("memory://", max_activity_processes=1) as engine:
        await engine.execute(dies("kill", str(tmp_path), 2))
        dead = [int(path.read_text()) for path in tmp_path.iterdir()][:2]
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in dead))


# --- cancellation ---------------------------------------------------------------------


@activity(run_in="process", start_to_close_timeout="60s")
def compute(folder: str, how: str) -> str:
    Path(folder, "begun").write_text(str(os.getpid()))
    try:
        if how == "shielded":
            with shield_cancellation():
                wait_in_thread(is_activity_cancelled)
                Path(folder, "shielded").touch()
            Path(folder, "past the shield").touch()
        while True:
            if how == "ignores":
                with contextlib.suppress(asyncio.CancelledError):
                    time.sleep(0.001)
            else:
                sum(range(1_000))
    except Exception:  # what is raised must pass by here
        Path(folder, "swallowed").touch()
    finally:
        Path(folder, "ended").write_text(str(activity_cancellation_reason()))
    return "never"


@workflow
async def compute_all(folder: str, how: str) -> str:
    waited = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    return await compute.options(cancellation_type=waited)(folder, how)


@pytest.mark.parametrize("how", ["computes", "shielded"])
async def test_cancelled_function_is_interrupted_and_may_shield_itself(
    how: str, tmp_path: Path
) -> None:
    """[sdk-python 1048] What computes in a process can be cancelled."""
    async with Engine("memory://") as engine:
        handle = await engine.start(compute_all(str(tmp_path), how))
        await until((tmp_path / "begun").exists)
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert (tmp_path / "ended").exists()  # its end was waited for
        # The same process goes on with something else.
        pid = int((tmp_path / "begun").read_text())
        assert pid in await engine.execute(which_of(1))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"begun", "ended"} | ({"shielded"} if how == "shielded" else set())
    assert "REQUESTED" in (tmp_path / "ended").read_text()


@workflow
async def compute_in_time(folder: str, how: str) -> str:
    limited = compute.options(start_to_close_timeout="300ms", retry=None)
    try:
        return await limited(folder, how)
    except ActivityTimeoutError as error:
        return error.timeout_type


async def test_function_that_ignores_its_end_is_killed_after_a_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[rq 1169] A process that does not stop is killed, and another takes its place."""
    monkeypatch.setattr(pool_module, "KILL_SECONDS", 0.2)
    async with Engine("memory://", max_activity_processes=1) as engine:
        found = await engine.execute(compute_in_time(str(tmp_path), "ignores"))
        assert found == "start_to_close"
        pid = int((tmp_path / "begun").read_text())
        assert await engine.execute(which_of(1)) != [pid]
        assert not is_alive(pid)
        health = await engine.health()
        assert health is not None
        assert health.lost_processes == 0  # nobody has to look for a reason


# --- the end of the worker ------------------------------------------------------------


@activity(run_in="process", start_to_close_timeout="60s")
def until_stopping(folder: str) -> str:
    Path(folder, "begun").touch()
    assert wait_for_worker_stopping_sync(timeout=SECONDS)
    assert not is_activity_cancelled()
    return "ended well"


@workflow
async def stop_well(folder: str) -> str:
    return await until_stopping(folder)


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


# --- the line to it -------------------------------------------------------------------


@activity(run_in="process")
def chatter(number: int, lines: int) -> int:
    log = logging.getLogger("chatter")
    for line in range(lines):
        log.info("line %d of %d", line, number)
    return number


@workflow
async def chatter_all(count: int, lines: int) -> list[int]:
    return list(await asyncio.gather(*[chatter(n, lines) for n in range(count)]))


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


async def test_thousands_of_lines_from_eight_processes_do_not_jam_the_line(
    counting: Counting,
) -> None:
    """[sdk-python 476] Frequent messages of many children stall nothing."""
    async with Engine("memory://", max_activity_processes=8) as engine:
        found = await engine.execute(chatter_all(8, 2_000))
        assert found == list(range(8))
        assert await engine.execute(which_of(1))
    assert counting.count == 8 * 2_000


@activity(run_in="process")
def big(size: int) -> bytes:
    return bytes(size)


@workflow
async def big_one(size: int) -> int:
    return len(await big(size))


async def test_large_results_pass_whole() -> None:
    async with Engine("memory://") as engine:
        assert await engine.execute(big_one(1_000_000)) == 1_000_000

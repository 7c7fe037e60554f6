"""Activities in processes, and workflows that call them, for `test_activity_processes`.

A process imports this module for each of them, so it imports little itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from durable import (
    ActivityCancellationType,
    ActivityTimeoutError,
    ApplicationError,
    OutcomeUnknown,
    RetryPolicy,
    activity,
    activity_cancellation_reason,
    activity_client,
    activity_info,
    activity_logger,
    heartbeat,
    in_activity,
    is_activity_cancelled,
    is_worker_stopping,
    meter,
    shield_cancellation,
    span,
    wait_for_worker_stopping_sync,
    workflow,
)
from durable.errors import NotInWorkflowError

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


@activity(name="processes.turned", run_in="process")
def turned(point: Point) -> tuple[int, Point]:
    return os.getpid(), Point(point.y, point.x)


@workflow(name="processes.turn")
async def turn(point: Point) -> tuple[int, Point]:
    return await turned(point)


@activity(name="processes.which", run_in="process")
def which(number: int) -> int:
    return os.getpid() + 0 * number


@workflow(name="processes.which_of")
async def which_of(count: int) -> list[int]:
    return list(await asyncio.gather(*[which(number) for number in range(count)]))


@activity(name="processes.raise_odd", run_in="process", retry=None)
def raise_odd(number: int) -> None:
    try:
        dict[str, int]()["key"]
    except KeyError as error:
        odd = Odd(number)
        odd.add_note("seen in a process")
        raise odd from error


@workflow(name="processes.caught")
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


@activity(name="processes.facts", run_in="process", start_to_close_timeout="40s")
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


@workflow(name="processes.ask_facts")
async def ask_facts(folder: str) -> dict[str, object]:
    return await facts(folder)


@activity(name="processes.asks_for_engine", run_in="process", retry=None)
def asks_for_engine() -> None:
    activity_client()


@activity(name="processes.leaves", run_in="process", retry=None)
def leaves() -> None:
    sys.exit(3)


@workflow(name="processes.try_both")
async def try_both() -> list[str]:
    found: list[str] = []
    for call in (asks_for_engine, leaves):
        try:
            await call()
        except (NotInWorkflowError, ApplicationError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


@activity(name="processes.die", run_in="process", retry=RetryPolicy(max_attempts=2))
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


@workflow(name="processes.dies")
async def dies(how: str, folder: str, times: int) -> int:
    return await die(how, folder, times)


@workflow(name="processes.die_alone")
async def die_alone(folder: str) -> str:
    once = die.options(effect="once")
    try:
        await once("kill", folder, 99)
    except OutcomeUnknown as error:
        return str(error)
    return ""


@activity(name="processes.slow", run_in="process")
def slow(folder: str, number: int) -> int:
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(0.05)
    return number


@workflow(name="processes.slow_all")
async def slow_all(folder: str, count: int) -> list[int]:
    return list(await asyncio.gather(*[slow(folder, n) for n in range(count)]))


@activity(name="processes.compute", run_in="process", start_to_close_timeout="60s")
def compute(folder: str, how: str) -> str:
    try:
        Path(folder, "pid").write_text(str(os.getpid()))
        Path(folder, "pid").rename(Path(folder, "begun"))
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
    except Exception:  # noqa: BLE001 - what is raised must pass by here
        Path(folder, "swallowed").touch()
    finally:
        Path(folder, "ended").write_text(str(activity_cancellation_reason()))
    return "never"


@workflow(name="processes.compute_all")
async def compute_all(folder: str, how: str) -> str:
    waited = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    return await compute.options(cancellation_type=waited)(folder, how)


@workflow(name="processes.compute_in_time")
async def compute_in_time(folder: str, how: str) -> str:
    limited = compute.options(start_to_close_timeout="500ms", retry=None)
    try:
        return await limited(folder, how)
    except ActivityTimeoutError as error:
        return error.timeout_type


@activity(
    name="processes.until_stopping", run_in="process", start_to_close_timeout="60s"
)
def until_stopping(folder: str) -> str:
    Path(folder, "begun").touch()
    assert wait_for_worker_stopping_sync(timeout=SECONDS)
    assert not is_activity_cancelled()
    return "ended well"


@workflow(name="processes.stop_well")
async def stop_well(folder: str) -> str:
    return await until_stopping(folder)


@activity(name="processes.chatter", run_in="process")
def chatter(number: int, lines: int) -> int:
    log = logging.getLogger("chatter")
    for line in range(lines):
        log.info("line %d of %d", line, number)
        heartbeat(line)
    return number


@workflow(name="processes.chatter_all")
async def chatter_all(count: int, lines: int) -> list[int]:
    return list(await asyncio.gather(*[chatter(n, lines) for n in range(count)]))


@activity(name="processes.big", run_in="process")
def big(size: int) -> bytes:
    return bytes(size)


@workflow(name="processes.big_one")
async def big_one(size: int) -> int:
    return len(await big(size))


TAKEN = meter().create_counter("kinds.taken")


@activity(name="kinds.measure", run_in="process")
def measure(amount: int) -> int:
    with span("within"):  # there is none, and no error either
        TAKEN.add(amount)
    activity_logger.warning("measured")
    return amount


@workflow(name="processes.measure_twice")
async def measure_twice(amount: int) -> int:
    return await measure(amount) + await measure(amount)


@activity(name="processes.complain", run_in="process")
def complain() -> None:
    try:
        dict[str, int]()["missing"]
    except KeyError:
        activity_logger.exception("not found")


@workflow(name="processes.complain_once")
async def complain_once() -> None:
    await complain()

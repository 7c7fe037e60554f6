"""Local activities: how often they run, when they are written, and what is seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Engine,
    RetryPolicy,
    Signal,
    activity,
    activity_info,
    complete_later,
    heartbeat,
    limits,
    set_query_handler,
    sleep,
    step,
    workflow,
)
from durable.errors import InvalidCallError, InvalidOptionError
from durable.store.records import CommitTask, RecordAttempts, StartRun
from durable.store.threads.sql_store import SqlStore
from durable.testing.environment import TestEnvironment
from durable.testing.replaying import replay
from tests.integration import local_kill
from tests.integration.test_shared_activities import knows_others

ROOT = Path(__file__).parents[2]
RAN: list[Any] = []
GATE: list[asyncio.Event] = []
go = Signal("go", int)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    GATE[:] = [asyncio.Event(), asyncio.Event()]


@activity(name="local.note", local=True)
async def note(n: int) -> int:
    RAN.append(n)
    return n


@activity(name="local.think", local=True)
def think(n: int) -> bool:
    RAN.append(n)
    return threading.current_thread() is not threading.main_thread()


@activity(name="local.gated", local=True)
async def gated(n: int) -> int:
    RAN.append(n)
    GATE[0].set()
    await GATE[1].wait()
    return n


@workflow(name="local.chain")
async def chain(count: int) -> int:
    total = 0
    for n in range(count):
        total += await note(n)
    assert await think(7)
    return total + sum(await asyncio.gather(*(note(n) for n in range(count))))


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What runs have had written."""
    found: list[Any] = []
    submit = SqlStore.submit

    def noted(self: SqlStore, operation: Any, then: Any) -> None:
        if isinstance(operation, StartRun | CommitTask | RecordAttempts):
            found.append(operation)
        submit(self, operation, then)

    monkeypatch.setattr(SqlStore, "submit", noted)
    return found


async def test_ten_in_a_row_are_written_with_the_end(
    tmp_path: Path, writes: list[Any]
) -> None:
    async with Engine(f"sqlite:///{tmp_path}/runs.db") as engine:
        run = await engine.start(chain(10), id="w")
        assert await run.result() == 90
        told = await run.history()
    assert [type(one) for one in writes] == [StartRun, CommitTask]
    kinds = Counter(type(event.attributes).__name__ for event in told)
    assert kinds["ActivityTaskScheduled"] == kinds["ActivityTaskCompleted"] == 21
    assert replay(told, [chain, note, think]).terminal is not None
    assert len(RAN) == 21


@workflow(name="local.looked_at")
async def looked_at() -> list[int]:
    seen: list[int] = []

    def show() -> list[int]:
        return seen

    set_query_handler("show", show)
    seen.append(await note(1))
    seen.append(await note(2))
    seen.append(await gated(3))
    seen.append(await note(await go.receive()))
    return seen


def _of(history: Any, kind: str) -> int:
    return sum(type(event.attributes).__name__ == kind for event in history)


async def test_whoever_looks_or_sends_finds_all_of_it_recorded(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(looked_at(), id="w")
        await GATE[0].wait()
        assert _of(await run.history(), "ActivityTaskCompleted") == 0
        assert await run.query("show") == [1, 2]
        assert _of(await run.history(), "ActivityTaskCompleted") == 2
        await run.signal(go(4))
        told = await run.history()
        assert _of(told, "ActivityTaskScheduled") == 3
        assert _of(told, "WorkflowExecutionSignaled") == 1
        GATE[1].set()
        assert await run.result() == [1, 2, 3, 4]
    assert RAN == [1, 2, 3, 4]


@workflow(name="local.long")
async def long() -> int:
    async def wait() -> int:
        RAN.append(activity_info().attempt)
        await asyncio.sleep(3_600)
        return 1

    await note(1)
    return await step("wait", wait, local=True, start_to_close_timeout="2h")


async def test_what_takes_long_is_recorded_meanwhile(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(long(), id="w")
        await env.sleep(limits.LOCAL_SECONDS / 2)
        assert _of(await run.history(), "ActivityTaskScheduled") == 1
        await env.sleep(limits.LOCAL_SECONDS)
        assert _of(await run.history(), "ActivityTaskScheduled") == 2
        assert _of(await run.history(), "ActivityTaskCompleted") == 1
        assert await run.result() == 1
    assert RAN == [1, 1]


@workflow(name="local.flaky")
async def flaky(fails: int, wait: float, attempts: int) -> int:
    async def body() -> int:
        RAN.append(activity_info().attempt)
        if activity_info().attempt <= fails:
            raise ApplicationError("not yet")
        return activity_info().attempt

    retry = RetryPolicy(max_attempts=attempts, initial_interval=wait)
    await note(0)
    try:
        return await step("try", body, local=True, retry=retry)
    except ApplicationError:
        return -1


@pytest.mark.parametrize(
    ("fails", "wait", "attempts", "result", "rows"),
    [
        (1, 0.1, 3, 2, 0),  # it waits where it is
        (1, 30.0, 3, 2, 1),  # its wait is recorded
        (1, 0.1, 1, -1, 0),
        (2, 0.1, 2, -1, 0),
    ],
)
async def test_it_is_tried_again_as_its_policy_says(
    tmp_path: Path,
    writes: list[Any],
    fails: int,
    wait: float,
    attempts: int,
    result: int,
    rows: int,
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    async with TestEnvironment(url) as env:
        run = await env.start(flaky(fails, wait, attempts), id="w")
        assert await run.result() == result
        told = await run.history()
    tried = min(fails + 1, attempts)
    assert [0, *range(1, tried + 1)] == RAN
    recorded = [one for one in writes if isinstance(one, RecordAttempts)]
    assert bool(recorded) == bool(rows)
    outcome: Any = told[-2].attributes
    assert outcome.attempt == tried


@workflow(name="local.hearty")
async def hearty() -> str:
    async def body() -> str:
        heartbeat("half")
        await asyncio.sleep(0.1)
        return "beats"

    async def later() -> Any:
        return await complete_later()

    found = await step("beat", body, local=True)
    try:
        await step("later", later, local=True, retry=None)
    except InvalidCallError as error:
        found += f", {error}"
    return found


async def test_it_may_say_how_far_it_is_but_not_be_left_to_others() -> None:
    async with TestEnvironment() as env:
        found = await env.execute(hearty())
    assert found.startswith("beats, durable.complete_later() was called in ")
    assert "step 'later'" in found


@workflow(name="local.cut")
async def cut() -> list[Any]:
    found: list[Any] = [await note(1)]
    try:
        async with asyncio.timeout(0.2):
            await gated(2)
    except TimeoutError:
        found.append("late")
    found.append(await note(3))
    await sleep(1)
    return found


async def test_it_is_cancelled_as_any_other(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(cut(), id="w")
        assert await run.result() == [1, "late", 3]
        assert replay(await run.history(), [cut, note, gated]).terminal is not None
    assert RAN == [1, 2, 3]


@workflow(name="local.drained")
async def drained() -> list[int]:
    return [await note(1), await gated(2), await note(3)]


@pytest.mark.parametrize("grace", [0.0, 5.0])
async def test_a_worker_that_closes_keeps_what_has_returned(
    database: str, grace: float
) -> None:
    async with TestEnvironment(database, drain_timeout=grace) as env:
        await env.start(drained(), id="w")
        await GATE[0].wait()
        if grace:
            asyncio.get_running_loop().call_soon(GATE[1].set)
    GATE[1].set()
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w", workflow=drained)
        assert await run.result() == [1, 2, 3]
    assert ([1, 2, 3] if grace else [1, 2, 2, 3]) == RAN


@workflow(name="local.fan_out")
async def fan_out(count: int) -> int:
    async def many(first: int) -> int:
        return await note(first) + await note(first)

    return sum(await asyncio.gather(*map(many, range(count))))


async def test_it_is_never_given_to_others(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"

    @activity(name="local.note", local=True)
    async def others(n: int) -> int:
        RAN.append("other's")
        return n

    async with (
        Engine(url, definitions=[fan_out, note], max_activities=2) as owner,
        Engine(url, definitions=[others]),
    ):
        await knows_others(owner)
        assert await owner.execute(fan_out(30)) == 2 * sum(range(30))
    assert len(RAN) == 60
    assert "other's" not in RAN


async def test_a_job_may_be_one(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    async with Engine(database) as engine:
        job = await engine.start_activity(note(5), id="job")
        assert await job.result() == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effect": "once"}, "effect of .* is 'once', but it is local: a crash runs"),
        ({"task_queue": "gpu"}, "task_queue of .* is 'gpu', but it is local"),
        ({"heartbeat_timeout": 5}, "heartbeat_timeout of .*: what takes so long"),
        ({"schedule_to_start_timeout": 5}, "it waits for no worker"),
        ({"priority": 1}, "it waits in no queue"),
        ({"fairness_key": "me"}, "it waits in no queue"),
        ({"run_in": "process"}, "run_in of .* is 'process', but it is local"),
        ({"auto_heartbeat": True}, "auto_heartbeat of .* is True, but it is local"),
        ({"local": "yes"}, "local of activity 'local.wrong' is 'yes', no bool"),
    ],
)
def test_what_needs_a_record_is_refused(options: dict[str, Any], said: str) -> None:
    def wrong() -> None:
        return None

    with pytest.raises(InvalidOptionError, match=said):
        activity(**{"name": "local.wrong", "local": True, **options})(wrong)


def test_a_call_may_be_local_and_another_not() -> None:
    assert local_kill.show.options(local=True).given_options["local"]
    with pytest.raises(InvalidOptionError, match="but it is local"):
        note.options(task_queue="gpu")


# --- what a crash leaves --------------------------------------------------------------


@pytest.mark.sweep(4)
@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("when", ["in", "after"])
async def test_nothing_is_seen_that_is_not_recorded(
    tmp_path: Path, number: int, when: str
) -> None:
    database, log = f"sqlite:///{tmp_path}/runs.db", tmp_path / "log"
    script = [local_kill.__file__, database, str(log), str(number), when]
    died = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=50,
        check=False,
    )
    assert died.returncode == -9
    local_kill.PLACE[:] = log, 0, "in"
    k = local_kill
    definitions = [k.run, k.child, k.mark, k.show]
    async with Engine(database, definitions=definitions) as engine:
        found = await (await engine.get("w", workflow=local_kill.run)).result()
    first, second, *_ = found
    lines = log.read_text().splitlines()
    shown = {line for line in lines if not line.startswith("mark")}
    assert shown == {f"activity {first}", f"child {second}"}
    died_at = lines[number - 1]
    ran = Counter(lines)
    for span in local_kill.SPANS:
        marks = [f"mark {n}" for n in span]
        again = sum(ran[mark] > 1 for mark in marks)
        assert max(ran[mark] for mark in marks) <= 2
        # What a later commit was for is there: only what followed ran again.
        assert not again or died_at in marks or not died_at.startswith("mark"), died_at

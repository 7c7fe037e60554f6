"""What follows on an attempt of which nobody knows what it has done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    Activity,
    ActivityError,
    ActivityNotFoundError,
    ActivityState,
    ApplicationError,
    DefinitionError,
    Done,
    Handle,
    NotDone,
    RetryPolicy,
    activity,
    activity_info,
    workflow,
)
from durable.api.definitions import ACTIVITIES
from durable.doctor.doctor import examine
from durable.errors import InvalidCallError, InvalidOptionError
from durable.testing import TestEnvironment
from tests.unit.cli.invoking import invoke

TWICE = RetryPolicy(max_attempts=2, initial_interval="1s", max_interval="1s")
CALLED: list[str] = []
VERDICTS: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    CALLED[:], VERDICTS[:] = [], []


async def hang(n: int) -> str:
    """Take too long at the first attempt."""
    CALLED.append(f"ran {activity_info().attempt}")
    if activity_info().attempt == 1:
        await asyncio.sleep(50)
    return f"{n} by attempt {activity_info().attempt}"


async def verify(n: int) -> object:
    CALLED.append(f"verified by {activity_info().attempt}")
    verdict = VERDICTS.pop(0)
    if isinstance(verdict, BaseException):
        raise verdict
    return verdict


def verify_plainly(n: int) -> object:
    CALLED.append(f"verified {activity_info().idempotency_key[-2:]}")
    return Done(f"{n} was done")


def define(name: str, **options: Any) -> Activity[[int], str]:
    options = {"start_to_close_timeout": 1, "retry": TWICE, **options}
    made: Activity[[int], str] = activity(name=f"effects.{name}", **options)(hang)
    return made


waits = define("waits", effect="once", in_doubt="wait")
raises = define("raises", effect="once")
repeats = define("repeats")
asks = define("asks", effect="once", verify=verify)
asks_plainly = define("asks_plainly", effect="once", verify=verify_plainly)
asks_then_waits = define(
    "asks_then_waits", effect="once", verify=verify, in_doubt="wait"
)
ALL = {
    one.name.rpartition(".")[2]: one
    for one in (waits, raises, repeats, asks, asks_plainly, asks_then_waits)
}


@workflow(name="effects.run")
async def run(name: str, queue: str = "default", whole: float | None = None) -> str:
    chosen = ALL[name].options(task_queue=queue, schedule_to_close_timeout=whole)
    try:
        return await chosen(7)
    except ActivityError as error:
        return f"{type(error).__name__} of attempt {error.attempt}: {error.__cause__}"


def home(database: str = "memory://", **options: Any) -> TestEnvironment:
    return TestEnvironment(
        database,
        definitions=[run, *ALL.values()],
        activity_queues={"gpu": 4},
        **options,
    )


QUEUES = pytest.mark.parametrize("queue", ["default", "gpu"])


async def in_doubt(env: TestEnvironment, name: str, queue: str) -> Handle[str]:
    handle = await env.start(run(name, queue), id="w")
    await env.sleep(20)
    (found,) = await handle.activities()
    assert found.state is ActivityState.IN_DOUBT
    assert found.last_failure is not None
    assert "nobody knows" in found.last_failure.message
    return handle


# --- whose time is up -----------------------------------------------------------------


@QUEUES
async def test_once_is_not_repeated_after_its_timeout(queue: str) -> None:
    async with home() as env:
        said = await env.execute(run("raises", queue))
        assert said.startswith("OutcomeUnknown of attempt 1")
        assert await env.execute(run("repeats", queue)) == "7 by attempt 2"
    assert CALLED == ["ran 1", "ran 1", "ran 2"]


@QUEUES
@pytest.mark.parametrize(
    ("verdicts", "said", "called"),
    [
        ([Done("found")], "found", ["verified by 2"]),
        ([NotDone()], "7 by attempt 2", ["verified by 2", "ran 2"]),
        (
            [ConnectionError("away"), Done("late")],
            "late",
            ["verified by 2", "verified by 3"],
        ),
        (
            [ConnectionError("away"), NotDone()],
            "7 by attempt 3",
            ["verified by 2", "verified by 3", "ran 3"],
        ),
    ],
)
async def test_what_verify_says_counts(
    queue: str, verdicts: list[Any], said: str, called: list[str]
) -> None:
    VERDICTS.extend(verdicts)
    policy = RetryPolicy(max_attempts=3, initial_interval=1)

    @workflow(name="effects.verified")
    async def verified() -> str:
        return await asks.options(task_queue=queue, retry=policy)(7)

    known = [verified, asks]
    async with TestEnvironment(definitions=known, activity_queues={"gpu": 1}) as env:
        assert await env.execute(verified()) == said
    assert ["ran 1", *called] == CALLED


@pytest.mark.parametrize("verdict", [ConnectionError("away"), "a text"])
async def test_a_verify_that_never_knows_leaves_it_in_doubt(verdict: object) -> None:
    VERDICTS.extend([verdict] * 4)
    async with home() as env:
        said = await env.execute(run("asks"))
        assert said.startswith("OutcomeUnknown of attempt 2")
        assert "could not tell" in said
        await in_doubt(env, "asks_then_waits", "gpu")
    assert CALLED.count("ran 1") == 2
    assert "ran 2" not in CALLED


async def test_a_plain_verify_has_the_key() -> None:
    async with home() as env:
        assert await env.execute(run("asks_plainly")) == "7 was done"
    assert CALLED == ["ran 1", "verified /1"]


# --- operators ------------------------------------------------------------------------


@QUEUES
@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Done("by hand"), "by hand"),
        (NotDone(), "7 by attempt 2"),
    ],
)
async def test_what_an_operator_says_counts_once(
    queue: str, verdict: Done[str] | NotDone, said: str
) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", queue)
        (found,) = await env.activities.list()
        assert found.in_doubt
        resolve = env.activities.resolve
        await resolve(verdict, workflow_id="w", activity_id="1")
        assert await handle.result() == said
        with pytest.raises(ActivityNotFoundError):
            await resolve(verdict, workflow_id="w", activity_id="1")


async def test_an_operator_lets_it_fail_for_good() -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", "default")
        with pytest.raises(InvalidCallError, match="says nothing"):
            await env.activities.resolve(
                "done",  # type: ignore[arg-type]  # that is the point
                workflow_id="w",
                activity_id="1",
            )
        await handle.fail_activity("1", ApplicationError("refunded", type="Refunded"))
        with pytest.raises(Exception, match="refunded"):
            await handle.result()
    assert CALLED == ["ran 1"]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda of: of.complete_activity("1", "given"), "given"),
        (lambda of: of.retry_activity("1"), "7 by attempt 2"),
    ],
)
async def test_handles_resolve_doubts_as_they_do_results(
    act: Callable[[Handle[str]], Any], said: str
) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", "default")
        await act(handle)
        assert await handle.result() == said


async def test_what_is_not_in_doubt_is_not_resolved() -> None:
    async with home(worker=False) as env:
        await env.start(run("waits", "gpu"), id="w")
        with pytest.raises(ActivityNotFoundError):
            await env.activities.resolve(NotDone(), workflow_id="w", activity_id="1")
    async with home(worker=True) as env:
        await env.start(run("waits", "elsewhere"), id="w")
        await env.settle()
        with pytest.raises(InvalidCallError, match="not in doubt: it is waiting"):
            await env.activities.resolve(NotDone(), workflow_id="w", activity_id="1")


@QUEUES
async def test_one_in_doubt_ends_with_its_run_and_its_time(queue: str) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", queue)
        await handle.cancel()
        with pytest.raises(Exception, match="cancel"):
            await handle.result()
        assert await env.activities.list() == []
        said = await env.execute(run("waits", queue, 30))
        assert said.startswith("ActivityTimeoutError")
    assert CALLED == ["ran 1", "ran 1"]


# --- a worker that stops --------------------------------------------------------------


@QUEUES
async def test_a_doubt_waits_for_an_operator_over_restarts_and_is_told_everywhere(
    tmp_path: Any, queue: str
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    patient = waits.options(task_queue=queue, start_to_close_timeout=60)

    @workflow(name="effects.patient")
    async def wait() -> str:
        return await patient(7)

    known = [wait, waits]
    options: Any = {"definitions": known, "activity_queues": {"gpu": 1}}
    async with TestEnvironment(url, drain_timeout="1ms", **options) as env:
        await env.start(wait(), id="w")
        await env.sleep(1)
    for _ in range(2):
        async with TestEnvironment(url, clock=env.clock, **options) as env:
            await env.settle()
            (found,) = await (await env.get("w")).activities()
            assert found.state is ActivityState.IN_DOUBT
            findings = [f async for f in examine(env._store, settle=0)]
            assert "in_doubt" in [f.check.value for f in findings]
    assert CALLED == ["ran 1"]
    where = ("--database", url)
    shown = await asyncio.to_thread(invoke, *where, "show", "w")
    assert "in doubt" in shown.output
    listed = await asyncio.to_thread(invoke, *where, "activity", "list")
    assert "in doubt" in listed.output
    wrong = await asyncio.to_thread(
        invoke, *where, "resolve", "w", "1", "--not-done", "--fail", "no"
    )
    assert wrong.exit_code == 2
    done = await asyncio.to_thread(
        invoke, *where, "resolve", "w", "1", "--result", '"by hand"'
    )
    assert done.exit_code == 0, done.output
    async with TestEnvironment(url, clock=env.clock, **options) as env:
        assert await (await env.get("w")).result() == "by hand"


# --- definitions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"effect": "twice"}, InvalidOptionError, "give 'read', 'idempotent', 'once'"),
        ({"effect": "once", "in_doubt": "ask"}, InvalidOptionError, "'raise', 'wait'"),
        ({"in_doubt": "wait"}, InvalidOptionError, "never in question"),
        ({"verify": verify}, InvalidOptionError, "ever verified"),
        ({"effect": "once", "verify": 3}, DefinitionError, "cannot be called"),
    ],
)
def test_what_means_nothing_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        activity(name="effects.no", **options)(hang)
    ACTIVITIES.pop("effects.no", None)

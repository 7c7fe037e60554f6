"""Closures as activities: where they run, how often, and what is kept of them."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from durable import (
    ActivityError,
    ApplicationError,
    Engine,
    NondeterminismError,
    OutcomeUnknown,
    QueryFailedError,
    RetryPolicy,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    activity_info,
    complete_later,
    heartbeat,
    in_workflow,
    set_query_handler,
    sleep,
    step,
    workflow,
)
from durable.api.activities.activity_context import get_context
from durable.api.activities.step import _digest  # pyright: ignore[reportPrivateUsage]  # what no user sees
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.store.queries import ListActivityTasks
from durable.testing.environment import TestEnvironment
from durable.testing.replaying import replay
from tests.integration import step_kill
from tests.integration.test_shared_activities import knows_others

ROOT = Path(__file__).parents[2]
RAN: list[Any] = []
SWITCH: dict[str, Any] = {}
GATE: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    SWITCH.clear()
    GATE[:] = [asyncio.Event()]


@dataclass
class Answer:
    text: str


@activity(name="steps.same_name")
async def same_name() -> str:
    return "the activity's"


@workflow(name="steps.kinds")
async def kinds(n: int) -> list[Any]:
    word = "seen"

    async def on_loop() -> Answer:
        RAN.append(("loop", activity_info().activity_type, in_workflow()))
        return Answer(f"{word} {n}")

    def in_thread() -> tuple[int, str]:
        RAN.append(("thread", activity_info().attempt, in_workflow()))
        return n, word

    return [
        (await step("ask", on_loop)).text,
        list(await step("think", in_thread)),
        await step("plain", lambda: {"n": n}),
        (await step("typed", lambda: Answer("yes"), returns=Answer)).text,
        await step("bound", functools.partial(on_loop)) == Answer(f"seen {n}"),
        await step("steps.same_name", lambda: "the step's"),
        await same_name(),
    ]


KINDS = ["seen 3", [3, "seen"], {"n": 3}, "yes", True, "the step's", "the activity's"]


async def test_a_step_gives_what_its_closure_returns_by_its_annotation(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(kinds(3), id="w")
        assert await run.result() == KINDS
        told = await run.history()
    assert replay(told, [kinds, same_name]).terminal is not None  # and runs none
    assert RAN == [
        ("loop", "ask", False),
        ("thread", 1, False),
        ("loop", "bound", False),
    ]


@workflow(name="steps.patient")
async def patient(n: int) -> int:
    total = 0
    for number in range(n):

        async def body(number: int = number) -> int:
            RAN.append((number, activity_info().attempt))
            if activity_info().attempt == 1:
                heartbeat(number)
                raise RuntimeError("not yet")
            assert activity_info().heartbeat_details == (number,)
            return number

        retry = RetryPolicy(initial_interval="1h", max_interval="1h")
        total += await step("count", body, retry=retry)
        await sleep("1h")
    return total


async def test_a_step_that_waits_for_its_next_attempt_outlives_its_worker(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        await env.start(patient(3), id="w")
        await env.sleep("30m")
    assert RAN == [(0, 1)]
    async with TestEnvironment(database, clock=env.clock, max_cached_runs=1) as env:
        runs = [await env.start(patient(2), id=f"w{n}") for n in range(3)]
        assert await (await env.get("w", workflow=patient)).result() == 3
        assert [await run.result() for run in runs] == [1, 1, 1]
    assert sorted(RAN) == sorted(
        [(n, a) for n in (0, 1, 2) for a in (1, 2)]
        + [(n, a) for n in (0, 1) for a in (1, 2)] * 3
    )


@workflow(name="steps.fan_out")
async def fan_out(count: int) -> int:
    def body(n: int) -> Callable[[], Any]:
        async def gated() -> int:
            RAN.append(get_context("who").resources["who"])
            await asyncio.sleep(0.01)
            return n

        return gated

    calls = [step("steps.same_name", body(n), returns=int) for n in range(count)]
    return sum(await asyncio.gather(*calls))


async def test_a_step_is_never_offered_to_others(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"

    def worker(who: str, *definitions: Any) -> Engine:
        return Engine(
            url,
            definitions=[same_name, *definitions],
            resources={"who": who},
            max_activities=2,
        )

    async with worker("owner", fan_out) as owner, worker("other"):
        await knows_others(owner)
        run = await owner.start(fan_out(30))
        waiting = owner._client.store.read(ListActivityTasks("default"))  # type: ignore[union-attr]  # it is open
        assert await waiting == []
        assert await run.result() == sum(range(30))
    assert RAN == ["owner"] * 30


@workflow(name="steps.keyed")
async def keyed() -> str:
    answer: str = await step("ask", lambda: "first", **SWITCH)
    await sleep("1d")
    return answer


def test_keys_that_say_the_same_are_one() -> None:
    def same(left: object, right: object) -> bool:
        return _digest("x", left) == _digest("x", right)

    assert same({"a": 1, "b": [2]}, {"b": [2], "a": 1})
    assert same({1, 2, 3}, {3, 1, 2})
    assert same(Answer("x"), {"text": "x"})
    assert not same(["a"], ["b"])
    assert not same("1", 1)
    assert not same(None, "")


@pytest.mark.parametrize("later", [{"key": ["prompt", 2]}, {}], ids=["other", "none"])
async def test_a_replay_with_another_key_is_refused_with_both(
    database: str, later: dict[str, Any]
) -> None:
    SWITCH["key"] = ["prompt", 1]
    async with TestEnvironment(database) as env:
        run = await env.start(keyed(), id="w")
        await env.sleep("1h")
        history = await run.history()
    SWITCH.clear()
    SWITCH.update(later)
    with pytest.raises(NondeterminismError) as refused:
        replay(history, [keyed])
    text = str(refused.value)
    assert "the key (recorded sha256:" in text
    assert ("now sha256:" in text) == bool(later)
    assert ("now none" in text) == (not later)
    SWITCH.clear()
    SWITCH["key"] = ["prompt", 1]
    async with TestEnvironment(database, clock=env.clock) as env:
        assert await (await env.get("w", workflow=keyed)).result() == "first"


@workflow(name="steps.unrecorded")
async def unrecorded() -> str:
    def body() -> Any:
        RAN.append("body")
        return Answer("kept")

    answer: Any = await step("ask", body, **SWITCH)
    return str(answer.text)


async def test_a_result_that_is_no_plain_data_is_kept_for_code_that_names_its_type(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(unrecorded(), id="w")
        with pytest.raises(WorkflowStuckError, match="Answer"):
            await run.result()
    SWITCH["returns"] = Answer
    async with TestEnvironment(database, clock=env.clock) as env:
        assert await (await env.get("w", workflow=unrecorded)).result() == "kept"
    assert RAN == ["body"]


@workflow(name="steps.wrong")
async def wrong(kind: str) -> str:
    async def later() -> Any:
        return (await complete_later()).outcome

    def takes(n: int) -> int:
        return n

    def unknown() -> int:
        return 1

    unknown.__annotations__["return"] = "Nowhere"

    steps: dict[str, Callable[[], Any]] = {
        "takes": lambda: step("a", takes),  # type: ignore[arg-type]  # that is the test
        "no call": lambda: step("a", 5),  # type: ignore[call-overload]  # that is the test
        "queue": lambda: step("a", lambda: 1, task_queue="gpu"),
        "effect": lambda: step("a", lambda: 1, effect="transaction"),
        "verify": lambda: step("a", lambda: 1, verify=print),  # type: ignore[call-overload]  # that is the test
        "key": lambda: step("a", lambda: 1, key=object()),
        "name": lambda: step("", lambda: 1),
        "annotation": lambda: step("a", unknown),
        "later": lambda: step("a", later, retry=None),
        "fails": lambda: step("a", lambda: 1 // 0, retry=None),
    }
    try:
        return str(await steps[kind]())
    except ActivityError as error:
        raise ApplicationError(f"{error}: {error.__cause__}") from None
    except (InvalidCallError, InvalidOptionError, DefinitionError) as error:
        raise ApplicationError(f"{type(error).__name__}: {error}") from None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("takes", "The body of step 'a' cannot be called without arguments: missing"),
        ("no call", "The body of step 'a' is a int, which cannot be called"),
        ("queue", "task_queue was given to step 'a': it runs in the process"),
        ("effect", "effect of step 'a' is 'transaction': its body takes nothing"),
        ("key", "The key of step 'a' is a object, which is no plain data"),
        ("name", "DefinitionError: "),
        ("annotation", "what step 'a' returns cannot be resolved"),
        ("later", "complete_later.. was called in step 'a'"),
        ("fails", "integer division"),
        ("verify", "verify was given to step 'a': what a closure has done"),
    ],
)
async def test_a_step_that_cannot_be_is_refused_in_words(kind: str, said: str) -> None:
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as failed:
            await env.execute(wrong(kind))
    found = str(failed.value.__cause__)
    assert re.search(said, found), found


async def test_options_and_keys_of_steps_are_checked_without_a_workflow_too() -> None:
    with pytest.raises(InvalidOptionError, match="did you mean 'retry'"):
        await step("a", lambda: 1, rety=None)  # type: ignore[call-overload]  # that is the test
    with pytest.raises(InvalidCallError, match="no plain data"):
        await step("a", lambda: 1, key=object())


async def test_a_body_of_a_test_stands_in_for_that_of_a_step() -> None:
    fakes: dict[str, Callable[[], Any]] = {
        "ask": lambda: Answer("fake"),
        "think": lambda: (7, "fake"),
    }
    async with TestEnvironment(steps=fakes) as env:
        found = await env.execute(kinds(3))
    assert found[:3] == ["fake", [7, "fake"], {"n": 3}]


async def test_outside_of_a_workflow_the_body_simply_runs() -> None:
    async def body() -> Answer:
        return Answer("async")

    assert await step("a", body) == Answer("async")
    assert await step("a", lambda: Answer("plain")) == Answer("plain")


@workflow(name="steps.cut")
async def cut(*, once: bool) -> int:
    async def body() -> int:
        RAN.append(activity_info().attempt)
        GATE[0].set()
        if activity_info().attempt == 1:
            await asyncio.sleep(3_600)
        return activity_info().attempt

    effect: Literal["once", "idempotent"] = "once" if once else "idempotent"
    return await step("cut", body, effect=effect, start_to_close_timeout="2h")


@pytest.mark.parametrize("once", [False, True])
async def test_a_step_that_was_cut_short_is_in_doubt(database: str, once: bool) -> None:
    async with TestEnvironment(database, drain_timeout=0) as env:
        await env.start(cut(once=once), id="w")
        await GATE[0].wait()
    async with TestEnvironment(database, clock=env.clock) as env:
        result = (await env.get("w", workflow=cut)).result()
        if once:
            with pytest.raises(WorkflowFailedError) as failed:
                await result
            assert isinstance(failed.value.__cause__, OutcomeUnknown | ActivityError)
            assert RAN == [1]
        else:
            assert await result == 2
            assert RAN == [1, 2]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_whoever_takes_over_is_handed_the_closure_again(
    tmp_path: Path, number: int
) -> None:
    database, log = f"sqlite:///{tmp_path}/runs.db", tmp_path / "log"
    script = [step_kill.__file__, database, str(log), str(number)]
    died = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=50,
        check=False,
    )
    assert died.returncode == -9
    step_kill.PLACE[:] = log, 0
    async with Engine(database, definitions=[step_kill.run]) as engine:
        found = await (await engine.get("w", workflow=step_kill.run)).result()
    assert found == [f"done {n}" for n in range(4)]
    ran = Counter(line.split()[0] for line in log.read_text().splitlines())
    doubtful = {"1", "2"} if number == 3 else {str(number - 1)}
    # Of two that were under way both are in doubt; all others ran once.
    assert all(ran[str(n)] == 1 for n in range(4) if str(n) not in doubtful)
    assert all(ran[n] == 2 for n in doubtful if n == str(number - 1))


LIVES: list[object] = []


@workflow(name="steps.read_again")
async def read_again() -> bool:
    life = object()
    LIVES.append(life)

    woken = asyncio.Event()
    waiting = asyncio.ensure_future(woken.wait())

    def harm() -> None:
        woken.set()

    set_query_handler("harm", harm)

    async def body() -> bool:
        if activity_info().attempt == 1:
            raise RuntimeError("not yet")
        return life is LIVES[-1]

    found = await step("late", body, retry=RetryPolicy(initial_interval="30s"))
    waiting.cancel()
    return found


async def test_a_run_that_is_read_again_hands_its_newest_closure_over() -> None:
    LIVES.clear()
    async with TestEnvironment() as env:
        run = await env.start(read_again())
        await env.sleep(1)
        with pytest.raises(QueryFailedError):
            await run.query("harm")
        assert await run.result()
    assert len(LIVES) == 2

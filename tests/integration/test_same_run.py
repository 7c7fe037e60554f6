"""An id is an idempotency key: the same start again is the same run."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    IdConflictPolicy,
    IdReusePolicy,
    RunStatus,
    Signal,
    SyncEngine,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    checkpoint,
    continue_as_new,
    sleep,
    wait_condition,
    workflow,
)
from durable.core.history.events import WorkflowExecutionSignaled
from durable.errors import InvalidOptionError
from durable.testing.environment import TestEnvironment

CHARGED: list[str] = []
go_on = Signal("same.go_on", str)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CHARGED.clear()


@activity(name="same.charge")
async def charge(order: str) -> str:
    CHARGED.append(order)
    return f"receipt-{order}"


@workflow(name="same.place")
async def place(order: str, cents: int = 5, *more: int) -> str:
    return f"{await charge(order)} for {cents + sum(more)}"


@workflow(name="same.refund")
async def refund(order: str, cents: int) -> str:
    return f"{order} {cents}"


@dataclass
class Basket:
    owner: str
    tags: set[str]
    note: str = ""
    sizes: dict[str, int] = field(default_factory=dict[str, int])


@workflow(name="same.pack")
async def pack(basket: Basket) -> str:
    return basket.owner


@workflow(name="same.fail")
async def fail(reason: str) -> None:
    raise RuntimeError(reason)


@workflow(name="same.wait")
async def wait(name: str) -> str:
    await wait_condition(lambda: False)
    return name


@workflow(name="same.count")
async def count(left: int, wanted: str = "sum") -> str:
    """A chain whose later runs have other arguments than the first."""
    await sleep(60)
    if left:
        continue_as_new(count(left - 1, "product"))
    return wanted


@workflow(name="same.listen")
async def listen(name: str) -> str:
    return await go_on.receive()


@workflow(name="same.gather_all")
async def gather_all(wanted: int) -> list[str]:
    return [await go_on.receive() for _ in range(wanted)]


@workflow(name="same.mark")
async def mark(name: str) -> str:
    for _ in range(4):
        await sleep(60)
        checkpoint()
    return name


async def runs_of(env: Any, workflow_id: str) -> int:
    return len(await env.list(workflow_id=workflow_id))


# --- the run --------------------------------------------------------------------------


async def test_the_same_start_again_is_the_run_and_its_result(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(place("42", 7), id="order")
        running = await env.start(place("42", 7), id="order")
        assert await first.result() == "receipt-42 for 7"
        closed = await env.start(place("42", 7), id="order")
        assert await env.execute(place("42", 7), id="order") == "receipt-42 for 7"
        assert {first.run_id} == {running.run_id, closed.run_id}
        assert (first.is_new, running.is_new, closed.is_new) == (True, False, False)
        assert await running.result() == await closed.result() == "receipt-42 for 7"
        assert await runs_of(env, "order") == 1
    assert CHARGED == ["42"]


async def test_a_program_started_again_gets_the_recorded_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = f"sqlite:///{tmp_path / 'shop.db'}"
    results: list[str] = []
    caplog.set_level(logging.INFO, "durable.client")
    for _ in range(3):
        async with Engine(database) as engine:
            results.append(await engine.execute(place("42"), id="order"))
            await engine.execute(place("42"), id="order")
    assert results == ["receipt-42 for 5"] * 3
    assert CHARGED == ["42"]
    # One line for each start that found a run older than its engine, none for others.
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4
    assert all("'order'" in line and "ended as completed" in line for line in told)


def test_sync_programs_started_again_get_it_too(tmp_path: Path) -> None:
    for _ in range(2):
        with SyncEngine(tmp_path / "shop.db") as engine:
            handle = engine.start(place("42"), id="order")
            assert handle.result() == "receipt-42 for 5"
            assert engine.execute(place("42"), id="order") == "receipt-42 for 5"
    assert not handle.is_new
    assert CHARGED == ["42"]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("fail", WorkflowFailedError),
        ("cancel", WorkflowCancelledError),
        ("terminate", WorkflowTerminatedError),
        ("time out", WorkflowTimedOutError),
    ],
)
async def test_a_run_that_did_not_complete_is_the_run_and_says_how_to_run_again(
    how: str, error: type[WorkflowFailedError], database: str
) -> None:
    call: Any = fail("no") if how == "fail" else wait("x")
    async with TestEnvironment(database) as env:
        timeout = "1m" if how == "time out" else None
        first = await env.start(call, id="w", run_timeout=timeout)
        if how == "cancel":
            await first.cancel()
        elif how == "terminate":
            await first.terminate()
        with pytest.raises(error) as raised:
            await first.result()
        assert "id_reuse" not in str(raised.value)

        again = await env.start(call, id="w")
        assert again.run_id == first.run_id
        with pytest.raises(error, match='id_reuse="after_failure"'):
            await again.result()
        other = await env.start(call, id="w", id_reuse="after_failure")
        assert other.run_id != first.run_id


async def test_after_failure_keeps_what_completed(database: str) -> None:
    async with TestEnvironment(database) as env:
        for _ in range(3):
            done = env.execute(place("42"), id="order", id_reuse="after_failure")
            assert await done == "receipt-42 for 5"
    assert CHARGED == ["42"]


async def test_a_new_run_is_to_be_had_by_asking_for_it(database: str) -> None:
    async with TestEnvironment(database) as env:
        for _ in range(2):
            await env.execute(place("42"), id="order", id_reuse="new_run")
        assert await runs_of(env, "order") == 2
        waiting = await env.start(wait("x"), id="w", id_reuse="new_run")
        assert (await env.start(wait("x"), id="w", id_reuse="new_run")).run_id == (
            waiting.run_id
        )


# --- not the run ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "differs"),
    [
        (place("secret", 7), "argument 1 ('order') differs"),
        (place("42", 8), "argument 2 ('cents') differs"),
        (place("42"), "argument 2 ('cents') differs"),
        (place("42", 7, 1), "argument 3 differs"),
        (place("secret", 8), "argument 1 ('order'), argument 2 ('cents') differ"),
        (refund("42", 7), "'same.refund'"),
    ],
    ids=["first", "second", "missing", "surplus", "both", "workflow"],
)
@pytest.mark.parametrize("is_open", [True, False])
async def test_another_call_under_the_id_is_refused_and_the_difference_named(
    call: Any, differs: str, is_open: bool, database: str
) -> None:
    async with TestEnvironment(database, worker=not is_open) as env:
        first = await env.start(place("42", 7), id="order")
        if not is_open:
            await first.result()
        with pytest.raises(WorkflowAlreadyStartedError) as refusal:
            await env.start(call, id="order")
        text = str(refusal.value)
        assert differs in text
        assert refusal.value.run_id == first.run_id
        assert 'on_conflict="use_existing"' in text
        asking = 'on_conflict="terminate_existing"' if is_open else 'id_reuse="new_run"'
        assert asking in text
        # Never a value.
        assert "'42'" not in text
        assert "secret" not in text
        taken = await env.start(call, id="order", on_conflict="use_existing")
        assert taken.run_id == first.run_id
        assert await runs_of(env, "order") == 1


async def test_arguments_are_compared_as_the_code_reads_them(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(pack(Basket("ada", {"a", "b", "c"})), id="b")
        plain = {"tags": ["c", "b", "a"], "owner": "ada"}
        again = await env.start("same.pack", plain, id="b")
        assert again.run_id == first.run_id
        defaults = await env.start(place("42"), id="order")
        written_out = await env.start(place("42", 5), id="order")
        assert written_out.run_id == defaults.run_id
        with pytest.raises(WorkflowAlreadyStartedError, match=r"argument 1 \('basket'"):
            await env.start(pack(Basket("ada", {"a"})), id="b")


async def test_arguments_are_compared_without_the_code(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'shop.db'}"
    async with Engine(database, definitions=[refund], worker=False) as engine:
        first = await engine.start("elsewhere", {"b": 1, "a": [2.0]}, id="w")
        again = await engine.start("elsewhere", {"a": [2.0], "b": 1}, id="w")
        assert again.run_id == first.run_id
        with pytest.raises(WorkflowAlreadyStartedError, match="argument 2 differs"):
            await engine.start("elsewhere", {"a": [2.0], "b": 1}, None, id="w")


async def test_on_conflict_fail_fails_for_open_and_closed_runs(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(wait("x"), id="w", on_conflict="fail")
        for _ in range(2):
            with pytest.raises(WorkflowAlreadyStartedError) as refusal:
                await env.start(wait("x"), id="w", on_conflict="fail")
            assert refusal.value.run_id == first.run_id
            if (await first.describe()).status is RunStatus.RUNNING:
                await first.terminate()
        assert 'id_reuse="new_run"' in str(refusal.value)


@pytest.mark.parametrize("word", ["use_sam", "new run", "", 5, True])
async def test_words_that_are_no_policy_are_refused(word: Any) -> None:
    async with Engine("memory://") as engine:
        for name in ("on_conflict", "id_reuse"):
            with pytest.raises(InvalidOptionError, match=name):
                await engine.start(place("42"), id="w", **{name: word})
        assert await engine.list() == []


def test_policies_have_words() -> None:
    assert IdReusePolicy("new_run") is IdReusePolicy.ALLOW_DUPLICATE
    assert IdReusePolicy("after_failure") is IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    assert IdReusePolicy("never") is IdReusePolicy.REJECT_DUPLICATE
    assert IdConflictPolicy("use_same") is IdConflictPolicy.USE_SAME
    with pytest.raises(ValueError, match="sometimes"):
        IdReusePolicy("sometimes")


# --- chains, checkpoints --------------------------------------------------------------


@pytest.mark.parametrize("passed", ["90s", "10m"])
async def test_of_a_chain_counts_what_it_began_with(passed: str, database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(count(2), id="chain")
        await env.sleep(passed)
        assert await runs_of(env, "chain") > 1
        again = await env.start(count(2), id="chain")
        assert again.run_id == (await first.describe()).run_id
        with pytest.raises(WorkflowAlreadyStartedError, match=r"1 \('left'\)"):
            await env.start(count(1, "product"), id="chain")
        assert await again.result() == "product"


async def test_of_a_run_with_checkpoints_counts_what_it_began_with(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(mark("x"), id="w")
        await env.sleep("150s")
        assert (await env.start(mark("x"), id="w")).run_id == first.run_id
        with pytest.raises(WorkflowAlreadyStartedError, match="'name'"):
            await env.start(mark("y"), id="w")


# --- at once --------------------------------------------------------------------------


async def test_many_starts_at_once_are_one_run_and_all_get_it(database: str) -> None:
    async with TestEnvironment(database) as env:
        answers = await asyncio.gather(
            *(env.execute(place("42"), id="order") for _ in range(50))
        )
        assert answers == ["receipt-42 for 5"] * 50
    assert CHARGED == ["42"]


async def test_two_engines_that_start_at_once_start_one_run(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Engine(path) as one, Engine(path) as two:
        for turn in range(20):
            same = await asyncio.gather(
                *(e.execute(place("42"), id=f"same-{turn}") for e in (one, two))
            )
            assert same == ["receipt-42 for 5"] * 2
            answers = await asyncio.gather(
                one.start(place("42", 1), id=f"other-{turn}"),
                two.start(place("42", 2), id=f"other-{turn}"),
                return_exceptions=True,
            )
            refused = [a for a in answers if isinstance(a, WorkflowAlreadyStartedError)]
            assert len(refused) == 1
            assert "argument 2 ('cents') differs" in str(refused[0])
        assert len(await one.list()) == 40


# --- with messages --------------------------------------------------------------------


async def test_a_signal_goes_along_to_the_run_that_is_the_same(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(listen("x"), id="w")
        again = await env.start(listen("x"), id="w", with_signal=go_on("now"))
        assert again.run_id == first.run_id
        assert await again.result() == "now"


async def test_a_signal_never_reaches_a_run_that_is_another(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(listen("x"), id="w")
        with pytest.raises(WorkflowAlreadyStartedError, match="'name'"):
            await env.start(listen("y"), id="w", with_signal=go_on("now"))
        await env.settle()
        kinds = [type(event.attributes) for event in await first.history()]
        assert WorkflowExecutionSignaled not in kinds


async def test_a_signal_that_nobody_can_take_is_an_error(database: str) -> None:
    async with TestEnvironment(database) as env:
        how: dict[str, Any] = {"id": "w", "with_signal": go_on("now")}
        first = await env.start(listen("x"), **how, request_id="r")
        assert await first.result() == "now"
        with pytest.raises(WorkflowAlreadyStartedError, match="takes no more messages"):
            await env.start(listen("x"), **how)
        # The same request had its signal already.
        assert (await env.start(listen("x"), **how, request_id="r")).run_id == (
            first.run_id
        )
        other = await env.start(listen("x"), **how, on_conflict="use_existing")
        assert other.run_id != first.run_id
        assert await other.result() == "now"


async def test_signals_of_starts_at_once_all_arrive(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Engine(path) as one, Engine(path) as two:
        handles = await asyncio.gather(
            *(
                engine.start(gather_all(10), id="w", with_signal=go_on(str(number)))
                for number, engine in enumerate([one, two] * 5)
            )
        )
        assert sum(handle.is_new for handle in handles) == 1
        assert sorted(await handles[0].result()) == [str(n) for n in range(10)]


async def test_a_start_repeated_by_its_request_signals_once(database: str) -> None:
    async with TestEnvironment(database) as env:
        for _ in range(3):
            run = await env.start(
                gather_all(2), id="w", request_id="r", with_signal=go_on("once")
            )
        await env.settle()
        await run.signal(go_on("other"))
        assert await run.result() == ["once", "other"]


# --- request ids ----------------------------------------------------------------------


async def test_a_request_id_given_again_for_something_else_is_logged(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(place("42"), id="order", request_id="r")
        again = await env.start(place("42"), request_id="r")
        assert (again.run_id, again.workflow_id) == (first.run_id, "order")
        assert not caplog.records
        other = await env.start(place("secret"), request_id="r")
        assert other.run_id == first.run_id
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'r'" in line
    assert "argument 1 ('order') differs" in line
    assert "secret" not in line

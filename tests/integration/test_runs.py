"""Starting, finding, listing and ending runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Engine,
    IdConflictPolicy,
    IdReusePolicy,
    InvalidInputError,
    ResultTimeoutError,
    RunStatus,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    continue_as_new,
    info,
    sleep,
    start_child,
    wait_condition,
    workflow,
)
from durable.core.history.events import (
    TERMINAL_EVENTS,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
)
from durable.testing.environment import TestEnvironment


@dataclass
class Order:
    id: int
    tags: list[str]


@activity
async def double(value: int) -> int:
    return 2 * value


@workflow
async def quadruple(value: int) -> int:
    return await double(await double(value))


@workflow
async def for_ever() -> None:
    await wait_condition(lambda: False)


@workflow
async def nap(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


@workflow
async def refuse(reason: str) -> None:
    raise ApplicationError(reason, {"code": 7}, type="Refused")


@workflow
async def echo(order: Order, *, gift: bool = False) -> tuple[Order, bool]:
    return order, gift


@workflow(version="2.1.0", run_timeout="1h")
async def about() -> dict[str, Any]:
    run = info()
    return {
        "id": run.workflow_id,
        "version": run.version,
        "queue": run.task_queue,
        "timeout": run.run_timeout,
    }


async def terminal_events(env: TestEnvironment, workflow_id: str) -> list[str]:
    run = await env.get(workflow_id)
    return [
        type(event.attributes).__name__
        for event in await run.history()
        if isinstance(event.attributes, TERMINAL_EVENTS)
    ]


async def test_execute_returns_the_typed_result(database: str) -> None:
    async with TestEnvironment(database) as env:
        assert await env.execute(quadruple(3)) == 12
        order = Order(1, ["a", "b"])
        assert await env.execute(echo(order, gift=True)) == (order, True)


async def test_a_started_run_is_durable_when_start_returns(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(for_ever(), id="w")
        events = await run.history()
        assert isinstance(events[0].attributes, WorkflowExecutionStarted)
        assert (await run.describe()).status is RunStatus.RUNNING


async def test_get_finds_the_newest_run_and_reads_its_result(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(quadruple(1), id="w")
        await first.result()
        second = await env.start(quadruple(2), id="w", id_reuse="new_run")
        found = await env.get("w", workflow=quadruple)
        assert found.run_id == second.run_id
        assert await found.result() == 8
        older = await env.get("w", run_id=first.run_id)
        assert await older.result() == 4


async def test_an_unknown_id_is_not_found(database: str) -> None:
    async with TestEnvironment(database) as env:
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await env.get("nobody")


async def test_an_open_id_is_refused_unless_told_otherwise(database: str) -> None:
    async with TestEnvironment(database) as env:
        first = await env.start(for_ever(), id="w")
        with pytest.raises(WorkflowAlreadyStartedError) as refusal:
            await env.start(for_ever(), id="w", on_conflict="fail")
        assert refusal.value.run_id == first.run_id
        same = await env.start(
            for_ever(), id="w", on_conflict=IdConflictPolicy.USE_EXISTING
        )
        assert same.run_id == first.run_id
        other = await env.start(
            for_ever(), id="w", on_conflict=IdConflictPolicy.TERMINATE_EXISTING
        )
        assert other.run_id != first.run_id
        with pytest.raises(WorkflowTerminatedError):
            await first.result()
        assert (await other.describe()).status is RunStatus.RUNNING


@pytest.mark.parametrize(
    ("policy", "after_success", "after_failure"),
    [
        (IdReusePolicy.ALLOW_DUPLICATE, True, True),
        (IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, False, True),
        (IdReusePolicy.REJECT_DUPLICATE, False, False),
    ],
)
async def test_row_24_the_id_of_a_closed_run_is_used_again_by_policy(
    policy: IdReusePolicy, after_success: bool, after_failure: bool
) -> None:
    async with TestEnvironment() as env:
        await env.execute(quadruple(1), id="good")
        with pytest.raises(WorkflowFailedError):
            await env.execute(refuse("no"), id="bad")
        for workflow_id, allowed in (("good", after_success), ("bad", after_failure)):
            if allowed:
                assert (
                    await env.execute(quadruple(1), id=workflow_id, id_reuse=policy)
                    == 4
                )
            else:
                with pytest.raises(WorkflowAlreadyStartedError):
                    await env.start(
                        quadruple(1),
                        id=workflow_id,
                        on_conflict="fail",
                        id_reuse=policy,
                    )


async def test_the_same_request_id_starts_one_run(database: str) -> None:
    async with TestEnvironment(database) as env:
        runs = await asyncio.gather(
            *(env.start(quadruple(1), id="w", request_id="r") for _ in range(20))
        )
        assert len({run.run_id for run in runs}) == 1
        assert await runs[0].result() == 4
        again = await env.start(quadruple(1), id="w", request_id="r")
        assert again.run_id == runs[0].run_id
        assert len(await env.list()) == 1


async def test_fifty_starts_of_one_id_give_one_run_and_fifty_answers(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        answers = await asyncio.gather(
            *(env.start(for_ever(), id="w", on_conflict="fail") for _ in range(50)),
            return_exceptions=True,
        )
        started = [a for a in answers if not isinstance(a, BaseException)]
        refused = [a for a in answers if isinstance(a, WorkflowAlreadyStartedError)]
        assert (len(started), len(refused)) == (1, 49)
        assert {r.run_id for r in refused} == {started[0].run_id}


async def test_a_failure_reaches_the_caller_with_its_cause(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(refuse("too late"), id="w")
        with pytest.raises(WorkflowFailedError, match="Refused: too late") as failed:
            await run.result()
        cause = failed.value.__cause__
        assert isinstance(cause, ApplicationError)
        assert (cause.type, cause.details) == ("Refused", ({"code": 7},))
        assert await terminal_events(env, "w") == ["WorkflowExecutionFailed"]


async def test_a_result_timeout_says_nothing_about_the_run() -> None:
    async with TestEnvironment() as env:
        run = await env.start(nap(60), id="w")
        with pytest.raises(ResultTimeoutError, match="goes on"):
            await run.result(timeout="10s")
        assert await run.result() == "awake"


async def test_termination_closes_at_once_and_runs_no_code(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(for_ever(), id="w")
        await run.terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await run.result()
        last = (await run.history())[-1].attributes
        assert isinstance(last, WorkflowExecutionTerminated)
        with pytest.raises(WorkflowClosedError):
            await run.terminate()
        with pytest.raises(WorkflowClosedError):
            await run.cancel()


async def test_cancelling_a_waiting_run_ends_it_as_cancelled(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(for_ever(), id="w")
        await run.cancel("changed my mind")
        with pytest.raises(WorkflowCancelledError):
            await run.result()
        assert (await run.describe()).status is RunStatus.CANCELLED
        assert await terminal_events(env, "w") == ["WorkflowExecutionCanceled"]


@pytest.mark.parametrize("option", ["run_timeout", "execution_timeout"])
async def test_a_run_that_passes_its_timeout_is_closed_without_code(
    database: str, option: str
) -> None:
    async with TestEnvironment(database) as env:
        options: dict[str, Any] = {option: "2h"}
        run = await env.start(for_ever(), id="w", **options)
        started = env.clock.now()
        with pytest.raises(WorkflowTimedOutError, match=option):
            await run.result()
        assert env.clock.now() - started >= 2 * 3_600 * 1_000_000
        assert await terminal_events(env, "w") == ["WorkflowExecutionTimedOut"]


async def test_info_tells_the_options_of_the_run() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(about(), id="w") == {
            "id": "w",
            "version": "2.1.0",
            "queue": "default",
            "timeout": 3_600_000_000,
        }


async def test_list_filters_and_pages_newest_first(database: str) -> None:
    async with TestEnvironment(database) as env:
        for number in range(5):
            await env.execute(quadruple(number), id=f"w{number}")
            await env.sleep(1)
        await env.start(for_ever(), id="open")
        assert [run.workflow_id for run in await env.list(limit=3)] == [
            "open",
            "w4",
            "w3",
        ]
        closed = await env.list(status=RunStatus.COMPLETED)
        assert len(closed) == 5
        older = await env.list(started_before=closed[1].started_at)
        assert [run.workflow_id for run in older] == ["w2", "w1", "w0"]
        assert [r.workflow_id for r in await env.list(workflow_type="for_ever")] == [
            "open"
        ]


async def test_two_namespaces_in_one_database_do_not_meet(database: str) -> None:
    async with TestEnvironment(database, namespace="a") as env:
        await env.execute(quadruple(1), id="w")
    async with TestEnvironment(database, namespace="b", clock=env.clock) as other:
        assert await other.list() == []
        with pytest.raises(WorkflowNotFoundError):
            await other.get("w")


async def test_a_run_may_be_started_by_name_without_its_code(database: str) -> None:
    async with TestEnvironment(database, worker=False) as client:
        await client.start("quadruple", 5, id="w")
        assert (await client.get("w")).workflow_id == "w"
    async with TestEnvironment(database, clock=client.clock) as env:
        run = await env.get("w", workflow=quadruple)
        assert await run.result() == 20


poke = Signal("runs.poke", str)


@workflow(name="runs.hop")
async def hop(times: int) -> str:
    if times:
        continue_as_new(hop(times - 1))
    return f"got {await poke.receive()}"


@workflow(name="runs.starter")
async def starter(times: int) -> str:
    child = await start_child(hop(times), id="child")
    await child.signal(poke("it"))
    return await child


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_child_has_started_whatever_its_first_turn_did(times: int) -> None:
    async with TestEnvironment() as env:
        assert await env.execute(starter(times), id="w") == "got it"


ODD_ARGUMENTS: list[dict[str, Any]] = [
    {"status": "finished"},
    {"status": 1},
    {"workflow_type": 1},
    {"workflow_type": ["quadruple"]},
    {"workflow_id": b"w"},
    {"workflow_id": ""},
    {"stuck": 1},
    {"stuck": "no"},
    {"limit": "3"},
    {"limit": 3.0},
    {"limit": True},
    {"limit": None},
    {"limit": 0},
    {"limit": 1_001},
    {"started_before": 0},
    {"started_before": "2025-01-01"},
    {"started_before": datetime(2025, 1, 1)},  # noqa: DTZ001 - the fault under test
    {"after": 5},
    {"after": ""},
    {"after": "5"},
    {"after": "x.y"},
    {"after": "5."},
    {"after": "5.\n"},
]


@pytest.mark.parametrize("where", ODD_ARGUMENTS, ids=str)
async def test_a_listing_refuses_odd_arguments_by_type(where: dict[str, Any]) -> None:
    async with Engine("memory://") as engine:
        with pytest.raises(InvalidInputError, match=r"give|text|empty|id"):
            await engine.list(**where)


async def test_pages_show_each_run_once_even_if_all_began_at_one_instant(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        for number in range(7):  # virtual time stands still
            await env.start(for_ever(), id=f"w{number}")
        whole = await env.list()
        assert len({run.started_at for run in whole}) == 1
        found: list[str] = []
        after = None
        while page := await env.list(limit=3, after=after):
            found += [run.workflow_id for run in page]
            after = page[-1].cursor
        assert found == [run.workflow_id for run in whole]


@workflow
async def generation(left: int) -> int:
    if left == 0:
        await sleep(5)
        return 0
    if left == 2 and info().continued_from_run_id is None:
        continue_as_new(left)
    return 1 + await generation.options(id=f"generation-{left - 1}")(left - 1)


async def test_a_description_names_the_root_of_a_family(database: str) -> None:
    async with TestEnvironment(database) as env:
        root = await env.start(generation(3), id="generation-3")
        await env.settle()
        listed = {run.workflow_id: run for run in await env.list()}
        assert len(listed) == 4
        for workflow_id in listed:
            found = await (await env.get(workflow_id)).describe()
            assert found.root_workflow_id == "generation-3"
            assert found.root_run_id == root.run_id
            assert listed[workflow_id].root_workflow_id == "generation-3"
            assert listed[workflow_id].root_run_id == root.run_id
        assert await root.result() == 3

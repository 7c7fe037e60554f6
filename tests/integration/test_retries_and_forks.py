"""Failed runs that go on, and runs that others begin from."""

from __future__ import annotations

import asyncio

import pytest

import durable
from durable import (
    ApplicationError,
    Handle,
    RetryPolicy,
    SyncEngine,
    WorkflowFailedError,
    activity,
    activity_client,
    activity_info,
    workflow,
)
from durable.client.resets.controls import before
from durable.errors import InvalidResetError
from durable.testing.contract.rows import wait_until
from tests.integration.redoing import (
    BROKEN,
    RAN,
    find_open,
    opened,
    redo,
    redo_listening,
    redo_other,
    redo_parent,
    redo_three,
    word,
)

FORKED: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    BROKEN.clear()


# --- retry ----------------------------------------------------------------------------


async def test_a_failed_run_goes_on_from_the_activity_that_failed(
    database: str,
) -> None:
    async with opened(database) as env:
        BROKEN.add("c")
        run = await env.start(redo_three(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()

        again = await run.retry(reason="mended")

        assert await again.result() == "abc"
        assert RAN == ["a", "b", "c", "c"]


@workflow
async def redo_both() -> list[str]:
    return list(await asyncio.gather(redo("a"), redo_other("b"), redo("c")))


async def test_what_has_succeeded_beside_a_failure_is_kept(database: str) -> None:
    # One after the other, so that "b" has returned before "a" fails.
    async with opened(database, mocks={redo: fail_late}) as env:
        BROKEN.add("a")
        run = await env.start(redo_both(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()

        assert sorted((await run.plan_retry()).again) == ["redo", "redo"]
        assert await (await run.retry()).result() == ["a", "b", "c"]

        assert sorted(RAN) == ["a", "a", "b", "c", "c"]


async def fail_late(name: str) -> str:
    RAN.append(name)
    if BROKEN:
        await asyncio.sleep(10 if name in BROKEN else 1000)
        raise ApplicationError(f"{name} is broken", non_retryable=True)
    return name


@workflow
async def raising() -> str:
    name = await redo("a")
    if BROKEN:
        raise ApplicationError("no")
    return name + await redo("b")


async def test_code_that_has_failed_is_run_again_from_its_last_task(
    database: str,
) -> None:
    async with opened(database) as env:
        BROKEN.add("code")
        run = await env.start(raising(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()

        assert await (await run.retry()).result() == "ab"

        assert RAN == ["a", "b"]


@workflow
async def child_of(name: str) -> str:
    return await redo(name)


@workflow
async def with_child() -> str:
    return await redo_other("a") + await child_of("c")


async def test_a_child_that_failed_is_started_again(database: str) -> None:
    async with opened(database) as env:
        BROKEN.add("c")
        run = await env.start(with_child(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()

        assert await (await run.retry()).result() == "ac"

        assert RAN == ["a", "c", "c"]


@pytest.mark.parametrize("how", ["terminate", "cancel", "time out"])
async def test_a_run_that_was_ended_goes_on_where_it_was(
    database: str, how: str
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w", run_timeout="1h")
        await run.signal(word("1"))
        await wait_until(lambda: RAN == ["a"])
        await run.signal(word("2"))
        await wait_until(lambda: RAN == ["a", "b"])
        if how == "terminate":
            await run.terminate()
        elif how == "cancel":
            await run.cancel()
        with pytest.raises(WorkflowFailedError):
            await run.result()

        again = await run.retry()
        await again.signal(word("3"))

        assert await again.result() == ["1", "2", "3"]
        assert RAN == ["a", "b"]


async def test_only_a_run_that_has_failed_is_retried(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_three(), id="w")
        await run.result()
        other_run = await env.start(redo_listening(), id="o")

        with pytest.raises(InvalidResetError, match="has completed"):
            await run.retry()
        with pytest.raises(InvalidResetError, match="is open"):
            await other_run.retry()
        await other_run.terminate()


async def test_of_many_retries_at_once_one_is_carried_out(database: str) -> None:
    async with opened(database) as env:
        BROKEN.add("c")
        run = await env.start(redo_three(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()

        outcomes = await asyncio.gather(
            *(run.retry() for _ in range(50)), return_exceptions=True
        )

        refused = [one for one in outcomes if isinstance(one, InvalidResetError)]
        assert len(refused) == 49
        (winner,) = [one for one in outcomes if isinstance(one, Handle)]
        assert await winner.result() == "abc"
        assert len(await env.list(workflow_id="w")) == 2
        assert RAN.count("c") == 2


# --- forks ----------------------------------------------------------------------------


@workflow(version="1.0.0")
async def redo_named(name: str) -> str:
    return await redo(name) + await redo_other("b")


async def test_a_fork_leaves_the_run_alone(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w")
        await run.signal(word("1"))
        await wait_until(lambda: RAN == ["a"])

        fork = await run.fork(id="f")
        for one in (run, fork):
            await one.signal(word("2"))
            await one.signal(word("3"))

        assert await fork.result() == await run.result() == ["1", "2", "3"]
        assert fork.workflow_id == "f"
        assert RAN.count("b") == 2


async def test_a_fork_has_another_input_or_version(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_named("a"), id="w")
        assert await run.result() == "ab"

        changed = await run.fork(call=redo_named("z"), id="z")
        pinned = await run.fork(to="first_task", version="newest", request_id="q")
        again = await run.fork(to="first_task", version="newest", request_id="q")

        assert await changed.result() == "zb"
        assert await pinned.result() == "ab"
        assert pinned.workflow_id == pinned.run_id == again.run_id
        assert (await pinned.describe()).version == "1.0.0"


@activity(retry=RetryPolicy(initial_interval="1s"))
async def fork_from_here(workflow_id: str) -> str:
    base = await activity_client().get(workflow_id)
    key = activity_info().idempotency_key
    fork = await base.fork(id=f"fork of {workflow_id}", request_id=key)
    FORKED.append(fork.run_id)
    if activity_info().attempt == 1:
        raise ConnectionError("before anybody knew of it")
    return fork.run_id


@workflow
async def forking(workflow_id: str) -> str:
    return await fork_from_here(workflow_id)


async def test_a_fork_that_a_workflow_asks_for_twice_is_one_and_stays_as_it_was(
    database: str,
) -> None:
    """Users met two of them, which had lost what their run had been told."""
    FORKED.clear()
    async with opened(database) as env:
        base = await env.start(redo_listening(), id="w")
        await base.signal(word("1"))
        await base.signal(word("2"))
        await wait_until(lambda: RAN == ["a", "b"])
        asking = await env.start(forking("w"), id="asking")
        await wait_until(lambda: len(FORKED) == 1)
        await base.signal(word("3"))
        assert await base.result() == ["1", "2", "3"]

        run_id = await asking.result()

        assert FORKED[0] == FORKED[1] == run_id
        fork = await env.get("fork of w")
        await fork.signal(word("other"))
        assert await fork.result() == ["1", "2", "other"]
        assert RAN == ["a", "b"]
        assert len(await env.list()) == 3


async def test_what_a_fork_cannot_be_is_refused(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_parent(), id="p")
        await find_open(env, "late")

        with pytest.raises(InvalidResetError, match="would wait for the child"):
            await run.fork(to=before("redo"))
        with pytest.raises(InvalidResetError, match="no other input"):
            await run.fork(call=redo_named("a"))
        with pytest.raises(InvalidResetError, match="can keep nothing"):
            await run.fork(call=redo_parent(), to=before("redo"))
        with pytest.raises(durable.WorkflowAlreadyStartedError):
            await run.fork(to="first_task", id="p")
        await run.terminate()


def test_runs_are_reset_without_an_event_loop(database: str) -> None:
    with SyncEngine(database) as engine:
        run = engine.start(redo_three(), id="w")
        assert run.result() == "abc"

        assert run.plan_reset(to=before("redo_other")).undone == ("redo_other", "redo")
        assert run.plan_fork().events == 6
        again = run.reset(to=before("redo_other"))
        assert again.result() == "abc"
        assert run.fork(id="f").result() == "abc"
        BROKEN.add("c")
        failed = engine.start(redo_three(), id="failed")
        with pytest.raises(WorkflowFailedError):
            failed.result()
        BROKEN.clear()
        assert failed.plan_retry().again == ("redo",)
        assert failed.retry().result() == "abc"

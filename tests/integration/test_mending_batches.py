"""Many runs paused, resumed, reset and retried at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from durable import (
    Engine,
    InvalidResetError,
    Run,
    Signal,
    SyncEngine,
    WorkflowFailedError,
    activity,
    before,
    limits,
    workflow,
)
from durable.batches import state
from durable.cli.main import cli

note = Signal("mending.note", int)


class Shop:
    """How the outside world does."""

    is_open = True
    charged = 0


@pytest.fixture(autouse=True)
def _shop() -> None:
    Shop.is_open, Shop.charged = True, 0


@activity(name="mending.charge", retry=None)
async def charge(cents: int) -> int:
    Shop.charged += 1
    if not Shop.is_open:
        raise RuntimeError("closed")
    return cents


@workflow(name="mending.order")
async def order(cents: int) -> int:
    return await charge(cents)


@workflow(name="mending.waits")
async def waits() -> int:
    return await note.receive()


@workflow(name="mending.nothing")
async def nothing() -> None: ...


DEFINITIONS = [order, waits, nothing, charge]


async def test_failed_runs_are_retried_and_each_once(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        Shop.is_open = False
        for number in range(12):
            run = await engine.start(order(number), id=f"o{number}")
            with pytest.raises(WorkflowFailedError):
                await run.result()
        Shop.is_open = True
        failed = engine.batch(where=Run.status == "failed")

        done = await (await failed.retry(rate=None, id="mend")).result(timeout=30)
        again = await (await failed.retry(rate=None, id="mend")).result(timeout=30)

        assert (done.action, done.done, done.skipped) == ("retry", 12, {})
        assert again.done == 12
        results = [
            await (await engine.get(f"o{number}", workflow=order)).result()
            for number in range(12)
        ]
        assert results == list(range(12))
        assert Shop.charged == 24
        late = await (await failed.retry(rate=None)).result(timeout=30)
        assert (late.done, late.skipped) == (0, {"superseded": 12})


async def test_runs_are_reset_to_before_a_step(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        for number in range(5):
            run = await engine.start(order(number), id=f"o{number}")
            assert await run.result() == number
        await engine.execute(nothing(), id="other")
        chosen = engine.batch(where=Run.type == "mending.order")

        handle = await chosen.reset(to=before("mending.charge"), rate=None)
        done = await handle.result(timeout=30)

        assert (done.done, done.failed) == (5, {})
        for number in range(5):
            newest = await engine.get(f"o{number}", workflow=order)
            assert await newest.result() == number
        assert Shop.charged == 10
        refused = engine.batch(where=Run.id == "other")
        nowhere = await (await refused.reset(to=before(charge))).result(timeout=30)
        assert (nowhere.done, nowhere.failed) == (0, {"invalid_reset": 1})
        with pytest.raises(InvalidResetError, match="no place"):
            await chosen.reset(to="first")  # type: ignore[arg-type]  # that is wrong


async def test_each_refusal_is_told_and_a_second_batch_does_only_the_rest(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users met batches that had "succeeded", and no list of what was left."""
    monkeypatch.setattr(state, "PAGE", 5)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        for number in range(21):
            call = nothing() if number % 7 == 3 else order(number)
            await engine.execute(call, id=f"o{number}")
        where = Run.type.in_(["mending.order", "mending.nothing"])
        chosen = engine.batch(where=where)

        done = await (await chosen.reset(to=before(charge), rate=None)).result(
            timeout=30
        )

        assert (done.total, done.done, done.failed) == (21, 18, {"invalid_reset": 3})
        refused = [await engine.get(f"o{number}") for number in (3, 10, 17)]
        assert sorted(done.failures) == sorted(
            (run.workflow_id, run.run_id, "invalid_reset") for run in refused
        )
        for number in range(21):
            await (await engine.get(f"o{number}")).result(timeout=20)
        assert Shop.charged == 2 * 18
        again = await (await chosen.reset(to="first_task", rate=None)).result(
            timeout=30
        )
        # Of each id the newest: those of the first batch, and what it had to leave.
        assert (again.done, again.skipped) == (21, {"superseded": 18})
        for number in range(21):
            await (await engine.get(f"o{number}")).result(timeout=20)

        monkeypatch.setattr(limits, "BATCH_FAILURES_KEPT", 1)
        last = await (await chosen.reset(to=before(charge), rate=None)).result(
            timeout=30
        )
        assert (last.failed, len(last.failures)) == ({"invalid_reset": 3}, 1)


async def test_runs_are_deleted_but_for_what_is_needed_and_then_those(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 5)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        opened = []
        for number in range(21):
            if number % 7 == 3:
                opened.append(await engine.start(waits(), id=f"o{number}"))
            else:
                await engine.execute(order(number), id=f"o{number}")
        chosen = engine.batch(where=Run.id.starts_with("o"))

        done = await (await chosen.delete(rate=None)).result(timeout=30)

        assert (done.total, done.done, done.skipped) == (21, 18, {"open": 3})
        left = [run.workflow_id for run in await engine.list()]
        assert sorted(left) == ["o10", "o17", "o3"]
        for run in opened:
            await run.terminate()
        rest = await (await chosen.delete(rate=None)).result(timeout=30)
        assert (rest.total, rest.done, rest.skipped) == (3, 3, {})
        assert await engine.list() == []


async def test_runs_are_paused_and_resumed(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        for number in range(6):
            await engine.start(waits(), id=f"w{number}")
        chosen = engine.batch(where=Run.type == "mending.waits")

        paused = await (await chosen.pause(note="stock", rate=None)).result(timeout=30)
        assert (paused.action, paused.done) == ("pause", 6)
        for number in range(6):
            await (await engine.get(f"w{number}")).signal(note(number))
        while True:
            if len(await engine.list(status="paused")) == 6:
                break
            await asyncio.sleep(0.01)
        resumed = engine.batch(status="paused")
        done = await (await resumed.resume(rate=None)).result(timeout=30)

        assert (done.action, done.done) == ("resume", 6)
        for number in range(6):
            run: Any = await engine.get(f"w{number}", workflow=waits)
            assert await run.result() == number


def test_they_work_without_an_event_loop_and_from_the_command_line(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with SyncEngine(url, definitions=DEFINITIONS) as engine:
        Shop.is_open = False
        runs = [engine.start(order(n), id=f"o{n}") for n in range(3)]
        for run in runs:
            with pytest.raises(Exception, match="closed"):
                run.result()
        chosen = engine.batch(where=Run.id == "o0")
        assert chosen.reset(reason="again", rate=None).result().done == 1
        assert chosen.pause(rate=None).result().done == 0
        assert chosen.resume(rate=None).result().done == 0
    Shop.is_open = True
    runner = CliRunner()

    def invoke(*words: str) -> str:
        done = runner.invoke(cli, ["--database", url, "batch", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert invoke("retry", "--id", "o1", "--dry-run") == "1 run\n"
    assert "retry" in invoke("retry", "--where", "WorkflowId = 'o1'", "--no-rate")
    said = invoke("reset", "--where", "WorkflowId = 'o2'", "--before-step", charge.name)
    assert "1 of 1 done" in said
    assert "0 of 0 done" in invoke("pause", "--type", "nobody's")
    assert "0 of 0 done" in invoke("resume", "--status", "paused")
    wrong = (
        ["delete"],
        ["delete", "--where", " "],
        ["pause", "--all", "--type", "mending.waits"],
    )
    for words in wrong:
        refused = runner.invoke(cli, ["--database", url, "batch", *words])
        assert refused.exit_code == 2
        assert "or else --all" in refused.stderr
    with SyncEngine(url, definitions=DEFINITIONS) as engine:
        assert engine.get("o1", workflow=order).result() == 1
        assert engine.get("o2", workflow=order).result() == 2
        assert engine.batch(where=Run.id == "o1").retry(rate=None).result().done == 0

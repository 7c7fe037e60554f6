"""Versions: what was asked for, row by row (see `founding_rows`)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from durable import (
    NondeterminismError,
    Signal,
    WorkflowCall,
    WorkflowStuckError,
    activity,
    continue_as_new,
    patched,
    sleep,
    workflow,
)
from durable.errors import InvalidOptionError, MigrationError, VersionDeprecatedError
from durable.testing import TestEnvironment, dump_history, rebuild_state, replay
from tests.acceptance.founding_rows import shows
from tests.integration.test_cli_processes import Shop

go = Signal("go", int)


@activity(name="founding.weigh_first")
async def weigh(item: str) -> int:
    return len(item)


@workflow(name="founding.versioned", version="2.0.0", compatible_with=">=1.2")
async def versioned() -> str:
    await go.receive()
    return "2.0.0"


@versioned.version("1.4.0", compatible_with=">=1,<2")
async def versioned_1_4() -> str:
    await go.receive()
    return "1.4.0"


@versioned.version("1.3.0")
async def versioned_1_3() -> str:
    await go.receive()
    return "1.3.0"


@versioned.version("1.1.0")
async def versioned_1_1() -> str:
    await go.receive()
    return "1.1.0"


async def driven_by(began_on: Any, here: list[object]) -> str:
    """Which code ends a run that began on a version, where others are there."""
    name = f"memory://{uuid.uuid4().hex}"
    async with TestEnvironment(name, definitions=[began_on]) as env:
        await env.start(began_on(), id="w")
        await env.settle()
    async with TestEnvironment(name, definitions=here, clock=env.clock) as env:
        run = await env.get("w")
        await run.signal(go(1))
        assert (await run.describe()).version == began_on.own_version
        return str(await run.result())


@shows(
    "versions",
    '`@workflow(version="2.0.0", compatible_with=">=1,<2")` and'
    ' `order.version("1.4.0")`'
    " beside it; `durable upgrade` without `--yes` is the plan: how many fit, and"
    " why others do not",
)
async def test_s1_4_1_3_old_run_stays_and_a_new_one_gets_the_newest() -> None:
    assert await driven_by(versioned_1_4, [versioned, versioned_1_4]) == "1.4.0"
    async with TestEnvironment(definitions=[versioned_1_4, versioned]) as env:
        run = await env.start("founding.versioned")
        await run.signal(go(1))
        assert await run.result() == "2.0.0"
    with pytest.raises(InvalidOptionError, match=r"1\.2"):
        workflow(name="founding.malformed", version="1.2")(versioned_1_1.function)


SHOP = """
from durable import Signal, workflow

paid = Signal("paid", int)

@workflow(name="order", version="{version}")
async def order() -> str:
    await paid.receive()
    return "{version}"
"""


@shows("versions")
@pytest.mark.slow
def test_s1_4_1_3_plan_counts_the_runs_and_moves_none(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write(SHOP.format(version="1.0.0"))
    shop.call("start", "app:order", "--id", "ann")
    shop.write(SHOP.format(version="2.0.0"))
    plan = ("upgrade", "app.py", "--workflow", "order", "--to", "2.0.0")
    assert "1 run can move to 2.0.0" in shop.call(*plan).stderr
    assert shop.show("ann")["version"] == "1.0.0"
    shop.call(*plan, "--yes")
    assert shop.show("ann")["version"] == "2.0.0"


@shows(
    "version manager",
    "the engine chooses: the run's own version, else the newest that is compatible with"
    " it, else the run waits; `durable versions` tells what is still in use",
)
@pytest.mark.parametrize(
    ("began_on", "here", "driven"),
    [
        (versioned_1_4, [versioned, versioned_1_4], "1.4.0"),
        (versioned_1_3, [versioned, versioned_1_4], "2.0.0"),
        (versioned_1_1, [versioned, versioned_1_4], "1.4.0"),
        (versioned_1_1, [versioned, versioned_1_4, versioned_1_3], "1.4.0"),
        (versioned_1_3, [versioned_1_4, versioned_1_3, versioned_1_1], "1.3.0"),
    ],
    ids=range(5),
)
async def test_s1_4_1_3_run_goes_to_the_newest_version_that_takes_it(
    began_on: Any, here: list[object], driven: str
) -> None:
    assert await driven_by(began_on, here) == driven


@shows(
    "migration rules",
    "`deprecated=` says until when a version may be started, with a warning; its"
    " runs go"
    ' on. `@order.migrates_from("<2")` is a rule; rules chain. A run moves where it'
    " continues as new or offers a checkpoint, never in place. Without a rule it keeps"
    " its version; one whose rule fails parks, untouched, with a `MigrationError`",
)
async def test_s2_4_1_version_out_of_use_warns_then_refuses_and_its_runs_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(name="founding.old", version="1.0.0", deprecated="2025-01-31")
    async def old() -> str:
        return str(await go.receive())

    async with TestEnvironment(definitions=[old]) as env:
        run = await env.start(old(), id="in-time")
        assert "can be started until 2025-01-31" in caplog.text
        await env.sleep("31d")
        with pytest.raises(VersionDeprecatedError, match="2025-01-31"):
            await env.start(old(), id="late")
        await run.signal(go(7))
        assert await run.result() == "7"


@workflow(name="founding.ledger", version="2.0.0")
async def ledger(cents: list[int]) -> str:
    return f"2.0.0: {sum(cents) + await go.receive()}"


@ledger.version("1.5.0")
async def ledger_1_5(cents: int) -> str:
    return f"1.5.0: {cents + await go.receive()}"


@ledger.version("1.0.0")
async def ledger_1_0(euros: int) -> str:
    continue_as_new(euros + await go.receive())


@ledger.version("0.9.0")
async def ledger_0_9(euros: int, turns: int = 0) -> str:
    amount = await go.receive()
    if turns:
        return f"0.9.0: {euros + amount}"
    continue_as_new(euros + amount, turns + 1)


@ledger_1_5.migrates_from(">=1,<1.5")
def in_cents(euros: int) -> WorkflowCall[str]:
    if euros < 0:
        raise ValueError("nobody owes us")
    return ledger_1_5(euros * 100)


@ledger.migrates_from(">=1.5,<2")
def as_list(cents: int) -> WorkflowCall[str]:
    return ledger([cents])


@shows("migration rules")
async def test_s2_4_1_run_moves_from_1_to_2_through_1_5() -> None:
    async with TestEnvironment() as env:
        run = await env.start(ledger_1_0(5), id="w")
        await run.signal(go(2))
        await env.settle()
        assert (await run.describe()).version == "2.0.0"
        await run.signal(go(1))
        assert await run.result() == "2.0.0: 701"


@shows("migration rules")
async def test_s2_4_1_run_without_a_rule_keeps_its_version() -> None:
    async with TestEnvironment() as env:
        run = await env.start(ledger_0_9(5))
        await run.signal(go(2))
        await env.settle()
        assert (await run.describe()).version == "0.9.0"
        await run.signal(go(1))
        assert await run.result() == "0.9.0: 8"


@shows("migration rules")
async def test_s2_4_1_run_whose_rule_fails_parks_as_it_was() -> None:
    async with TestEnvironment() as env:
        run = await env.start(ledger_1_0(-5))
        await run.signal(go(2))
        with pytest.raises(WorkflowStuckError) as caught:
            await run.result()
        assert isinstance(caught.value.__cause__, MigrationError)
        assert (await run.describe()).version == "1.0.0"
        assert rebuild_state(await run.history()).status == "running"


@shows(
    "smooth upgrade",
    "`patched()` and versions; `durable check` and `replay()` say before a deploy"
    " whether open runs and kept histories fit",
)
async def test_s1_old_history_replays_on_patched_code_and_no_other() -> None:
    def order(body: Any) -> Any:
        return workflow(name="founding.upgraded")(body)

    async def before(item: str) -> int:
        return await weigh(item)

    async def unguarded(item: str) -> int:
        await sleep("1h")
        return await weigh(item)

    async def guarded(item: str) -> int:
        if patched("rest"):
            await sleep("1h")
        return await weigh(item)

    old = order(before)
    async with TestEnvironment(definitions=[old, weigh]) as env:
        run = await env.start(old("tea"))
        assert await run.result() == 3
        kept = dump_history(await run.history())
    with pytest.raises(NondeterminismError):
        replay(kept, [order(unguarded), weigh])
    new = order(guarded)
    assert replay(kept, [new, weigh]).result == 3
    async with TestEnvironment(definitions=[new, weigh]) as env:
        began = env.now()
        await env.execute(new("tea"))
        assert (env.now() - began).total_seconds() == 3_600

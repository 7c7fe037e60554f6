"""Runs move from one version to a newer one by rules, where they can be put aside."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable import (
    Engine,
    Signal,
    checkpoint,
    continue_as_new,
    info,
    set_state,
    sleep,
    workflow,
)
from durable.api.workflows.workflow import WorkflowCall
from durable.errors import DefinitionError, InvalidOptionError, WorkflowStuckError
from durable.testing.driver import Driver
from durable.testing.replaying import replay

paid = Signal("rules.paid", int)
END = -1


@dataclass
class Money:
    cents: int
    seen_by: list[str]


# --- three versions of a ledger: in euros, in cents, as money -------------------------


@workflow(name="rules.ledger", version="2.0.0")
async def ledger(money: Money) -> str:
    set_state(len(money.seen_by))
    amount = await paid.receive()
    if amount == END:
        return f"{money.cents} by {'+'.join(money.seen_by)}+{info().version}"
    money.seen_by.append(str(info().version))
    continue_as_new(ledger(Money(money.cents + amount * 100, money.seen_by)))


@ledger.version("1.5.0")
async def ledger_1_5(cents: int, seen_by: list[str]) -> str:
    while True:
        checkpoint(cents, seen_by)
        set_state(len(seen_by))
        amount = await paid.receive()
        if amount == END:
            return f"{cents} by {'+'.join(seen_by)}+{info().version}"
        cents += amount * 100
        seen_by.append(str(info().version))


@ledger.version("1.0.0")
async def ledger_1_0(euros: int, seen_by: list[str]) -> str:
    set_state(len(seen_by))
    amount = await paid.receive()
    if amount == END:
        return f"{euros * 100} by {'+'.join(seen_by)}+{info().version}"
    continue_as_new(euros + amount, [*seen_by, str(info().version)])


@ledger_1_5.migrates_from("<1.5")
def in_cents(euros: int, seen_by: list[str]) -> WorkflowCall[str]:
    return ledger_1_5(euros * 100, seen_by)


@ledger.migrates_from(">=1.5,<2")
def as_money(cents: int, seen_by: list[str]) -> WorkflowCall[str]:
    return ledger(Money(cents, seen_by))


FIRST: list[Any] = [ledger_1_0]
SECOND: list[Any] = [ledger_1_0, ledger_1_5]
THIRD: list[Any] = [ledger_1_0, ledger_1_5, ledger]
DEPLOYS = [FIRST, SECOND, THIRD]
NEWEST = ["1.0.0", "1.5.0", "2.0.0"]


async def pay(engine: Engine, amount: int, number: int) -> None:
    """Send a payment, and wait until some run of the chain has taken it."""
    await (await engine.get("ledger")).signal(paid(amount))
    async with asyncio.timeout(30):
        while True:
            if await (await engine.get("ledger")).state() == number:
                return
            await asyncio.sleep(0.005)


@given(
    deploys=st.lists(st.integers(0, 2), min_size=1, max_size=4).map(sorted),
    payments=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_run_moves_as_far_as_the_rules_of_each_deploy_lead(
    tmp_path_factory: pytest.TempPathFactory, deploys: list[int], payments: list[int]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('rules')}/rules.db"
    seen: list[str] = []
    version = 0

    async def live() -> str:
        nonlocal version
        run: Any = None
        for deploy, count in zip(deploys, payments, strict=False):
            async with Engine(url, definitions=DEPLOYS[deploy]) as engine:
                if run is None:
                    run = await engine.start(ledger_1_0(0, []), id="ledger")
                for _ in range(count):
                    await pay(engine, 7, len(seen) + 1)
                    seen.append(NEWEST[version])
                    version = max(version, deploy)
        async with Engine(url, definitions=DEPLOYS[deploys[-1]]) as engine:
            last = await engine.get("ledger", workflow=ledger)
            await last.signal(paid(END))
            return await last.result()

    result = asyncio.run(live())

    by = "+".join([*seen, NEWEST[version]])
    assert result == f"{len(seen) * 700} by {by}" or not seen


# --- what a turn decides, and what a replay makes of it -------------------------------


@workflow(name="rules.laps", version="2.0.0")
async def laps(name: str, count: int) -> str:
    return f"{name} {count} {info().version}"


@laps.version("1.0.0")
async def laps_1(count: int) -> str:
    while True:
        checkpoint(count)
        timer = asyncio.ensure_future(sleep(60))
        checkpoint(-1)  # a timer is under way
        await timer
        if count == 3:
            return "never moved"
        count += 1


@workflow(name="rules.alone", version="1.0.0")
async def alone(count: int) -> str:
    if count:
        return f"{count} {info().version}"
    continue_as_new(1)


def move_laps(count: int) -> WorkflowCall[str]:
    return laps("ann", count)


@pytest.fixture
def rule() -> Any:
    """The rule from version 1 of the laps, for this test alone."""
    laps.migrates_from("<2")(move_laps)
    yield move_laps
    laps.release.rules.clear()


def closing(driver: Driver) -> Any:
    return driver.history[-1].attributes


def test_a_checkpoint_moves_a_run_where_nothing_is_under_way(rule: Any) -> None:
    driver = Driver(laps_1(1))
    driver.start()

    ended = closing(driver)

    assert type(ended).__name__ == "WorkflowExecutionContinuedAsNew"
    assert (ended.version, ended.migrated_from) == ("2.0.0", "1.0.0")
    assert [bytes(value.json) for value in ended.input] == [b'"ann"', b"1"]


def test_a_history_that_moved_replays_without_the_rule(rule: Any) -> None:
    driver = Driver(laps_1(1))
    driver.start()
    laps.release.rules.clear()

    assert replay(driver.history).terminal is not None


def test_a_history_that_did_not_move_replays_with_the_rule() -> None:
    driver = Driver(laps_1(1))
    driver.start()
    driver.fire_next_timer()
    laps.migrates_from("<2")(move_laps)
    try:
        replay(driver.history)
        driver.fire_next_timer()
        assert closing(driver).version == "2.0.0"
        assert [bytes(each.json) for each in closing(driver).input] == [
            b'"ann"',
            b"3",
        ]
        assert replay(driver.history).terminal is not None
    finally:
        laps.release.rules.clear()


def test_a_run_that_is_to_stop_is_not_moved(rule: Any) -> None:
    laps.release.rules.clear()
    driver = Driver(laps_1(1))
    driver.start()
    driver.cancel("enough")
    laps.migrates_from("<2")(move_laps)

    assert type(closing(driver)).__name__ != "WorkflowExecutionContinuedAsNew"


def test_without_a_rule_a_run_keeps_its_version() -> None:
    driver = Driver(alone(0))
    driver.start()

    assert not closing(driver).version
    assert not closing(driver).migrated_from


def test_a_call_of_another_version_goes_on_there() -> None:
    @workflow(name="rules.chosen", version="2.0.0")
    async def newer(name: str) -> str:
        return name

    @newer.version("1.0.0")
    async def older(count: int) -> str:
        continue_as_new(newer(str(count)))

    driver = Driver(older(5))
    driver.start()

    assert closing(driver).version == "2.0.0"
    assert not closing(driver).migrated_from


# --- what goes wrong ------------------------------------------------------------------


def fails(count: int) -> WorkflowCall[str]:
    raise LookupError("no customer")


def returns_text(count: int) -> WorkflowCall[str]:
    return "not a call"  # type: ignore[return-value]  # that is what is wrong


def returns_another(count: int) -> WorkflowCall[str]:
    return alone(count)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (fails, "LookupError: no customer"),
        (returns_text, "returned 'not a call' in place of a call of version 2.0.0"),
        (returns_another, "returned <call of workflow 'rules.alone'>"),
    ],
)
async def test_a_run_whose_rule_fails_parks_and_goes_on_once_it_is_mended(
    wrong: Any, text: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/rules.db"
    laps.migrates_from("<2")(wrong)
    try:
        async with Engine(url, workflow_task_attempts=1) as engine:
            run = await engine.start(laps_1(1), id="w")
            with pytest.raises(WorkflowStuckError, match=text):
                await run.result()
        laps.release.rules.clear()
        laps.migrates_from("<2")(move_laps)
        async with Engine(url) as engine:
            again = await engine.get("w", workflow=laps)
            assert await again.result() == "ann 1 2.0.0"
    finally:
        laps.release.rules.clear()


def test_what_is_no_range_or_has_no_version_is_refused() -> None:
    @workflow(name="rules.plain")
    async def plain() -> None: ...

    with pytest.raises(DefinitionError, match="has no version"):
        plain.migrates_from("<2")(lambda: plain())
    with pytest.raises(InvalidOptionError, match="at position 1"):
        laps.migrates_from("<x")(move_laps)

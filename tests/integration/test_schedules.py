"""Schedules in virtual time: what runs when, by which policy, and what users see."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Attribute,
    Calendar,
    Engine,
    Run,
    RunStatus,
    ScheduleDescription,
    Signal,
    has_last_result,
    last_failure,
    last_result,
    schedule_spec,
    sleep,
    workflow,
)
from durable.errors import (
    AttributeTypeError,
    InvalidCallError,
    InvalidInputError,
    InvalidOptionError,
    InvalidScheduleError,
    ScheduleExistsError,
    ScheduleNotFoundError,
)
from durable.options import RetryPolicy
from durable.schedules.schedule_workflow import PREFIX
from durable.testing.environment import TestEnvironment

go_on = Signal("go_on", str)
START = datetime(2025, 1, 1, tzinfo=UTC)


@workflow(name="schedules.nap")
async def nap(seconds: float = 0) -> str:
    if seconds:
        await sleep(seconds)
    return "slept"


@workflow(name="schedules.add")
async def add() -> int:
    before = last_result(int) if has_last_result() else 0
    return int(before) + 1


@workflow(name="schedules.fail")
async def fail_once() -> str:
    before = last_failure()
    if before is None:
        raise ValueError("no")
    return str(before)


@workflow(name="schedules.wait")
async def wait() -> str:
    return await go_on.receive()


def ids(found: ScheduleDescription) -> list[str]:
    return [run.workflow_id for run in found.recent]


def statuses(found: ScheduleDescription) -> list[str]:
    return [run.status for run in found.recent]


async def test_each_time_has_one_run_named_after_it(database: str) -> None:
    async with TestEnvironment(database) as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        await env.sleep("3h")
        found = await handle.describe()
        assert ids(found) == [f"s-2025-01-01T0{n}:00:00Z" for n in (1, 2, 3)]
        assert statuses(found) == ["completed"] * 3
        assert found.counts.actions == 3
        assert found.next[0] == START + timedelta(hours=4)
        assert len(found.next) == 10
        run = await env.get("s-2025-01-01T01:00:00Z")
        assert await run.memo() == {
            "durable.schedule_id": "s",
            "durable.scheduled_at": "2025-01-01T01:00:00Z",
        }
        assert await run.result() == "slept"


async def test_schedule_acts_at_local_times_over_a_change_of_the_clock() -> None:
    async with TestEnvironment() as env:
        env.clock.advance_to(
            round(datetime(2025, 3, 28, 12, tzinfo=UTC).timestamp() * 1e6)
        )
        handle = await env.schedules.create(
            "s", nap(), "30 2 * * *", timezone="Europe/Berlin"
        )
        await env.sleep("4d")
        times = [run.scheduled_at for run in (await handle.describe()).recent]
        assert times == [
            datetime(2025, 3, 29, 1, 30, tzinfo=UTC),
            datetime(2025, 3, 31, 0, 30, tzinfo=UTC),
            datetime(2025, 4, 1, 0, 30, tzinfo=UTC),
        ]


async def test_schedule_sleeps_without_a_trace_until_its_time() -> None:
    async with TestEnvironment() as env:
        await env.schedules.create("s", nap(), "0 0 1 1 *")
        await env.settle()
        run = await env.get(PREFIX + "s")
        before = len(await run.history())
        await env.sleep("2d")
        assert len(await run.history()) == before
        await env.sleep("363d")
        assert ids(await env.schedules.get("s").describe()) == [
            "s-2026-01-01T00:00:00Z"
        ]


# --- policies -------------------------------------------------------------------------


async def overlapping(overlap: str, seconds: float = 150) -> ScheduleDescription:
    """Runs of 150 s every minute, looked at after ten minutes."""
    async with TestEnvironment() as env:
        handle = await env.schedules.create(
            "s", nap(seconds), "@every 1m", overlap=overlap
        )
        await env.sleep("10m")
        return await handle.describe()


async def test_skip_starts_nothing_while_a_run_is_open_and_counts_that() -> None:
    found = await overlapping("skip")
    assert [i[-9:-4] for i in ids(found)] == ["00:01", "00:04", "00:07", "00:10"]
    assert found.counts.actions == 4
    assert found.counts.skipped == 6


async def test_buffer_one_keeps_the_first_that_came_meanwhile() -> None:
    found = await overlapping("buffer_one")
    # At 3:30 that of 00:02 begins, at 6:00 that of 00:04, at 8:30 that of 00:07.
    assert [i[-9:-4] for i in ids(found)] == ["00:01", "00:02", "00:04", "00:07"]
    assert found.waiting == 1
    assert found.counts.skipped == 4  # 00:03, 00:05, 00:06 and 00:08


async def test_buffer_all_starts_each_one_after_the_other() -> None:
    found = await overlapping("buffer_all")
    assert [i[-9:-4] for i in ids(found)] == ["00:01", "00:02", "00:03", "00:04"]
    assert found.waiting == 6
    assert found.counts.skipped == 0


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
async def test_others_are_stopped_for_the_newest(overlap: str) -> None:
    found = await overlapping(overlap)
    stopped = "cancelled" if overlap == "cancel_other" else "terminated"
    assert statuses(found) == [stopped] * 9 + ["running"]
    assert found.counts.actions == 10


async def test_cancel_waits_until_the_open_run_has_ended() -> None:
    @workflow(name="schedules.slow_to_stop")
    async def slow_to_stop() -> None:
        try:
            await sleep("1h")
        finally:
            await sleep(30)

    async with TestEnvironment() as env:
        handle = await env.schedules.create(
            "s", slow_to_stop(), "@every 1m", overlap="cancel_other"
        )
        await env.sleep(125)
        found = await handle.describe()
        assert statuses(found) == ["running"]
        assert found.waiting == 1
        await env.sleep(30)
        assert statuses(await handle.describe()) == ["cancelled", "running"]


async def test_allow_all_starts_beside_and_has_no_last_result() -> None:
    found = await overlapping("allow_all")
    assert len(found.recent) == 10
    assert found.counts.actions == 10
    async with TestEnvironment() as env:
        await env.schedules.create("s", add(), "@every 1m", overlap="allow_all")
        await env.sleep("3m")
        for run in await env.list():
            assert await (await env.get(run.workflow_id)).result() == 1


async def test_change_of_the_policy_goes_for_what_waits() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create(
            "s", nap(3_600), "@every 1m", overlap="buffer_all"
        )
        await env.sleep("5m")
        assert (await handle.describe()).waiting == 4
        await handle.update(lambda old: old.replace(overlap="skip"))
        found = await handle.describe()
        assert (found.waiting, found.counts.skipped) == (0, 4)


async def test_results_and_failures_are_carried_to_the_next_run() -> None:
    async with TestEnvironment() as env:
        await env.schedules.create("add", add(), "@every 1m")
        await env.schedules.create("fail", fail_once(), "@every 1m")
        await env.sleep("3m")
        results = [
            await (await env.get(f"add-2025-01-01T00:0{n}:00Z")).result()
            for n in (1, 2, 3)
        ]
        assert results == [1, 2, 3]
        second = await env.get("fail-2025-01-01T00:02:00Z")
        assert await second.result() == "no"


async def test_pause_on_failure_stops_after_the_last_retry() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create(
            "s",
            nap.options(run_timeout=1)(10),
            "@every 1m",
            pause_on_failure=True,
            retry=RetryPolicy(max_attempts=2, initial_interval=5),
        )
        await env.sleep("5m")
        found = await handle.describe()
        assert statuses(found) == ["timed_out"]
        assert found.paused
        assert found.note == "Paused because 's-2025-01-01T00:01:00Z' timed out."
        assert len(await env.list(workflow_id="s-2025-01-01T00:01:00Z")) == 2


async def test_limit_counts_neither_triggers_nor_backfills() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly", remaining_actions=2)
        await handle.trigger()
        await env.sleep("5h")
        found = await handle.describe()
        assert found.counts.actions == 3
        assert found.definition.remaining_actions == 0
        assert found.next == ()
        await handle.backfill(START - timedelta(hours=2), START, overlap="buffer_all")
        await env.settle()
        found = await handle.describe()
        assert found.counts.actions == 6
        assert found.definition.remaining_actions == 0


# --- outages --------------------------------------------------------------------------


async def test_times_within_the_window_are_made_up_for_and_older_ones_missed(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        clock = env.clock
        await env.schedules.create(
            "s", nap(), "@hourly", overlap="buffer_all", catchup_window="3h"
        )
        await env.settle()
    clock.advance("10h30m")
    async with TestEnvironment(database, clock=clock) as env:
        await env.sleep(1)
        found = await env.schedules.get("s").describe()
        assert [i[-9:-4] for i in ids(found)] == ["08:00", "09:00", "10:00"]
        assert found.counts.missed == 7
        assert found.counts.actions == 3


async def test_outage_longer_than_a_page_loses_no_time() -> None:
    async with TestEnvironment("memory://outage") as env:
        clock = env.clock
        await env.schedules.create("s", nap(), "@every 1m", overlap="skip")
        await env.settle()
        clock.advance("2d")
        await env.sleep(1)
        counts = (await env.schedules.get("s").describe()).counts
        assert counts.actions + counts.skipped + counts.missed == 2 * 24 * 60


async def test_created_while_no_worker_is_there_it_acts_from_its_creation() -> None:
    async with TestEnvironment("memory://early", worker=False) as client:
        handle = await client.schedules.create("s", nap(), "@hourly")
        found = await handle.describe()
        assert found.next[0] == START + timedelta(hours=1)
        assert found.created_at == START
        client.clock.advance("90m")
        async with TestEnvironment("memory://early", clock=client.clock) as env:
            await env.sleep(1)
            assert ids(await handle.describe()) == ["s-2025-01-01T01:00:00Z"]


async def test_last_run_that_was_terminated_or_whose_code_is_stuck_stops_nothing() -> (
    None
):
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", wait(), "@every 1m")
        await env.sleep("1m")
        await (await env.get("s-2025-01-01T00:01:00Z")).terminate()
        await env.sleep("1m")
        assert statuses(await handle.describe()) == ["terminated", "running"]


# --- what users ask for ---------------------------------------------------------------


async def test_pause_stops_it_and_unpause_goes_on_from_now() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        await handle.pause("holidays")
        await env.sleep("5h")
        found = await handle.describe()
        assert (found.paused, found.note, found.recent) == (True, "holidays", ())
        assert len(found.next) == 10
        await handle.unpause()
        await env.sleep("1h")
        found = await handle.describe()
        assert ids(found) == ["s-2025-01-01T06:00:00Z"]
        assert found.counts.missed == 0


async def test_trigger_acts_while_paused_and_each_has_an_id_of_its_own() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly", paused=True)
        first = await handle.trigger()
        second = await handle.trigger(overlap="buffer_all")
        await env.settle()
        assert first != second
        assert ids(await handle.describe()) == [first, second]


@pytest.mark.parametrize("overlap", ["skip", "allow_all"])
async def test_runs_are_found_by_their_schedule_and_its_attributes(
    overlap: str,
) -> None:
    team = Attribute("team", str)
    call = nap.options(attributes={team: "sales"})()
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", call, "@hourly", overlap=overlap)
        await env.schedules.create("other", nap(), "@hourly", paused=True)
        id = await handle.trigger()
        await env.settle()
        for where in (team == "sales", Run.schedule == "s", "ScheduleId = 's'"):
            assert [run.workflow_id for run in await env.list(where=where)] == [id]
        assert await env.list(where=Run.schedule == "other") == []
        counts = await env.count(group_by="ScheduleId")
        assert counts.groups == {"s": 1}

        wrong = nap.options(attributes={Attribute("team", int): 1})()
        with pytest.raises(AttributeTypeError, match="'team' is a Int here"):
            await env.schedules.create("wrong", wrong, "@hourly")
        with pytest.raises(AttributeTypeError, match="'team' is a Int here"):
            await handle.update(lambda old: old.replace(call=wrong))
        assert len(await env.schedules.list()) == 2


async def test_backfill_is_the_same_with_jitter_and_takes_both_ends() -> None:
    for jitter in (0, "5m"):
        async with TestEnvironment() as env:
            handle = await env.schedules.create("s", nap(), "@every 20m", jitter=jitter)
            count = await handle.backfill(
                START - timedelta(hours=1), START, overlap="buffer_all"
            )
            await env.settle()
            found = await handle.describe()
            assert count == 4
            assert [run.scheduled_at for run in found.recent] == [
                START - timedelta(minutes=m) for m in (60, 40, 20, 0)
            ]


async def test_backfill_of_a_time_that_had_its_run_does_it_again() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        await env.sleep("1h")
        hour = START + timedelta(hours=1)
        await handle.backfill(hour, hour)
        await env.settle()
        assert len(await env.list(workflow_id="s-2025-01-01T01:00:00Z")) == 2


async def test_backfill_beside_each_other_may_be_asked_for_again() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly", paused=True)
        for _ in range(2):
            await handle.backfill(START, START, overlap="allow_all")
            await env.settle()
        assert len(await env.list(workflow_id="s-2025-01-01T00:00:00Z")) == 2


async def test_update_restarts_from_now_and_none_leaves_all() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "0 12 * * *")
        await env.sleep("13h")
        await handle.update(lambda old: old.replace(spec=schedule_spec("0 6 * * *")))
        found = await handle.update(lambda old: None)
        assert found.version == 1
        await env.sleep("17h")
        assert ids(await handle.describe()) == [
            "s-2025-01-01T12:00:00Z",
            "s-2025-01-02T06:00:00Z",
        ]


async def test_update_calls_again_if_somebody_else_was_faster() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        seen: list[str] = []
        ready = asyncio.Event()

        def change(old: Any) -> Any:
            seen.append(old.note)
            return old.replace(note=f"{old.note}+")

        async def slowly() -> None:
            await ready.wait()
            await handle.update(change)

        first = asyncio.create_task(handle.update(change))
        second = asyncio.create_task(slowly())
        ready.set()
        await asyncio.gather(first, second)
        assert (await handle.describe()).note == "++"
        assert seen.count("+") == 1


async def test_update_may_change_what_is_started() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        await handle.update(lambda old: old.replace(call=add()))
        await env.sleep("1h")
        run = await env.get("s-2025-01-01T01:00:00Z")
        assert (await run.describe()).workflow_type == "schedules.add"


async def test_delete_ends_it_twice_is_fine_and_its_id_is_free() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", wait(), "@hourly")
        await env.sleep("1h")
        await handle.delete()
        await handle.delete()
        assert await env.schedules.list() == []
        with pytest.raises(ScheduleNotFoundError, match="no schedule 's'"):
            await handle.describe()
        with pytest.raises(ScheduleNotFoundError):
            await handle.pause()
        open_run = await env.get("s-2025-01-01T01:00:00Z")
        assert (await open_run.describe()).status is RunStatus.RUNNING
        await env.schedules.create("s", nap(), "@daily")
        assert len(await env.schedules.list()) == 1


async def test_same_creation_is_the_same_schedule_and_another_is_refused() -> None:
    async with TestEnvironment() as env:
        for _ in range(5):
            await env.schedules.create("s", nap(1), "@hourly")
        with pytest.raises(ScheduleExistsError, match="says something else"):
            await env.schedules.create("s", nap(2), "@hourly")
        await env.schedules.get("s").pause()
        await env.schedules.create("s", nap(1), "@hourly")
        assert (await env.schedules.get("s").describe()).paused


async def test_schedules_are_listed_apart_from_runs_page_by_page() -> None:
    async with TestEnvironment() as env:
        for n in range(5):
            await env.schedules.create(f"s{n}", nap(), "@hourly")
            await env.sleep(1)
        assert await env.list() == []
        assert len(await env.list(workflow_type="durable.schedule")) == 5
        page = await env.schedules.list(limit=2)
        assert [one.schedule_id for one in page] == ["s4", "s3"]
        page = await env.schedules.list(limit=2, after="s3")
        assert [one.schedule_id for one in page] == ["s2", "s1"]


async def test_history_stays_bounded_from_checkpoint_to_checkpoint() -> None:
    async with TestEnvironment() as env:
        await env.schedules.create("s", nap(), "@every 1m")
        await env.sleep("2h")
        run = await env.get(PREFIX + "s")
        record = await run._chain.record()
        newest = (await run.history())[-1].event_id
        assert newest - record.checkpoint_event_id < 50 < newest


BAD_CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (nap(), ("0 25 * * *",), {}, InvalidScheduleError, "column 3: 25 is out of range"),
    (nap(), ("0 0 30 2 *",), {}, InvalidScheduleError, "No date ever matches"),
    (nap(), (), {}, InvalidScheduleError, "neither calendars nor intervals"),
    (nap(), ("0 0 * * * 2020",), {}, InvalidScheduleError, "no time after"),
    (
        nap(),
        ("@daily",),
        {"overlap": "skipp"},
        InvalidScheduleError,
        "did you mean 'skip'",
    ),
    (nap(), ("@daily",), {"catchup_window": 9}, InvalidScheduleError, "at least 10 s"),
    (nap(), ("@daily",), {"timezone": "Europe/Berln"}, InvalidScheduleError, "Berlin"),
    (nap(), ("@daily",), {"remaining_actions": -1}, InvalidScheduleError, "is -1"),
    (nap(), ("@daily",), {"not_there": 1}, InvalidOptionError, "not_there"),
    (nap, ("@daily",), {}, InvalidCallError, "Call it"),
    (nap(), (3,), {}, InvalidScheduleError, "says no times"),
]


@pytest.mark.parametrize(("call", "when", "options", "kind", "says"), BAD_CALLS)
async def test_wrong_schedule_is_refused_before_any_write(
    call: Any, when: Any, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    async with TestEnvironment() as env:
        with pytest.raises(kind, match=says) as caught:
            await env.schedules.create("s", call, *when, **options)
        assert isinstance(caught.value, InvalidInputError)
        assert await env.schedules.list() == []


async def test_wrong_backfill_and_update_change_nothing() -> None:
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), "@every 1s", paused=True)
        with pytest.raises(
            InvalidScheduleError, match="more than 1000 times"
        ) as caught:
            await handle.backfill(START, START + timedelta(hours=1))
        assert "2025-01-01T00:16:39" in str(caught.value)
        with pytest.raises(InvalidScheduleError, match="before it starts"):
            await handle.backfill(START, START - timedelta(1))
        with pytest.raises(InvalidScheduleError, match="time zone"):
            await handle.backfill(datetime(2025, 1, 1), START)  # noqa: DTZ001 - the wrong thing
        with pytest.raises(InvalidScheduleError, match=r"has no 'sepc'.*'spec'"):
            await handle.update(lambda old: old.replace(sepc=1))
        with pytest.raises(InvalidOptionError, match="gave 3"):
            await handle.update(lambda old: 3)  # type: ignore[arg-type,return-value]  # the wrong thing
        assert (await handle.describe()).version == 0


async def test_skipped_calendar_leaves_times_out() -> None:
    async with TestEnvironment() as env:
        spec = schedule_spec(
            "@hourly", skip=Calendar(hour="2-4", minute="*", second="*")
        )
        handle = await env.schedules.create("s", nap(), spec)
        await env.sleep("6h")
        assert [i[-9:-7] for i in ids(await handle.describe())] == ["01", "05", "06"]


@pytest.mark.parametrize("overlap", ["skip", "allow_all"])
async def test_run_of_a_trigger_is_there_when_the_call_returns(
    overlap: str, tmp_path: Path
) -> None:
    async with Engine(f"sqlite:///{tmp_path / 's.db'}") as engine:
        for number in range(10):
            handle = await engine.schedules.create(
                f"s{number}", nap(), "0 0 1 1 *", overlap=overlap
            )
            run = await engine.get(await handle.trigger())
            await run.result()

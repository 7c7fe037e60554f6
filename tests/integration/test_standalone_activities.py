"""Activities that a client starts, with no workflow of the user's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ActivityError,
    ActivityNotFoundError,
    ActivityTimeoutError,
    Attribute,
    Engine,
    RetentionRule,
    RetryPolicy,
    RunStatus,
    SyncEngine,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    activity,
    activity_info,
    activity_method,
    resource,
    step,
    workflow,
)
from durable.api.registry import REGISTRY
from durable.doctor.doctor import examine
from durable.errors import InvalidCallError, InvalidOptionError
from durable.store.connect import connect
from durable.testing.environment import TestEnvironment
from durable.testing.replaying import replay

ROOT = Path(__file__).parents[2]
RAN: list[Any] = []
customer = Attribute("standalone_customer", str)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@dataclass
class Receipt:
    cents: int
    by: str


class CardDeclined(Exception):
    pass


@activity(name="standalone.charge", retry=RetryPolicy(max_attempts=2))
async def charge(cents: int, *, by: str = "card") -> Receipt:
    info = activity_info()
    RAN.append((cents, info.attempt, info.workflow_type))
    if cents < 0 and info.attempt == 1:
        raise CardDeclined("not yet")
    return Receipt(cents, by)


@activity(name="standalone.fail", retry=None)
def fail(kind: str) -> None:
    RAN.append(kind)
    raise {"type": TypeError, "own": CardDeclined, "name": NameError}[kind](kind)


@activity(name="standalone.slow", retry=None, start_to_close_timeout="1h")
async def slow() -> None:
    RAN.append("begun")
    await asyncio.sleep(36_000)


@activity(name="standalone.asks", retry=None)
async def asks(*, who: str = resource("who")) -> str:
    return who


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @activity_method
    async def sell(self, what: str) -> str:
        return f"{self.name} sells {what}"


# An engine of another test would lack their resources.
for _name in ("standalone.asks", "Shop.sell"):
    del REGISTRY.activities[_name]


@workflow(name="standalone.other")
async def other() -> None: ...


async def test_an_activity_runs_without_a_workflow(database: str) -> None:
    given = {"who": "we", Shop: Shop("here")}
    known = [charge, asks, Shop]
    async with TestEnvironment(database, definitions=known, resources=given) as env:
        job = await env.start_activity(charge(5, by="cash"), id="job")
        assert await job.result() == Receipt(5, "cash")
        assert job.is_new
        again = await env.start_activity(charge(5, by="cash"), id="job")
        assert (again.is_new, await again.result()) == (False, Receipt(5, "cash"))
        with pytest.raises(WorkflowAlreadyStartedError, match="other arguments"):
            await env.start_activity(charge(6), id="job")
        assert await (await env.start_activity("standalone.charge", 7)).result() == (
            Receipt(7, "card")
        )
        assert await (await env.start_activity(asks())).result() == "we"
        sale = await env.start_activity(Shop.sell("tea"))
        assert await sale.result() == "here sells tea"
        found = await env.get_activity("job")
        assert await found.result() == Receipt(5, "cash")
        history = await job.run.history()
        assert replay(history).terminal is not None
    assert RAN[0] == (5, 1, "durable.activity")


async def test_options_of_the_activity_count_and_none_make_it_another(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        job = await env.start_activity(charge(-5), id="job")
        await env.settle()
        described = await job.describe()
        assert described.pending is not None
        assert described.pending.attempt == 2
        assert described.to_dict()["pending"]["last_failure"]["type"] == "CardDeclined"
        # After a release, say, that retries more often.
        more = charge.options(retry=RetryPolicy(max_attempts=9))
        assert not (await env.start_activity(more(-5), id="job")).is_new
        assert await job.result() == Receipt(-5, "card")
        once = await env.start_activity(charge.options(retry=None)(-5))
        with pytest.raises(CardDeclined):
            await once.result()
    assert [attempt for _, attempt, _ in RAN] == [1, 2, 1]


@pytest.mark.parametrize("kind", ["own", "type", "name"])
async def test_a_handle_raises_what_the_activity_raised(
    database: str, kind: str
) -> None:
    async with TestEnvironment(database) as env:
        job = await env.start_activity(fail(kind))
        with pytest.raises((TypeError, CardDeclined, NameError, ActivityError)) as it:
            await job.result()
        assert kind in str(it.value)
        described = await job.describe()
        assert (described.status, described.stuck) == (RunStatus.FAILED, None)
    assert [kind] == RAN


async def test_one_is_cancelled_before_and_while_it_runs(database: str) -> None:
    async with TestEnvironment(database) as env:
        running = await env.start_activity(slow())
        delayed = await env.start_activity(slow(), delay="1d")
        await env.settle()
        assert RAN == ["begun"]
        for job in (running, delayed):
            await job.cancel("no more")
            with pytest.raises(WorkflowCancelledError):
                await job.result()
        late = await env.start_activity(slow())
        await env.sleep("2h")
        with pytest.raises(ActivityTimeoutError):
            await late.result()
    assert RAN == ["begun", "begun"]


async def test_they_are_listed_by_name_status_and_attributes(database: str) -> None:
    async with TestEnvironment(database) as env:
        for n in range(3):
            who = {customer: "ann" if n else "bob"}
            await env.start_activity(charge(n), attributes=who, memo={"n": n})
        await env.start_activity(slow(), id="slow")
        await env.start(other(), id="other")
        await env.settle()
        listed = await env.list_activities()
        assert [one.activity_type for one in listed] == [
            "standalone.slow",
            *["standalone.charge"] * 3,
        ]
        assert [one.memo for one in listed] == [{}, {"n": 2}, {"n": 1}, {"n": 0}]
        assert listed[1].attributes == {customer.name: "ann"}
        page = await env.list_activities(limit=2)
        rest = await env.list_activities(limit=2, after=page[-1].cursor)
        assert [*page, *rest] == listed
        running = await env.list_activities(status="running")
        assert [one.id for one in running] == ["slow"]
        charged = await env.list_activities(activity_type="standalone.charge")
        assert len(charged) == 3
        anns = await env.list_activities(where=customer == "ann")
        assert [one.memo["n"] for one in anns] == [2, 1]
        assert [run.workflow_id for run in await env.list()] == ["other"]


async def test_what_is_no_activity_is_refused() -> None:
    async with TestEnvironment() as env:
        with pytest.raises(InvalidCallError, match="is no call of an activity"):
            await env.start_activity(env.settle())
        with pytest.raises(InvalidCallError, match="is no call of an activity"):
            await env.start_activity(charge)  # type: ignore[call-overload]  # that is the test
        with pytest.raises(InvalidCallError, match="called wrongly"):
            await env.start_activity(charge("a", "b"))  # type: ignore[call-arg,arg-type]  # that is the test
        with pytest.raises(InvalidOptionError, match="run_timeout"):
            await env.start_activity(charge(1), run_timeout=1)  # type: ignore[call-overload]  # that is the test
        with pytest.raises(
            InvalidOptionError, match=r"charge\.options\(retry=\.\.\.\)"
        ):
            await env.start_activity(charge(1), retry=None)  # type: ignore[call-overload]  # that is the test
        with pytest.raises(InvalidCallError, match="beside a call"):
            await env.start_activity(charge(1), 2)  # type: ignore[call-overload]  # that is the test
        with pytest.raises(InvalidCallError, match="<step 's'> is a closure"):
            await env.start_activity(step("s", lambda: 1))
        with pytest.raises(ActivityNotFoundError, match="no standalone activity 'x'"):
            await env.get_activity("x")
        await env.start(other(), id="other")
        with pytest.raises(ActivityNotFoundError, match="of workflow 'standalone"):
            await env.get_activity("other")


async def test_another_queue_runs_it_where_it_is_served(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"

    def engine(**options: Any) -> Engine:
        return Engine(url, definitions=[charge], **options)

    async with (
        engine(worker=False) as client,
        engine(task_queue="jobs"),
        engine(task_queue="gpu-runs", activity_queues={"gpu": 2}),
    ):
        there = await client.start_activity(charge(1), task_queue="jobs")
        assert await there.result(timeout=20) == Receipt(1, "card")
        far = charge.options(task_queue="gpu")
        job = await client.start_activity(far(2), task_queue="jobs")
        assert await job.result(timeout=20) == Receipt(2, "card")


def test_a_program_without_a_loop_has_them_too(database: str) -> None:
    with SyncEngine(database, definitions=[charge]) as engine:
        job = engine.start_activity(charge(3), id="job")
        assert job.result(timeout=20) == Receipt(3, "card")
        found = engine.get_activity("job", activity=charge)
        assert (found.result(), found.is_new) == (Receipt(3, "card"), False)
        assert found.describe().status is RunStatus.COMPLETED
        assert [one.id for one in engine.list_activities()] == ["job"]


async def test_retention_takes_them_and_the_doctor_is_content(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    rule = RetentionRule(keep=0.001, where='WorkflowType = "durable.activity"')
    async with Engine(url, definitions=[charge], retention=[rule]) as engine:
        job = await engine.start_activity(charge(3))
        await job.result()
        store = connect(url)
        await store.open()
        try:
            assert [finding async for finding in examine(store)] == []
        finally:
            await store.close()
        assert (await engine.delete_expired()).deleted == 1
        assert await engine.list_activities() == []


async def test_one_survives_the_kill_of_its_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    script = tmp_path / "killed.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "from durable import Engine, activity\n"
        "@activity(name='standalone.killed')\n"
        "async def killed(n: int) -> int:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return n\n"
        "async def main() -> None:\n"
        f"    async with Engine({url!r}) as engine:\n"
        "        await (await engine.start_activity(killed(4), id='job')).result()\n"
        "asyncio.run(main())\n"
    )
    died = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=50,
        check=False,
    )
    assert died.returncode == -9

    @activity(name="standalone.killed")
    async def killed(n: int) -> list[int]:
        return [n, activity_info().attempt]

    async with Engine(url, definitions=[killed]) as engine:
        job = await engine.get_activity("job", activity=killed)
        assert await job.result(timeout=30) == [4, 2]

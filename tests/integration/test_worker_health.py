"""How workers do, asked of an engine and by the port of `durable worker`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    SyncEngine,
    WorkerDescription,
    WorkerHealth,
    activity,
    workflow,
)
from durable.errors import EngineClosedError
from durable.store.connect import connect
from durable.store.memory import memory
from durable.store.records import ReapWorkers
from durable.store.threads import groups
from tests.integration.test_cli_processes import Process, Shop, shop, wait_for

__all__ = ["shop"]

pytestmark = pytest.mark.sweep(4, of_class=True)


# --- of an engine ---------------------------------------------------------------------


gate: asyncio.Event


@activity(name="health.gated")
async def gated() -> None:
    await gate.wait()


@workflow(name="health.passing")
async def passing() -> None:
    await gated()


async def test_engine_tells_what_its_worker_has(database: str) -> None:
    global gate
    gate = asyncio.Event()
    engine = Engine(
        database, definitions=[passing, gated], max_activities=5, task_queue="q"
    )
    assert await engine.health() is None
    async with engine:
        idle = await engine.health()
        run = await engine.start(passing())
        while not engine.running_activities():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
        busy = await engine.health()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        draining = await engine.health()
        gate.set()
        await closing

    assert await engine.health() is None
    assert idle is not None
    assert busy is not None
    assert draining is not None
    assert (idle.live_runs, idle.running_activities, idle.capacity) == (0, 0, 5)
    assert idle.is_ready
    assert idle.task_queue == "q"
    assert idle.worker_id.startswith(f"{os.getpid()}-")
    assert 0 < idle.lease_seconds_left <= 10
    assert (busy.live_runs, busy.running_activities) == (1, 1)
    assert (draining.status, draining.is_ready) == ("draining", False)
    assert run.workflow_id


def test_facade_tells_it_likewise() -> None:
    engine = SyncEngine("memory://", definitions=[passing, gated])
    assert engine.health() is None
    with engine:
        health = engine.health()
    assert isinstance(health, WorkerHealth)
    assert (health.status, health.is_ready) == ("running", True)
    assert engine.health() is None


async def test_client_lists_the_workers_of_its_namespace(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global gate
    gate = asyncio.Event()
    monkeypatch.setattr(groups, "RENEWAL_SECONDS", 0.01)
    monkeypatch.setattr(memory, "RENEWAL_SECONDS", 0.01)
    known: dict[str, Any] = {"definitions": [passing, gated], "max_activities": 5}
    async with (
        Engine(database, **known, activity_queues={"gpu": 2}) as engine,
        Engine(database, namespace="other", definitions=[gated]) as other,
        Engine(database, worker=False) as client,
    ):
        (idle,) = await engine.workers()
        (elsewhere,) = await other.workers()
        await engine.start(passing())
        async with asyncio.timeout(20):
            while (await client.workers())[0].running_activities != 1:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
        (busy,) = await client.workers()
        health = await engine.health()
        gate.set()

    assert health is not None
    assert busy.worker_id == idle.worker_id == health.worker_id
    assert (idle.status, idle.task_queue) == ("running", "default")
    assert idle.activity_queues == {"default": 5, "gpu": 2}
    assert (idle.workflows, idle.activities) == (["health.passing"], ["health.gated"])
    assert (idle.live_runs, idle.cached_runs, idle.cached_runs_max) == (0, 0, 1000)
    assert (idle.running_activities, idle.capacity) == (0, 5)
    assert (busy.live_runs, busy.cached_runs, busy.capacity) == (1, 1, 5)
    assert 0 < busy.lease_seconds_left <= 10
    assert busy.to_dict()["pid"] == os.getpid()
    assert (elsewhere.namespace, elsewhere.workflows) == ("other", [])


def test_facade_lists_them_likewise() -> None:
    with SyncEngine("memory://", definitions=[passing, gated]) as engine:
        (worker,) = engine.workers()
    assert isinstance(worker, WorkerDescription)
    assert worker.activities == ["health.gated"]


async def test_client_without_a_worker_has_no_health(database: str) -> None:
    async with Engine(database, worker=False) as engine:
        assert await engine.health() is None


async def test_health_is_refused_on_another_loop(database: str) -> None:
    async with Engine(database) as engine:
        with pytest.raises(EngineClosedError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(engine.health()))


def test_engine_whose_loop_ended_while_it_was_asked_can_be_opened_again(
    tmp_path: Path,
) -> None:
    engine = Engine(f"sqlite:///{tmp_path}/runs.db", definitions=[passing, gated])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.open())
    assert engine._worker is not None
    reachability = engine._worker._reachability
    reachability._asking = loop.create_task(asyncio.sleep(3_600, result=True))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def open_again() -> None:
        async with engine:
            health = await engine.health()
            assert health is not None
            assert health.is_ready

    asyncio.run(open_again())


@pytest.mark.slow
async def test_worker_that_has_joined_again_is_ready_under_its_new_id(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    other = connect(url)
    async with Engine(url) as engine:
        before = now = await engine.health()
        assert before is not None
        await other.open()
        dead = (before.worker_id,)
        assert await other.perform(ReapWorkers(presumed_dead=dead))
        async with asyncio.timeout(20):
            while now is None or now.worker_id == before.worker_id or not now.is_ready:
                await asyncio.sleep(0.01)
                now = await engine.health()
        await other.close()


async def test_database_that_is_gone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Engine(f"sqlite:///{path}") as engine:
        path.rename(tmp_path / "elsewhere.db")
        away = await engine.health()
        (tmp_path / "elsewhere.db").rename(path)
        back = await engine.health()

    assert away is not None
    assert back is not None
    assert (away.is_database_reachable, away.is_ready) == (False, False)
    assert (back.is_database_reachable, back.is_ready) == (True, True)


# --- by the port ----------------------------------------------------------------------


class Probes:
    """Asks the port of a command."""

    def __init__(self, process: Process) -> None:
        self._process = process
        found = process.wait_for_log(r"health: (http://\S+)/health")
        self._url = found[1]

    def get(self, path: str) -> tuple[int, str]:
        try:
            # A port of ours, and nothing else: see above.
            with urllib.request.urlopen(f"{self._url}{path}", timeout=20) as answer:  # noqa: S310 - a port of ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        code, body = self.get("/health")
        assert code == 200
        found: dict[str, Any] = json.loads(body)
        return found

    def wait_for(self, path: str, code: int, body: str) -> None:
        wait_for(lambda: self.get(path) == (code, f"{body}\n"), f"{code} of {path}")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_probes_follow_a_command_from_begin_to_end(
    shop: Shop, more: tuple[str, ...]
) -> None:
    shop.write(Path(shop.folder / "app.py").read_text() + SLOW_IMPORT)
    count = 2 if more else 1
    (shop.folder / "import.open").touch()
    worker = shop.begin(
        "worker", "app.py", "--health-port", "0", "--queue", "default",
        "--queue", "other", "--drain-timeout", "1h", *more,
    )  # fmt: skip
    probes = Probes(worker)
    probes.wait_for("/ready", 200, "ready")
    assert probes.get("/live") == (200, "ready\n")

    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")
    health = probes.health()
    listed = [json.loads(x) for x in shop.ask("workers", "--json").stdout.splitlines()]
    assert sorted(health["worker_ids"]) == [worker["worker_id"] for worker in listed]
    assert health["task_queues"] == ["default", "other"]
    assert (health["live_runs"], health["running_activities"]) == (1, 1)
    assert health["capacity"] == 2_000 * count
    assert [process["number"] for process in health["processes"]] == (
        [*range(1, count + 1)]
    )
    assert "durable_ready 1\n" in probes.get("/metrics")[1]

    worker.signal(signal.SIGTERM)
    probes.wait_for("/ready", 503, "draining")
    assert probes.get("/live") == (200, "draining\n")
    shop.open_gate("tea")
    assert worker.end() == 0
    assert "Traceback" not in worker.stderr


SLOW_IMPORT = """
import time

while not Path("import.open").exists():
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_command_whose_processes_are_starting_is_live_and_not_ready(
    shop: Shop,
) -> None:
    shop.write(Path(shop.folder / "app.py").read_text() + SLOW_IMPORT)
    worker = shop.begin("worker", "app.py", "--health-port", "0", "--processes", "2")
    probes = Probes(worker)

    probes.wait_for("/ready", 503, "starting")
    assert probes.get("/live") == (200, "starting\n")
    shop.open_gate("import")

    probes.wait_for("/ready", 200, "ready")


@pytest.mark.slow
def test_stopped_process_is_told_to_be_silent_and_a_dead_one_to_be_restarting(
    shop: Shop,
) -> None:
    worker = shop.begin("worker", "app.py", "--health-port", "0", "--processes", "2")
    probes = Probes(worker)
    probes.wait_for("/ready", 200, "ready")
    first = probes.health()["processes"][0]["pid"]

    os.kill(first, signal.SIGSTOP)
    probes.wait_for("/live", 503, "unavailable")
    silent, well = probes.health()["processes"]
    os.kill(first, signal.SIGKILL)

    assert (silent["status"], silent["workers"], well["status"]) == (
        *("silent", [], "ready"),
    )
    worker.wait_for_log("process 1 ended by SIGKILL")
    assert probes.get("/live")[0] == 200
    probes.wait_for("/ready", 200, "ready")
    told = probes.health()["processes"][0]
    assert (told["restarts"], told["pid"] == first) == (1, False)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_command_without_its_port_does_not_begin(
    shop: Shop, more: tuple[str, ...]
) -> None:
    other = shop.begin("worker", "app.py", "--health-port", "0")
    port = other.wait_for_log(r"health: http://127\.0\.0\.1:(\d+)/health")[1]

    done = shop.call("worker", "app.py", "--health-port", port, *more, exit_code=1)

    assert f"port {port} of '127.0.0.1': " in done.stderr
    assert "code: health_port" in done.stderr
    assert "ready: " not in done.stderr


@pytest.mark.slow
def test_command_is_not_ready_while_its_database_is_away(
    shop: Shop,
) -> None:
    worker = shop.begin("worker", "app.py", "--health-port", "0")
    probes = Probes(worker)
    probes.wait_for("/ready", 200, "ready")

    (shop.folder / "runs.db").rename(shop.folder / "elsewhere.db")
    probes.wait_for("/ready", 503, "unavailable")
    (shop.folder / "elsewhere.db").rename(shop.folder / "runs.db")

    probes.wait_for("/ready", 200, "ready")

"""What `durable worker` does to the process that is its own."""

import asyncio
import gc
from pathlib import Path

import pytest

from durable import Engine
from durable.cli.processes.serving import Serving, quieter_collector
from durable.cli.session import Session


def test_the_collector_is_quieter_only_while_the_worker_runs() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with quieter_collector():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > frozen
        assert gc.isenabled()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_worker_told_to_stop_while_it_opens_opens_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on until the database answered, and was killed for that."""
    begun = asyncio.Event()

    async def wait(_: Engine) -> Engine:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Engine, "open", wait)
    stop = asyncio.Event()
    session = Session(f"sqlite:///{tmp_path / 'k.db'}")
    serving = Serving(session, ("a", "b"), {}, stop, is_scraped=False)
    work = asyncio.create_task(serving.work())
    await begun.wait()

    stop.set()

    async with asyncio.timeout(20):
        await work
    assert not serving._engines

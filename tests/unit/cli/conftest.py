"""A database with a run of each kind, made once and copied for each test."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable import Engine
from durable.cli.user_code import checking
from durable.errors import WorkflowFailedError, WorkflowStuckError
from tests.unit.cli import messages_app
from tests.unit.cli import orders_app as app


async def fill(url: str) -> None:
    definitions = [
        app.charge,
        app.place_order,
        app.sleeping,
        app.failing,
        app.buggy,
    ]
    order = app.Order(42, app.SECRET)
    async with Engine(url, definitions=definitions) as engine:
        await engine.execute(app.place_order(order), id="done")
        with pytest.raises(WorkflowFailedError):
            await engine.execute(app.failing(), id="failed")
        with pytest.raises(WorkflowStuckError):
            await engine.execute(app.buggy(order), id="stuck")
        handle = await engine.start(app.sleeping(order), id="sleeping")
        async with asyncio.timeout(10):
            while True:
                if len(await handle.history()) == 4:
                    break
                await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "template.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    return path


@pytest.fixture
def folder(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    shutil.copyfile(template, tmp_path / "orders.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABLE_DATABASE_URL", "sqlite:///orders.db")
    for name in ("DURABLE_DEBUG", "DURABLE_NAMESPACE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    # Nobody may leave a log or a lock behind.
    assert {path.suffix for path in tmp_path.iterdir()} <= {".db", ".json", ".py"}


@pytest.fixture(autouse=True)
def only_the_app_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what other tests have imported, and a command never would."""
    monkeypatch.setattr(checking, "_modules", lambda: iter([messages_app]))

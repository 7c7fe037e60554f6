"""Databases for integration tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable.api.definitions import ACTIVITIES, WORKFLOWS


@pytest.fixture(params=["memory", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that several engines of one test may open, one after the other."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Other engines of this process must not be asked for what is defined here."""
    before = dict(ACTIVITIES), dict(WORKFLOWS)
    yield
    for known, old in zip((ACTIVITIES, WORKFLOWS), before, strict=True):
        known.clear()
        known.update(old)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def shop_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, on each kind of server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    kind = "postgres" if request.param == "postgresql" else "mariadb"
    found: str = request.getfixturevalue(f"{kind}_url")
    return found


@pytest.fixture
def shop_file(tmp_path: Path) -> Path:
    """An SQLite file that is not there yet."""
    return tmp_path / "shop.db"

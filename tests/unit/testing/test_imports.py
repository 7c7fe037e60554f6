"""What importing the testing package costs, and that its names are there."""

import subprocess
import sys

import pytest

import durable.testing

HEAVY = ("hypothesis", "pytest", "sqlalchemy", "alembic", "durable.store", "asyncio")


def modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_alone_brings_nothing() -> None:
    assert not modules_after("import durable.testing") & set(HEAVY)


def test_replaying_takes_neither_engine_nor_hypothesis() -> None:
    loaded = modules_after("from durable.testing import Driver, replay; Driver; replay")
    assert not loaded & (set(HEAVY) - {"asyncio"})


def test_environment_takes_no_sql() -> None:
    loaded = modules_after("from durable.testing import TestEnvironment as T; T")
    assert not loaded & {"hypothesis", "pytest", "sqlalchemy", "alembic"}


def test_every_public_name_is_there() -> None:
    for name in durable.testing.__all__:
        assert getattr(durable.testing, name).__doc__
    assert dir(durable.testing) == sorted(durable.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        durable.testing.nothing  # type: ignore[attr-defined]  # the test  # noqa: B018 - too

"""`durable outbox list`, `retry` and `drop`, and what the doctor says of it."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from durable import Engine
from tests.unit.cli.invoking import error_of, invoke, lines_of


@pytest.fixture
def rows(folder: Path) -> Path:
    """Two rows of the outbox, of which the first is set aside."""

    async def write() -> None:
        async with Engine("sqlite:///orders.db", worker=False) as engine:
            with contextlib.closing(sqlite3.connect("orders.db")) as connection:
                within = engine.within(connection)
                within.signal("nobody", "paid", 3)
                within.start("ship", 7, id="ship-7")
                connection.execute(
                    "UPDATE durable_outbox SET due_at = NULL, tries = 5, failure ="
                    ' \'{"message": "there is no such run\\u001b[31m", "type": "X"}\''
                    " WHERE sequence = 1"
                )
                connection.commit()

    asyncio.run(write())
    return folder


def test_what_waits_is_listed_with_its_reason(rows: Path) -> None:
    first, second = lines_of(invoke("outbox", "list", "--json"))

    assert (first["sequence"], first["kind"], first["name"]) == (1, "signal", "paid")
    assert (first["is_set_aside"], first["tries"]) == (True, 5)
    assert first["reason"] == "there is no such run\x1b[31m"
    assert (second["workflow_id"], second["kind"], second["name"]) == (
        *("ship-7", "start"),
        "ship",
    )
    assert (second["is_set_aside"], second["reason"]) == (False, None)
    (aside,) = lines_of(invoke("outbox", "list", "--set-aside", "--json"))
    assert aside == first
    assert len(lines_of(invoke("outbox", "list", "--limit", "1", "--json"))) == 1
    shown = invoke("outbox", "list").stdout
    assert "set aside  there is no such run" in shown
    assert "start ship" in shown
    assert "\x1b" not in shown
    other = invoke("--namespace", "other", "outbox", "list")
    assert (other.exit_code, other.stdout) == (0, "")
    assert "the outbox is empty" in other.stderr


def test_rows_are_retried_and_dropped_by_number(rows: Path) -> None:
    assert lines_of(invoke("outbox", "retry", "1", "9", "--json")) == [
        {"retried": [1], "missing": [9]}
    ]
    (first, _) = lines_of(invoke("outbox", "list", "--json"))
    assert (first["is_set_aside"], first["tries"]) == (False, 0)
    dropped = invoke("outbox", "drop", "1", "9")
    assert dropped.stdout == "1  dropped\n"
    assert "9 is not there" in dropped.stderr
    assert [
        row["sequence"] for row in lines_of(invoke("outbox", "list", "--json"))
    ] == [2]
    assert invoke("outbox", "retry", "--all").stdout == ""


@pytest.mark.parametrize(
    "words",
    [("retry",), ("retry", "1", "--all"), ("drop",), ("drop", "x"), ("drop", "0")],
    ids=" ".join,
)
def test_wrong_words_are_wrong_usage(words: tuple[str, ...], folder: Path) -> None:
    assert invoke("outbox", *words).exit_code == 2


def test_other_namespaces_rows_are_left_alone(rows: Path) -> None:
    done = invoke("--namespace", "other", "outbox", "drop", "1", "--json")

    assert lines_of(done) == [{"dropped": [], "missing": [1]}]
    assert len(lines_of(invoke("outbox", "list", "--json"))) == 2


def test_the_doctor_tells_of_rows_that_are_set_aside_or_wait_in_vain(
    rows: Path,
) -> None:
    def found() -> list[str]:
        done = invoke("doctor", "--json")
        findings: list[dict[str, Any]] = list(map(json.loads, done.stdout.splitlines()))
        return [f["message"] for f in findings if f["check"] == "outbox"]

    assert found() == [
        "1 row of the outbox is set aside, as refused: see 'durable outbox list"
        " --set-aside'"
    ]
    with contextlib.closing(sqlite3.connect("orders.db")) as connection, connection:
        connection.execute("UPDATE durable_outbox SET created_at = 1")
    assert found()[1:] == [
        "1 row of the outbox is waiting: no worker is there to deliver"
    ]


def test_no_database_is_made_for_a_look(tmp_path: Path) -> None:
    done = invoke("--database", str(tmp_path / "no.db"), "outbox", "list", "--json")

    assert done.exit_code == 7
    assert error_of(done)["code"] == "database_unavailable"

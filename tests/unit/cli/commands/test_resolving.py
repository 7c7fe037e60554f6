"""`resolve`: what becomes of an activity whose result could not be recorded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, activity, workflow
from durable.api.registry import REGISTRY
from durable.errors import WorkflowStuckError
from tests.unit.cli.invoking import error_of, invoke, lines_of

URL = "sqlite:///orders.db"
CHARGED: list[str] = []
RESULTS: list[Any] = []


@activity(name="cli_resolving.charge")
async def charge(card: str) -> str:
    CHARGED.append(card)
    result: str = RESULTS[0]
    return result


@workflow(name="cli_resolving.pay")
async def pay(card: str) -> str:
    return await charge(card)


@pytest.fixture
def parked(folder: Path) -> str:
    """The id of a run that waits for somebody to decide; its own id is the same."""
    CHARGED.clear()
    RESULTS[:] = [5]

    async def park() -> str:
        async with Engine(URL, definitions=[pay, charge]) as engine:
            run = await engine.start(pay("c"), id="pay")
            with pytest.raises(WorkflowStuckError):
                await run.result()
            return run.run_id

    return asyncio.run(park())


def outcome() -> str:
    """How the run goes on with a worker."""

    async def go_on() -> str:
        async with Engine(URL, definitions=[pay, charge]) as engine:
            return str(await (await engine.get("pay")).result(timeout=20))

    return asyncio.run(go_on())


def test_a_given_result_is_taken_and_the_function_is_not_run_again(
    parked: str,
) -> None:
    done = invoke("resolve", "pay", "1", "--result", '"paid"')

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"activity 1 of pay (run {parked}) ")
    assert outcome() == "paid"
    assert CHARGED == ["c"]


def test_again_runs_the_function_again(parked: str) -> None:
    done = invoke("resolve", "pay", "1", "--again")

    assert done.stdout == f"activity 1 of pay (run {parked}) will be run again\n"
    assert (done.exit_code, done.stderr) == (0, "")
    RESULTS[:] = ["receipt"]
    assert outcome() == "receipt"
    assert CHARGED == ["c", "c"]


@pytest.mark.parametrize(
    ("args", "done"),
    [(("--again",), "run_again"), (("--result", '"paid"'), "result_taken")],
    ids=["again", "result"],
)
def test_what_was_decided_as_json(args: Any, done: str, parked: str) -> None:
    (found,) = lines_of(
        invoke("resolve", "pay", "1", *args, "--run-id", parked, "--json")
    )

    assert found == {
        "workflow_id": "pay",
        "run_id": parked,
        "activity_id": "1",
        "done": done,
    }


@pytest.mark.parametrize(
    ("args", "exit_code", "code"),
    [
        (("pay", "1"), 2, "usage"),
        (("pay", "1", "--again", "--result", "1"), 2, "usage"),
        (("pay", "1", "--again", "--result", ""), 2, "usage"),
        (("pay", "1", "--result", "paid"), 2, "usage"),
        (("pay", "1", "--result", ""), 2, "usage"),
        (("pay", "1", "--result", "@nowhere.json"), 2, "usage"),
        (("pay",), 2, "usage"),
        (("pay", "7", "--again"), 2, "invalid_call"),
        (("pay", "7", "--result", "1"), 2, "invalid_call"),
        (("sleeping", "1", "--again"), 2, "invalid_call"),
        (("nobody", "1", "--again"), 3, "workflow_not_found"),
        (("pay", "1", "--again", "--run-id", "nobody"), 3, "workflow_not_found"),
        (("done", "1", "--again"), 4, "workflow_closed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_resolved_has_its_exit_code_and_error_code(
    args: tuple[str, ...], exit_code: int, code: str, parked: str
) -> None:
    text, data = invoke("resolve", *args), invoke("resolve", *args, "--json")

    assert (text.exit_code, text.stdout) == (exit_code, "")
    assert data.exit_code == exit_code
    assert error_of(data)["code"] == code
    assert json.loads(invoke("show", "pay", "--json").stdout)["stuck"]


def test_a_wrong_id_is_told_which_there_are(parked: str) -> None:
    done = invoke("resolve", "pay", "7", "--again")

    assert "1 (cli_resolving.charge)" in done.stderr


def test_a_wrong_result_is_called_by_its_option(parked: str) -> None:
    done = invoke("resolve", "pay", "1", "--result", "paid")

    assert "error: --result is " in done.stderr
    assert "no JSON" in done.stderr


def test_a_result_may_come_from_a_file(parked: str, folder: Path) -> None:
    (folder / "result.json").write_text('"paid"', encoding="utf-8")

    assert invoke("resolve", "pay", "1", "--result", "@result.json").exit_code == 0
    assert outcome() == "paid"


def test_a_result_that_does_not_fit_is_refused_where_the_code_is_known(
    parked: str,
) -> None:
    done = invoke("resolve", "pay", "1", "--result", "7", "--json")

    assert done.exit_code == 2
    assert error_of(done)["code"] == "invalid_payload"


def test_a_result_that_does_not_fit_is_refused_by_the_worker_and_shown(
    parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(REGISTRY.activities, charge.name)
        done = invoke("resolve", "pay", "1", "--result", "7")
    assert done.exit_code == 0
    assert done.stdout.endswith("gets that result, if it fits\n")

    with pytest.raises(WorkflowStuckError, match="that was given is not taken"):
        outcome()
    # The next worker says so, too.
    with pytest.raises(WorkflowStuckError, match="that was given is not taken"):
        outcome()
    assert "that was given is not taken" in invoke("show", "pay").stdout
    assert invoke("resolve", "pay", "1", "--result", '"paid"').exit_code == 0
    assert outcome() == "paid"
    assert CHARGED == ["c"]

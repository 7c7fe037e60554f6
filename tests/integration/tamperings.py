"""Databases that something else has changed: one run per change, and what it was.

Every column of every table is set to what cannot stand there, and to what could stand
there and is wrong; rows are taken away, doubled and given to others. The value of an
event's payload is left alone: nothing but a signature could tell.
"""

# ruff: noqa: S608 - the statements are made of this file's own texts

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from durable import Signal, activity, sleep, workflow
from durable.core.history.codec import encode_attributes
from durable.core.history.events import WorkflowExecutionSignaled
from durable.store.records import PutMessage
from durable.store.store import Store

GO = Signal("tampered.go", int)
DEEP = "'" + "[" * 100_000 + "]" * 100_000 + "'"
HUGE = 2**63 - 1
FAILURES: dict[int, int] = {}
RESULT = 111


@activity(name="tampered.step")
async def step(number: int) -> int:
    return number


@activity(name="tampered.flaky")
async def flaky(key: int) -> int:
    FAILURES[key] = FAILURES.get(key, 0) + 1
    if FAILURES[key] == 1:
        raise ValueError("once")
    return 10


@workflow(name="tampered.flow")
async def flow(key: int) -> int:
    """Have rows in every table, and wait for an hour and a signal."""
    total = await step(1)
    total += await flaky(key)
    await sleep("1h")
    return total + await GO.receive()


# What a number or a text may be changed to.
_NUMBERS = {
    "text": "'soon'",
    "bytes": "x'ff00'",
    "no utf-8": "CAST(x'fffe' AS TEXT)",
    "huge": str(HUGE),
    "negative": "-5",
    "fraction": "1.5",
}
_TEXTS = {
    "no utf-8": "CAST(x'fffe41' AS TEXT)",
    "bytes": "x'ff00'",
    "empty": "''",
    "unknown": "'sabotaged'",
    "control characters": "char(27) || '[31mred'",
}
_NO_TEXTS = {name: _TEXTS[name] for name in ("no utf-8", "bytes")}
_TEXTS_OF_KEYS = {"no utf-8": _TEXTS["no utf-8"], "other": "'elsewhere'"}
_JSON = _TEXTS | {
    "cut off": "'{\"name\": '",
    "another shape": "'[1, 2]'",
    "nested deep": DEEP,
    "null": "'null'",
}


def _columns(
    table: str, where: str, columns: dict[str, dict[str, str]]
) -> dict[str, str]:
    return {
        f"{table}.{column}: {name}": (
            f"UPDATE durable_{table} SET {column} = {value} WHERE {where}"
        )
        for column, values in columns.items()
        for name, value in values.items()
    }


_MINE = "run_id = :run"
_EVENT = f"{_MINE} AND event_id = 3"
_NULL = {"null": "NULL"}

CHANGES: dict[str, str] = {
    **_columns(
        "runs",
        _MINE,
        {
            "workflow_type": _TEXTS,
            "task_queue": _TEXTS,
            "status": _TEXTS,
            "started_at": _NUMBERS,
            "first_run_id": _TEXTS,
            "request_id": {k: v for k, v in _TEXTS.items() if k != "empty"},
            "closed_at": _NUMBERS,
            "owner": _TEXTS,
            "epoch": _NUMBERS,
            "wake_at": _NUMBERS | _NULL,
            "stuck": _JSON,
            "version": _TEXTS,
            "continued_from_run_id": _TEXTS,
            "parent_workflow_id": _TEXTS,
            "parent_run_id": _TEXTS,
            "root_run_id": _TEXTS,
            "parent_initiated_event_id": _NUMBERS,
            "parent_close_policy": _TEXTS,
            "state": _JSON,
            "checkpoint_event_id": _NUMBERS | {"not there": "40"},
            "workflow_id": {
                "no utf-8": "CAST(x'fffe41' AS TEXT)",
                "other": "'renamed'",
            },
            "namespace": {
                "no utf-8": "CAST(x'fffe41' AS TEXT)",
                "other": "'elsewhere'",
            },
            "open_key": {"null": "NULL", "other": "'renamed key'"},
        },
    ),
    **_columns(
        "history",
        _EVENT,
        {
            "event_id": _NUMBERS,
            "task_number": _NUMBERS,
            "type": _TEXTS,
            "time": _NUMBERS,
            "data": _JSON,
            "flags": _NUMBERS,
            "run_id": {"stray": "'nobody'", "no utf-8": "CAST(x'fffe' AS TEXT)"},
        },
    ),
    **_columns(
        "attempts",
        f"{_MINE} AND attempt = 1",
        {
            "scheduled_event_id": _NUMBERS,
            "attempt": _NUMBERS,
            "activity_type": _TEXTS,
            "state": _TEXTS,
            "due_at": _NUMBERS,
            "started_at": _NUMBERS,
            "closed_at": _NUMBERS,
            "failure": _JSON,
            "worker_id": {"no utf-8": "CAST(x'fffe' AS TEXT)", "bytes": "x'ff'"},
            "run_id": {"stray": "'nobody'"},
        },
    ),
    **_columns(
        "inbox",
        _MINE,
        {
            "kind": _TEXTS,
            "request_id": {
                k: v for k, v in _TEXTS.items() if k in ("no utf-8", "bytes")
            },
            "data": _JSON,
            "created_at": _NUMBERS,
            "run_id": {"stray": "'nobody'"},
        },
    ),
    "history.data: a result nested deep": (
        "UPDATE durable_history"
        f""" SET data = replace(data, '"json":1', '"json":' || {DEEP})"""
        f" WHERE {_EVENT}"
    ),
    "inbox.data: an argument nested deep": (
        "UPDATE durable_inbox"
        f""" SET data = replace(data, '"json":100', '"json":' || {DEEP})"""
        f" WHERE {_MINE}"
    ),
    "history: a row gone": f"DELETE FROM durable_history WHERE {_EVENT}",
    "history: the first row gone": (
        f"DELETE FROM durable_history WHERE {_MINE} AND event_id = 1"
    ),
    "history: all gone": f"DELETE FROM durable_history WHERE {_MINE}",
    "history: a row twice": (
        "INSERT INTO durable_history SELECT run_id, 900, task_number, type, time,"
        " data, flags"
        f" FROM durable_history WHERE {_EVENT}"
    ),
    "runs: the row gone": f"DELETE FROM durable_runs WHERE {_MINE}",
    "attempts: the first gone": (
        f"DELETE FROM durable_attempts WHERE {_MINE} AND attempt = 1"
    ),
}
"""Each change with its statement; `:run` stands for the victim's run id."""


async def send(store: Store, workflow_id: str) -> None:
    """Put a signal into a run's inbox, as a client does that has no worker."""
    body = WorkflowExecutionSignaled(
        signal_name=GO.name,
        input=GO(100).input,
        request_id=f"go-{workflow_id}",
    )
    await store.perform(
        PutMessage(
            namespace="default",
            workflow_id=workflow_id,
            run_id=None,
            kind="signal",
            request_id=f"go-{workflow_id}",
            data=encode_attributes(body),
        )
    )


def plant(path: Path, changes: dict[str, str]) -> dict[str, str]:
    """Apply each change to the run whose workflow id it is; return their run ids."""
    with closing(sqlite3.connect(path)) as connection, connection:
        run_ids: dict[str, str] = dict(
            connection.execute(
                "SELECT workflow_id, run_id FROM durable_runs"
            ).fetchall()
        )
        for name, statement in changes.items():
            statement = statement.replace("'sabotaged'", f"'sabotaged {run_ids[name]}'")
            done = connection.execute(statement, {"run": run_ids[name]})
            assert done.rowcount >= 1, f"{name} was not planted"
    return run_ids

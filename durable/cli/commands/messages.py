"""`durable signal`, `durable query`, `durable update` and `durable stack`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

import click

from durable.api.workflows.workflow import Workflow
from durable.cli.connection import open_client
from durable.cli.output import (
    note,
    users_code_prints_to_stderr,
    write_json,
    write_line,
    write_lines,
    write_value,
)
from durable.cli.parameters import (
    SPAN,
    command_with_arguments,
    run_id_option,
    standard_options,
    values_argument,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_interruptible
from durable.cli.user_code.checking import checked_call, definition_of
from durable.cli.user_code.loading import load_modules, read_arguments
from durable.client.handle import Handle
from durable.core.loop.stacks import TaskStack
from durable.errors import NoAnswerError, QueryFailedError
from durable.options import to_microseconds
from durable.telling.escaping import escape
from durable.worker.guards.guards import install_guards

T = TypeVar("T")
_Definition: TypeAlias = Workflow[Any, Any] | None

_name_argument: Final = click.argument("name", metavar="NAME")
_modules_option: Final = click.option(
    "-m",
    "--module",
    "modules",
    metavar="MODULE",
    multiple=True,
    help="The run's code, to replay the run here: a dotted name, or the path of a .py"
    " file. Without it the worker that has the run is asked.",
)
_check_option: Final = click.option(
    "-m",
    "--module",
    "modules",
    metavar="MODULE",
    multiple=True,
    help="The run's code, to check name and arguments by before anything is sent.",
)

_timeout_option: Final = click.option(
    "--timeout",
    type=SPAN,
    metavar="SPAN",
    default="10s",
    show_default=True,
    help="How long to wait for a worker's answer.",
)


# --- signals --------------------------------------------------------------------------


@command_with_arguments("signal")
@workflow_id_argument
@_name_argument
@values_argument
@_check_option
@run_id_option
@click.option(
    "--request-id",
    metavar="ID",
    help="Your idempotency key: the same one again changes nothing.",
)
@standard_options
@pass_session
def signal(
    session: Session,
    /,
    *,
    workflow_id: str,
    name: str,
    values: tuple[str, ...],
    given: str | None,
    modules: tuple[str, ...],
    run_id: str | None,
    request_id: str | None,
) -> None:
    """Send a signal to a run.

    Each argument is JSON: a number, true, '"a text"', '{"key": "value"}', @FILE with
    JSON, or - for JSON on stdin. Returns when the signal is durable. With --module a
    name or an argument that the run's code does not take is refused.
    """
    arguments = read_arguments(values, given)
    _load(modules)
    key = secrets.token_hex(16) if request_id is None else request_id

    async def send(run: Handle[Any], definition: _Definition) -> None:
        call = checked_call("signal", definition, name, arguments)
        await run.signal(*call, request_id=key)

    handle, _ = asyncio.run(_ask(session, workflow_id, run_id, modules, send))
    if session.is_json:
        write_json(
            {
                **_ids(handle),
                "done": "signaled",
                "signal": name,
                "request_id": key,
            }
        )
    else:
        write_line(f"{_title(handle)} was sent signal {escape(name)}")


# --- questions ------------------------------------------------------------------------


@command_with_arguments("query")
@workflow_id_argument
@_name_argument
@values_argument
@_modules_option
@run_id_option
@_timeout_option
@standard_options
@pass_session
def query(
    session: Session,
    /,
    *,
    workflow_id: str,
    name: str,
    values: tuple[str, ...],
    given: str | None,
    modules: tuple[str, ...],
    run_id: str | None,
    timeout: str,
) -> None:
    """Ask a run's code, and print its answer as JSON.

    Each argument is JSON, as for `durable signal`. Nothing is recorded. With --module
    the run is replayed here and no worker is needed; only so do closed runs answer.
    """
    arguments = read_arguments(values, given)

    async def ask(run: Handle[Any], definition: _Definition) -> Any:
        call = checked_call("query", definition, name, arguments)
        return await run.query(*call, timeout=timeout)

    handle, answer = _ask_code(session, workflow_id, run_id, modules, ask)
    if session.is_json:
        write_json({**_ids(handle), "query": name, "result": answer})
    else:
        write_value(answer)


@click.command("stack")
@workflow_id_argument
@_modules_option
@run_id_option
@_timeout_option
@standard_options
@pass_session
def stack(
    session: Session,
    /,
    *,
    workflow_id: str,
    modules: tuple[str, ...],
    run_id: str | None,
    timeout: str,
) -> None:
    """Show where each task of a run waits: the lines of its code, and for what.

    With --module the run is replayed here and no worker is needed.
    """
    handle, tasks = _ask_code(
        session, workflow_id, run_id, modules, lambda run, _: run.stack(timeout=timeout)
    )
    if session.is_json:
        write_json({**_ids(handle), "tasks": tasks})
    elif not tasks:
        note("no task of it waits: it has closed, or its code has not begun")
    for task in () if session.is_json else tasks:
        write_lines(_stack_lines(task))


def _stack_lines(task: TaskStack) -> list[str]:
    lines = [f"{task.task} waits for {task.waits_for}"]
    for frame in task.frames:
        lines.append(f"  {frame.file}:{frame.line} in {frame.function}")
        if frame.code:
            lines.append(f"    {frame.code}")
    return [escape(line) for line in lines]


def _ask_code(
    session: Session,
    workflow_id: str,
    run_id: str | None,
    modules: tuple[str, ...],
    ask: Callable[[Handle[Any], _Definition], Awaitable[T]],
) -> tuple[Handle[Any], T]:
    """Ask the code that was given, or else the worker that has the run."""
    _load(modules)
    if modules:
        install_guards()
    try:
        with users_code_prints_to_stderr():
            return asyncio.run(_ask(session, workflow_id, run_id, modules, ask))
    except (QueryFailedError, NoAnswerError) as error:
        if error.hint is not None and not modules:
            error.hint = "Give the run's code with --module, or start a worker with it."
        raise


# --- updates --------------------------------------------------------------------------


@command_with_arguments("update")
@workflow_id_argument
@_name_argument
@values_argument
@_check_option
@run_id_option
@click.option(
    "--update-id",
    metavar="ID",
    help="Your idempotency key: the same one again is the same update.",
)
@click.option(
    "--timeout",
    type=SPAN,
    metavar="SPAN",
    help='How long to wait in all, such as "30s"; by default 10s for a worker to'
    " accept it, and for its answer without end.",
)
@standard_options
@pass_session
def update(
    session: Session,
    /,
    *,
    workflow_id: str,
    name: str,
    values: tuple[str, ...],
    given: str | None,
    modules: tuple[str, ...],
    run_id: str | None,
    update_id: str | None,
    timeout: str | None,
) -> None:
    """Send an update to a run, and print its handler's answer as JSON.

    Each argument is JSON, as for `durable signal`. It takes a worker that has the run;
    with --module what its code does not take is refused without one.
    Waiting may be broken off and taken up again under the same --update-id.
    """
    arguments = read_arguments(values, given)
    _load(modules)
    key = secrets.token_hex(16) if update_id is None else update_id
    limit = None if timeout is None else to_microseconds(timeout, "--timeout")

    async def send(run: Handle[Any], definition: _Definition) -> Any:
        call = checked_call("update", definition, name, arguments)
        again = f"To wait for it again, give it with --update-id {key}."
        try:
            return await _update(run, call, key, limit)
        except NoAnswerError as error:
            error.hint = f"Is a worker with its code running? {again}"
            raise
        except asyncio.CancelledError:
            if not session.is_json:
                note(again)
            raise

    handle, answer = run_interruptible(
        _ask(session, workflow_id, run_id, modules, send)
    )
    if session.is_json:
        write_json({**_ids(handle), "update": name, "update_id": key, "result": answer})
    else:
        write_value(answer)


async def _update(
    run: Handle[Any], call: tuple[Any, ...], key: str, limit: int | None
) -> Any:
    if limit is None:
        return await run.update(*call, update_id=key)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit / 1_000_000
    sent = await run.start_update(*call, update_id=key, timeout=limit / 1_000_000)
    return await sent.result(timeout=max(0.0, deadline - loop.time()))


# --- what they share ------------------------------------------------------------------


def _load(modules: tuple[str, ...]) -> None:
    if modules:  # before any event loop runs, as programs import theirs
        load_modules(modules)


async def _ask(
    session: Session,
    workflow_id: str,
    run_id: str | None,
    modules: tuple[str, ...],
    ask: Callable[[Handle[Any], _Definition], Awaitable[T]],
) -> tuple[Handle[Any], T]:
    """Find a run, and its code if that was given, and ask."""
    async with open_client(session) as (engine, _):
        handle: Handle[Any] = await engine.get(workflow_id, run_id=run_id)
        definition = None
        if modules:
            found = await handle.describe()
            definition = definition_of(modules, found.workflow_type)
        return handle, await ask(handle, definition)


def _ids(handle: Handle[Any]) -> dict[str, Any]:
    return {"workflow_id": handle.workflow_id, "run_id": handle.run_id}


def _title(handle: Handle[Any]) -> str:
    return f"{escape(handle.workflow_id)} (run {handle.run_id})"

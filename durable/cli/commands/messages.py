"""`durable signal`, `durable query`, `durable update` and `durable stack`."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import click

from durable.cli.connection import ask_run
from durable.cli.output import (
    ids_of,
    note,
    tell,
    title_of,
    users_code_prints_to_stderr,
    write_json,
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
from durable.cli.user_code.loading import Arguments, load_modules, read_arguments
from durable.client.handle import Handle
from durable.core.loop.stacks import TaskStack
from durable.core.runtime import MessageKind
from durable.errors import NoAnswerError, QueryFailedError
from durable.options import to_microseconds
from durable.telling.escaping import escape
from durable.worker.guards.guards import install_guards

T = TypeVar("T")

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


class _Message(NamedTuple):
    """What a command is to send, and to which run."""

    session: Session
    workflow_id: str
    run_id: str | None
    modules: tuple[str, ...]
    kind: MessageKind
    name: str
    arguments: Arguments

    async def send(
        self, send: Callable[[Handle[Any], tuple[Any, ...]], Awaitable[T]]
    ) -> tuple[Handle[Any], T]:
        """Find the run, check the message by its code if that was given, and send."""

        async def ask(run: Handle[Any]) -> T:
            definition = None
            if self.modules:
                found = await run.describe()
                definition = definition_of(self.modules, found.workflow_type)
            call = checked_call(self.kind, definition, self.name, self.arguments)
            return await send(run, call)

        return await ask_run(self.session, self.workflow_id, self.run_id, ask)


def _message_command(
    kind: MessageKind, *options: Callable[[Any], Any]
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command that sends a message to a run."""

    def make(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def command(
            session: Session,
            /,
            *,
            workflow_id: str,
            run_id: str | None,
            modules: tuple[str, ...],
            name: str,
            values: tuple[str, ...],
            given: str | None,
            **how: Any,
        ) -> None:
            arguments = read_arguments(values, given)
            _load(modules)
            about = session, workflow_id, run_id, modules, kind, name, arguments
            function(_Message(*about), **how)

        made: Any = pass_session(command)
        before = workflow_id_argument, _name_argument, values_argument
        for option in reversed((*before, *options, standard_options)):
            made = option(made)
        return command_with_arguments(kind)(made)

    return make


# --- signals --------------------------------------------------------------------------


@_message_command(
    "signal",
    _check_option,
    run_id_option,
    click.option(
        "--request-id",
        metavar="ID",
        help="Your idempotency key: the same one again changes nothing.",
    ),
)
def signal(message: _Message, /, *, request_id: str | None) -> None:
    """Send a signal to a run.

    Each argument is JSON: a number, true, '"a text"', '{"key": "value"}', @FILE with
    JSON, or - for JSON on stdin. Returns when the signal is durable. With --module a
    name or an argument that the run's code does not take is refused.
    """
    key = secrets.token_hex(16) if request_id is None else request_id

    async def send(run: Handle[Any], call: tuple[Any, ...]) -> None:
        await run.signal(*call, request_id=key)

    handle, _ = asyncio.run(message.send(send))
    done = {"done": "signaled", "signal": message.name, "request_id": key}
    text = f"{title_of(handle)} was sent signal {message.name}"
    tell(message.session, {**ids_of(handle), **done}, text)


# --- questions ------------------------------------------------------------------------


@_message_command("query", _modules_option, run_id_option, _timeout_option)
def query(message: _Message, /, *, timeout: str) -> None:
    """Ask a run's code, and print its answer as JSON.

    Each argument is JSON, as for `durable signal`. Nothing is recorded. With --module
    the run is replayed here and no worker is needed; only so do closed runs answer.
    """

    async def send(run: Handle[Any], call: tuple[Any, ...]) -> Any:
        return await run.query(*call, timeout=timeout)

    with _by_code(message.modules):
        handle, answer = asyncio.run(message.send(send))
    if message.session.is_json:
        write_json({**ids_of(handle), "query": message.name, "result": answer})
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
    _load(modules)

    async def ask(run: Handle[Any]) -> list[TaskStack]:
        if modules:
            definition_of(modules, (await run.describe()).workflow_type)
        return await run.stack(timeout=timeout)

    with _by_code(modules):
        handle, tasks = asyncio.run(ask_run(session, workflow_id, run_id, ask))
    if session.is_json:
        write_json({**ids_of(handle), "tasks": tasks})
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


@contextmanager
def _by_code(modules: tuple[str, ...]) -> Generator[None]:
    """While the code that was given is asked, or else the worker that has the run."""
    if modules:
        install_guards()
    try:
        with users_code_prints_to_stderr():
            yield
    except (QueryFailedError, NoAnswerError) as error:
        if error.hint is not None and not modules:
            error.hint = "Give the run's code with --module, or start a worker with it."
        raise


# --- updates --------------------------------------------------------------------------


@_message_command(
    "update",
    _check_option,
    run_id_option,
    click.option(
        "--update-id",
        metavar="ID",
        help="Your idempotency key: the same one again is the same update.",
    ),
    click.option(
        "--timeout",
        type=SPAN,
        metavar="SPAN",
        help='How long to wait in all, such as "30s"; by default 10s for a worker to'
        " accept it, and for its answer without end.",
    ),
)
def update(message: _Message, /, *, update_id: str | None, timeout: str | None) -> None:
    """Send an update to a run, and print its handler's answer as JSON.

    Each argument is JSON, as for `durable signal`. It takes a worker that has the run;
    with --module what its code does not take is refused without one.
    Waiting may be broken off and taken up again under the same --update-id.
    """
    key = secrets.token_hex(16) if update_id is None else update_id
    limit = None if timeout is None else to_microseconds(timeout, "--timeout")

    async def send(run: Handle[Any], call: tuple[Any, ...]) -> Any:
        again = f"To wait for it again, give it with --update-id {key}."
        try:
            return await _update(run, call, key, limit)
        except NoAnswerError as error:
            error.hint = f"Is a worker with its code running? {again}"
            raise
        except asyncio.CancelledError:
            if not message.session.is_json:
                note(again)
            raise

    handle, answer = run_interruptible(message.send(send))
    if message.session.is_json:
        told = {"update": message.name, "update_id": key, "result": answer}
        write_json({**ids_of(handle), **told})
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


def _load(modules: tuple[str, ...]) -> None:
    if modules:  # before any event loop runs, as programs import theirs
        load_modules(modules)

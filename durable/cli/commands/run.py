"""`durable run` and `durable start`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from durable.api.workflows.workflow import WorkflowCall
from durable.cli.commands.result import pointing_to, write_result
from durable.cli.logs import logging_to_stderr
from durable.cli.output import ids_of, note, tell, users_code_prints_to_stderr
from durable.cli.parameters import (
    SPAN,
    Word,
    command_with_arguments,
    interceptors_option,
    resources_option,
    standard_options,
    values_argument,
)
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_interruptible
from durable.cli.user_code.loading import (
    Arguments,
    find_workflow,
    load_interceptors,
    load_resources,
    make_call,
    plain_values,
    read_arguments,
)
from durable.client.handle import Handle
from durable.engine import Engine
from durable.limits import LIST_PAGE_MAX
from durable.options import IdConflictPolicy, IdReusePolicy, RetryPolicy
from durable.suggestions import closest

F = TypeVar("F", bound=Callable[..., Any])


def _to_retry(
    context: click.Context, parameter: click.Parameter, attempts: int | None
) -> RetryPolicy | None:
    return None if attempts is None else RetryPolicy(max_attempts=attempts)


_CONFLICTS: Final = [policy.value for policy in IdConflictPolicy]
_REUSES: Final = [policy.word for policy in IdReusePolicy]
ID_OPTIONS: Final = (
    click.option("--id", metavar="ID", help="Its id; a new one by default."),
    click.option(
        "--on-conflict",
        type=Word(_CONFLICTS),
        help="What to do with a run that holds the id: use it if it is the same that is"
        " asked for here (the default), use it in any case, fail, or end it first.",
    ),
    click.option(
        "--id-reuse",
        type=Word([*_REUSES, *(policy.value for policy in IdReusePolicy)]),
        metavar=f"[{'|'.join(_REUSES)}]",
        help="Whether another run may begin under the id of a closed one: never (the"
        " default), after a failure, or always.",
    ),
    click.option("--queue", metavar="NAME", help="The task queue of the run."),
    click.option("--request-id", metavar="ID", help="Your idempotency key."),
    click.option(
        "--delay",
        type=SPAN,
        metavar="SPAN",
        help="How long until its first line runs; a signal or update starts it sooner.",
    ),
)
_START_OPTIONS: Final = (
    *ID_OPTIONS,
    click.option(
        "--attempts",
        "retry",
        type=click.IntRange(1),
        metavar="N",
        callback=_to_retry,
        help="How often it is tried if it fails, each time as a new run of the id; 1.",
    ),
    click.option(
        "--run-timeout",
        type=SPAN,
        metavar="SPAN",
        help='The longest it may take: "2h".',
    ),
    click.option(
        "--priority",
        type=click.IntRange(1, 5),
        metavar="N",
        help="Where a queue limits runs: 1 to 5, 3 by default; less comes first.",
    ),
    click.option(
        "--fairness-key", metavar="KEY", help="Whose it is: there keys take turns."
    ),
    click.option(
        "--debounce",
        type=SPAN,
        metavar="SPAN",
        help="Wait so long for another start of the id, which takes its place.",
    ),
    click.option(
        "--debounce-max",
        type=SPAN,
        metavar="SPAN",
        help="How long after the first of them it begins at the latest.",
    ),
)


def _start_options(command: F) -> F:
    for option in reversed(_START_OPTIONS):
        command = option(command)
    return command


@command_with_arguments("run")
@click.argument("target", metavar="MODULE:WORKFLOW")
@values_argument
@_start_options
@click.option(
    "--timeout",
    type=SPAN,
    metavar="SPAN",
    help='How long to wait, such as "30s"; no end to it.',
)
@resources_option
@interceptors_option
@standard_options
@pass_session
def run(
    session: Session,
    /,
    *,
    target: str,
    values: tuple[str, ...],
    given: str | None,
    queue: str | None,
    timeout: str | None,
    resources: str | None,
    interceptors: str | None,
    **how: Any,
) -> None:
    """Start a workflow in this process, wait for it, and print its result as JSON.

    MODULE is a dotted name as seen from the current folder, or the path of a .py file.
    Each argument is JSON: a number, true, '"a text"', '{"key": "value"}', @FILE with
    JSON, or - for JSON on stdin. If the command is stopped, the run goes on once a
    worker starts.
    """
    arguments = read_arguments(values, given)
    call = make_call(find_workflow(target), arguments)
    engine = Engine(
        session.database_url,
        namespace=session.namespace,
        task_queue=call.definition.task_queue or "default" if queue is None else queue,
        resources=load_resources(resources),
        interceptors=load_interceptors(interceptors),
    )
    work = _run(engine, session, call, timeout, how)
    with (
        logging_to_stderr(session.log_level or "warning", session.log_format),
        users_code_prints_to_stderr(),
    ):
        handle, value = run_interruptible(work)
    write_result(session, handle, value)


def note_if_found(session: Session, handle: Handle[Any]) -> None:
    """Say that a start has found a run, and has begun none."""
    if not handle.is_new and not session.is_json:
        note(
            f"run {handle.workflow_id!r} ({handle.run_id}) was started before: it is"
            " the one that is asked for, and no other was started"
        )


async def _run(
    engine: Engine,
    session: Session,
    call: WorkflowCall[Any],
    timeout: str | None,
    how: dict[str, Any],
) -> tuple[Handle[Any], Any]:
    async with engine:
        handle = await engine.start(call, **how)
        note_if_found(session, handle)
        plain = handle.plain()
        try:
            with pointing_to(handle.workflow_id):
                return plain, await handle_result(handle, plain, timeout)
        except asyncio.CancelledError:
            note(
                f"stopped; run {handle.workflow_id!r} ({handle.run_id}) is kept, and"
                " goes on once a worker starts"
            )
            raise


async def handle_result(
    handle: Handle[Any], plain: Handle[Any], timeout: str | None
) -> Any:
    """Wait by one handle, which hears of the end at once, and read by the other."""
    await handle.result(timeout=timeout)
    return await plain.result()


@command_with_arguments("start")
@click.argument("target", metavar="MODULE:WORKFLOW|NAME")
@values_argument
@_start_options
@standard_options
@pass_session
def start(
    session: Session,
    /,
    *,
    target: str,
    values: tuple[str, ...],
    given: str | None,
    queue: str | None,
    **how: Any,
) -> None:
    """Start a workflow for workers to run, and print its workflow id.

    Arguments are JSON, as for `durable run`. A bare NAME is the workflow's registered
    name; its code is not needed then, and its arguments are recorded as they are.
    Returns when the start is durable.
    """
    session.refuse_memory()
    arguments = read_arguments(values, given)
    handle = asyncio.run(_start(session, target, arguments, queue, how))
    tell(session, ids_of(handle), handle.workflow_id)


async def _start(
    session: Session,
    target: str,
    arguments: Arguments,
    queue: str | None,
    how: dict[str, Any],
) -> Handle[Any]:
    call: Any = target
    values: list[Any] = []
    if ":" in target:
        call = make_call(find_workflow(target), arguments)
    else:
        values = plain_values(arguments, "Give MODULE:WORKFLOW, or an array.")
    async with Engine(
        session.database_url, namespace=session.namespace, worker=False
    ) as engine:
        handle: Handle[Any] = await engine.start(call, *values, task_queue=queue, **how)
        note_if_found(session, handle)
        if isinstance(call, str) and handle.is_new and not session.is_json:
            await _note_if_unknown(engine, call)
        return handle


async def _note_if_unknown(engine: Engine, name: str) -> None:
    """Workers do not tell what they know: what others have started may tell a typo."""
    if len(await engine.list(workflow_type=name, limit=2)) > 1:
        return
    others = {run.workflow_type for run in await engine.list(limit=LIST_PAGE_MAX)}
    close = closest(name, others - {name})
    if close is not None:
        note(
            f"no other run of {name!r} was ever started here, but there are runs of"
            f" {close!r}: if you meant that, stop this one (durable terminate)"
        )

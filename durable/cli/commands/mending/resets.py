"""`durable reset`, `durable retry` and `durable fork`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import click
import msgspec

from durable.cli.connection import ask_run
from durable.cli.output import ids_of, tell, title_of, write_json, write_lines
from durable.cli.parameters import (
    Word,
    run_id_option,
    standard_options,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.client.handle import Handle
from durable.client.resets.controls import before
from durable.client.resets.planning import Reapply, ResetPlan
from durable.core.resetting import Point

F = TypeVar("F", bound=Callable[..., Any])

TO: Final = click.option(
    "--to",
    metavar="PLACE",
    help="first_task, last_task (the default), or the number of an event: what that"
    " task, or that of the event, decided is undone.",
)
BEFORE: Final = click.option(
    "--before",
    "step",
    metavar="NAME",
    help="Go on from before this activity or child workflow was first asked for.",
)
REAPPLY: Final = click.option(
    "--reapply",
    type=Word(["all", "signals", "updates", "none"]),
    default="all",
    show_default=True,
    help="Which messages that came later the run gets again.",
)
_reason: Final = click.option(
    "--reason", default="", metavar="TEXT", help="Why, for those who look."
)
_request_id: Final = click.option(
    "--request-id",
    metavar="KEY",
    help="Your idempotency key: the same again is the same new run.",
)
_dry_run: Final = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and do nothing."
)


def place_of(to: str | None, step: str | None) -> Point:
    """The place that options name.

    Raises:
        click.UsageError: they name two.
    """
    if to is not None and step is not None:
        raise click.UsageError("Give either --to or the step to go on before.")
    if step is not None:
        return before(step)
    # What is no word is refused with the words there are.
    return int(to) if to and to.isdecimal() else cast("Point", to or "last_task")


def _shared(command: F) -> F:
    """Add the options that all three have."""
    decorated = _reason(_request_id(_dry_run(run_id_option(standard_options(command)))))
    return workflow_id_argument(decorated)


@click.command("reset")
@_shared
@TO
@BEFORE
@REAPPLY
@pass_session
def reset(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    to: str | None,
    step: str | None,
    reapply: Reapply,
    reason: str,
    request_id: str | None,
    dry_run: bool,
) -> None:
    """Let a run go on from an earlier place, as a new run of the same id.

    What it had decided by then is kept, with all results; what came after is undone
    and decided anew. If it is open, it is terminated for that. What undone activities
    did to the world is not taken back.
    """
    place = place_of(to, step)
    _carry_out(
        session,
        (workflow_id, run_id),
        lambda run: run.plan_reset(to=place, reapply=reapply),
        None
        if dry_run
        else lambda run: run.reset(
            to=place, reapply=reapply, reason=reason, request_id=request_id
        ),
        "reset",
    )


@click.command("retry")
@_shared
@pass_session
def retry(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    reason: str,
    request_id: str | None,
    dry_run: bool,
) -> None:
    """Let a run that has failed go on from before what failed.

    The activity that it failed of runs again, or the child starts again; whatever has
    succeeded is kept.
    """
    _carry_out(
        session,
        (workflow_id, run_id),
        lambda run: run.plan_retry(),
        None
        if dry_run
        else lambda run: run.retry(reason=reason, request_id=request_id),
        "retried",
    )


@click.command("fork")
@_shared
@TO
@BEFORE
@click.option("--id", "fork_id", metavar="ID", help="The workflow id of the fork.")
@click.option("--version", metavar="VERSION", help="The version of its code.")
@pass_session
def fork(
    session: Session,
    /,
    *,
    workflow_id: str,
    run_id: str | None,
    to: str | None,
    step: str | None,
    fork_id: str | None,
    version: str | None,
    reason: str,
    request_id: str | None,
    dry_run: bool,
) -> None:
    """Let another run, of an id of its own, go on from what this one has done.

    The run itself is left alone.
    """
    place = place_of(to, step)
    _carry_out(
        session,
        (workflow_id, run_id),
        lambda run: run.plan_fork(to=place),
        None
        if dry_run
        else lambda run: run.fork(
            id=fork_id,
            to=place,
            version=version,
            reason=reason,
            request_id=request_id,
        ),
        "forked",
    )


def _carry_out(
    session: Session,
    which: tuple[str, str | None],
    plan: Callable[[Handle[Any]], Awaitable[ResetPlan]],
    act: Callable[[Handle[Any]], Awaitable[Handle[Any]]] | None,
    done: str,
) -> None:
    """Say what would be done, or do it and say so."""

    async def carry_out(run: Handle[Any]) -> tuple[ResetPlan, Handle[Any] | None]:
        planned = await plan(run)
        return planned, None if act is None else await act(run)

    handle, (planned, new) = asyncio.run(ask_run(session, *which, carry_out))
    if new is not None:
        ids = {**ids_of(handle), "done": done, "new_workflow_id": new.workflow_id}
        tell(
            session,
            {**ids, "new_run_id": new.run_id},
            f"{title_of(handle)} goes on as {title_of(new)}",
        )
    elif session.is_json:
        write_json({**msgspec.to_builtins(planned), "done": "nothing"})
    else:
        write_lines(_said(planned))


def _said(plan: ResetPlan) -> list[str]:
    """A plan in words."""
    parts = {
        "keep": f"{plan.events} events of run {plan.run_id}",
        "undo": ", ".join(plan.undone),
        "run again": ", ".join(plan.again),
        "send again": ", ".join(plan.messages),
        "keep children": ", ".join(plan.children_kept),
        "end children": ", ".join(plan.children_undone),
        "terminate": "" if plan.closes is None else f"run {plan.closes}",
    }
    lines = [f"would {verb}: {what}" for verb, what in parts.items() if what]
    return [*lines, "nothing was done"]

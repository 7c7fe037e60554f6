"""`durable diff`."""

from __future__ import annotations

import asyncio

import click
import msgspec

from durable.cli.connection import open_client
from durable.cli.output import ids_of, title_of, write_json, write_lines
from durable.cli.parameters import (
    WorkflowId,
    payloads_option,
    run_id_option,
    standard_options,
)
from durable.cli.session import Session, pass_session
from durable.client.resets.comparing import Call, Comparison
from durable.client.resets.controls import compare


@click.command("diff")
@click.argument("workflow_id", type=WorkflowId())
@click.argument("other_id", metavar="OTHER_ID", type=WorkflowId())
@run_id_option
@click.option("--other-run-id", metavar="ID", help="Which run of the other id.")
@payloads_option
@standard_options
@pass_session
def diff(
    session: Session,
    /,
    *,
    workflow_id: str,
    other_id: str,
    run_id: str | None,
    other_run_id: str | None,
    payloads: bool,
) -> None:
    """Compare what two runs did, call by call: where they part, and how.

    A run and the one that it was reset to have one id: name the older by --run-id.
    """

    async def look() -> tuple[list[object], list[str], Comparison]:
        async with open_client(session) as (engine, _):
            left = await engine.get(workflow_id, run_id=run_id)
            right = await engine.get(other_id, run_id=other_run_id)
            found = await compare(left, right)
            titles = [title_of(left), title_of(right)]
            return [ids_of(left), ids_of(right)], titles, found

    ids, titles, found = asyncio.run(look())
    different = found.difference
    if session.is_json:
        shown = None
        if different is not None:
            sides = (different.left, different.right)
            left, right = (_plain(call, payloads=payloads) for call in sides)
            shown = {"what": different.what, "left": left, "right": right}
        runs = dict(zip(("left", "right"), ids, strict=True))
        write_json({**runs, "alike": found.alike, "difference": shown})
        return
    lines = [f"alike: {found.alike} calls"]
    if different is None:
        lines.append("the runs did the same")
    else:
        lines.append(f"then they differ in the {different.what}")
        for title, call in zip(titles, (different.left, different.right), strict=True):
            lines += [f"  {title}", f"    {_said(call, payloads=payloads)}"]
    write_lines(lines)


def _plain(call: Call | None, *, payloads: bool) -> object:
    if call is not None and not payloads:
        call = _without_values(call)
    return msgspec.to_builtins(call)


def _without_values(call: Call) -> Call:
    """Values may be confidential; what was raised is shown everywhere."""
    sizes = tuple(f"{len(text)} bytes" for text in call.input)
    is_result = call.value is not None and call.outcome == "completed"
    value = f"{len(call.value or '')} bytes" if is_result else call.value
    return msgspec.structs.replace(call, input=sizes, value=value)


def _said(call: Call | None, *, payloads: bool) -> str:
    if call is None:
        return "has no more calls"
    shown = call if payloads else _without_values(call)
    text = f"event {call.event_id}: {call.kind} {call.name}({', '.join(shown.input)})"
    if call.outcome is not None:
        text += f" {call.outcome}"
    if shown.value is not None:
        text += f": {shown.value}"
    return f"{text}, at {call.source}" if call.source else text

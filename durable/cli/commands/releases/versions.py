"""`durable versions` and `durable patches`: what of old code is still needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import click
import msgspec

from durable.api.registry import REGISTRY
from durable.api.workflows.versions import Version
from durable.cli.connection import open_client
from durable.cli.gate.reading import list_all, read_histories
from durable.cli.gate.verdicts import read_rows
from durable.cli.output import note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.cli.user_code.loading import load_modules
from durable.core.machines.marker import find_patch
from durable.core.replay.catching_up import since_checkpoint
from durable.errors import CorruptHistoryError
from durable.store.queries import CountVersions, VersionCount
from durable.store.records import RunFilter, RunStatus
from durable.telling.escaping import escape
from durable.telling.pieces import instant


class VersionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a workflow; the keys of `--json`.

    Attributes:
        version: None of runs that began without one.
        oldest_started_at: when the oldest open run began; None if none is open.
        is_served: whether the modules go on with its runs; None without modules.
        may_be_removed: the modules hold its code, and nothing needs it any more.
    """

    workflow_type: str
    version: str | None
    open_runs: int
    oldest_started_at: str | None
    is_served: bool | None
    may_be_removed: bool


@click.command("versions")
@click.argument("modules", metavar="[MODULE]...", nargs=-1)
@standard_options
@pass_session
def versions(session: Session, /, *, modules: tuple[str, ...]) -> None:
    """Tell which versions have open runs, how many, and since when.

    With the modules of the program it also tells for which of these there is no code,
    and which code may be removed: that of versions without an open run, but for the
    newest.
    """
    if modules:
        load_modules(modules)
    lines = asyncio.run(_versions(session, has_code=bool(modules)))
    if session.is_json:
        for line in lines:
            write_json(line)
    elif lines:
        _write_table(
            ["WORKFLOW", "VERSION", "OPEN RUNS", "OLDEST (UTC)", ""],
            [
                [
                    line.workflow_type,
                    line.version or "-",
                    f"{line.open_runs:,}",
                    (line.oldest_started_at or "-")[:16],
                    _remark(line),
                ]
                for line in lines
            ],
        )
    else:
        note("no run is open")


async def _versions(session: Session, *, has_code: bool) -> list[VersionLine]:
    async with open_client(session) as (_, store):
        found = await store.read(CountVersions(session.namespace))
    open_ones = {(one.workflow_type, one.version) for one in found}
    if has_code:
        found += [
            VersionCount(name, version, 0, 0)
            for name, version in REGISTRY.exact_versions()
            if (name, version) not in open_ones
        ]
    found.sort(key=lambda one: (one.workflow_type, _order(one.version)))
    return [_line(one, has_code=has_code) for one in found]


def _line(one: VersionCount, *, has_code: bool) -> VersionLine:
    name, version = one.workflow_type, one.version
    newest = REGISTRY.workflows.get(name) if has_code else None
    is_newest = newest is not None and newest.own_version == version
    return VersionLine(
        workflow_type=name,
        version=version,
        open_runs=one.runs,
        oldest_started_at=instant(one.oldest_started_at) if one.runs else None,
        is_served=(
            REGISTRY.find_workflow(name, version) is not None if has_code else None
        ),
        may_be_removed=has_code and not one.runs and not is_newest,
    )


def _order(version: str | None) -> tuple[int, Version | str]:
    if version is None:
        return 0, ""
    try:
        return 2, Version(version)
    except ValueError:  # a label of an earlier release
        return 1, version


def _remark(line: VersionLine) -> str:
    if line.may_be_removed:
        return "may be removed"
    return "no code here" if line.is_served is False else ""


def _write_table(headings: list[str], rows: Sequence[Sequence[str]]) -> None:
    cells = [headings, *([escape(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        write_line("  ".join(padded).rstrip())


# --- patches --------------------------------------------------------------------------


class PatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One patch of a workflow; the keys of `--json`.

    Attributes:
        carry: how many open runs go by the new code, and need `patched` there.
        deprecated: how many have it deprecated: they do without.
        lack: how many go by the old code.
    """

    workflow_type: str
    patch_id: str
    carry: int
    deprecated: int
    lack: int
    advice: str


@click.command("patches")
@standard_options
@pass_session
def patches(session: Session, /) -> None:
    """Tell which patches open runs have recorded, and how many runs lack each.

    While a run lacks a patch, the code that it guards against must stay. Then write
    `deprecate_patch` in place of `patched`; and once no open run carries the patch
    otherwise, that may go, too.
    """
    lines = asyncio.run(_patches(session))
    if session.is_json:
        for line in lines:
            write_json(line)
    elif lines:
        _write_table(
            ["WORKFLOW", "PATCH", "CARRY", "DEPRECATED", "LACK", "NEXT"],
            [
                [
                    line.workflow_type,
                    line.patch_id,
                    f"{line.carry:,}",
                    f"{line.deprecated:,}",
                    f"{line.lack:,}",
                    line.advice,
                ]
                for line in lines
            ],
        )
    else:
        note("no open run has recorded a patch")


async def _patches(session: Session) -> list[PatchLine]:
    runs: Counter[str] = Counter()
    found: Counter[tuple[str, str, bool]] = Counter()
    async with open_client(session) as (_, store):
        where = RunFilter(status=RunStatus.RUNNING)
        records = await list_all(store, session.namespace, where)
        async for record, rows in read_histories(store, records):
            runs[record.workflow_type] += 1
            try:
                events, _started = read_rows(rows)
            except CorruptHistoryError as error:
                note(f"run {record.run_id}: {error.message}")
                continue
            marked = [find_patch(each.attributes) for each in since_checkpoint(events)]
            for patch_id, is_deprecated in {one for one in marked if one is not None}:
                found[record.workflow_type, patch_id, is_deprecated] += 1
    return [
        _patch_line(
            kind,
            patch_id,
            found[kind, patch_id, False],
            found[kind, patch_id, True],
            runs[kind],
        )
        for kind, patch_id in sorted({(kind, name) for kind, name, _ in found}, key=str)
    ]


def _patch_line(
    kind: str, patch_id: str, carry: int, deprecated: int, runs: int
) -> PatchLine:
    lack = runs - carry - deprecated
    if lack:
        advice = "keep both branches"
    elif carry:
        advice = "deprecate_patch may take its place"
    else:
        advice = "deprecate_patch may go"
    return PatchLine(
        workflow_type=kind,
        patch_id=patch_id,
        carry=carry,
        deprecated=deprecated,
        lack=lack,
        advice=advice,
    )

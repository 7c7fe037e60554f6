"""Groups runs that break for one reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from durable.cli.gate.verdicts import FAILING, Replayed

_EXAMPLES: Final = 3
# What tells two runs apart that break at one line: ids, sizes, places in memory.
_OF_ONE_RUN: Final = re.compile(r"\d+|0x[0-9a-f]+|'[^']*'")


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between the code and what is recorded; the keys of `--json`.

    Attributes:
        runs: how many runs break by it.
        examples: workflow ids of some of them.
        first: what came of the first of them.
    """

    runs: int
    examples: tuple[str, ...]
    first: Replayed


def causes_of(replayed: Iterable[Replayed]) -> list[Cause]:
    """Group what breaks by workflow, verdict and both lines; the commonest first."""
    groups: dict[tuple[object, ...], list[Replayed]] = {}
    for each in replayed:
        if each.verdict in (*FAILING, "skipped"):
            groups.setdefault(_key(each), []).append(each)
    causes = [
        Cause(
            runs=len(group),
            examples=tuple(each.workflow_id for each in group[:_EXAMPLES]),
            first=group[0],
        )
        for group in groups.values()
    ]
    return sorted(causes, key=lambda cause: -cause.runs)


def _key(replayed: Replayed) -> tuple[object, ...]:
    # Without both lines only the words tell causes apart.
    is_placed = replayed.code_at or replayed.recorded_at
    words = "" if is_placed else _OF_ONE_RUN.sub("", replayed.message or "")
    return (
        replayed.workflow_type,
        replayed.verdict,
        replayed.recorded_at,
        replayed.code_at,
        _kind(replayed.recorded),
        _kind(replayed.found),
        words,
    )


def _kind(described: str | None) -> str:
    return (described or "").partition("(")[0]

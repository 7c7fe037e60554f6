"""What came of a check, as the XML that continuous integration reads (JUnit)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from durable.cli.gate.verdicts import FAILING, Replayed

# XML 1.0 has no way to write them.
_UNWRITABLE: Final = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)


def junit_of(replayed: Sequence[Replayed]) -> str:
    """One test case for each run, under the name of its workflow."""
    failures = sum(each.verdict in FAILING for each in replayed)
    skipped = sum(each.verdict == "skipped" for each in replayed)
    cases = "\n".join(map(_case, replayed))
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<testsuite name="durable check" tests="{len(replayed)}"'
        f' failures="{failures}" errors="0" skipped="{skipped}">\n'
        f"{cases}\n</testsuite>\n"
    )


def _case(replayed: Replayed) -> str:
    name = f"{replayed.workflow_id} ({replayed.run_id})"
    case = f"<testcase classname={_quoted(replayed.workflow_type)} name={_quoted(name)}"
    if replayed.verdict == "skipped":
        return f'{case}><skipped message="no module defines it"/></testcase>'
    if replayed.verdict not in FAILING:
        return f"{case}/>"
    message = replayed.message or replayed.verdict
    told = [
        message,
        f"at {replayed.code_at}" if replayed.code_at else "",
        replayed.patch,
    ]
    text = "\n".join(part for part in told if part)
    return (
        f"{case}><failure type={_quoted(replayed.verdict)}"
        f" message={_quoted(message)}>{escape(_clean(text))}</failure></testcase>"
    )


def _quoted(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)

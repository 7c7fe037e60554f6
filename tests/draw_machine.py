"""Draws the tables of the machine of runs into its design note.

`python -m tests.draw_machine` does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from durable.runs.transitions import PHASES, TRANSITIONS

PAGE: Final = Path(__file__).parents[1] / "docs/design/runs.md"
# So many inputs in one row are all those that come at any time.
_MANY: Final = 16
COMMAND: Final = "python -m tests.draw_machine"


def drawn(name: str, table: Mapping[Any, Mapping[Any, set[Any]]]) -> str:
    """A table as Markdown; inputs that lead to the same share a row."""
    rows = [f"| {name} | given | leads to |", "| --- | --- | --- |"]
    for here, may_come in table.items():
        by_target: dict[tuple[str, ...], list[str]] = {}
        for what, there in may_come.items():
            members: Any = type(here)  # of an enum
            targets = tuple(str(one.value) for one in members if one in there)
            by_target.setdefault(targets, []).append(_name(what))
        first = here.value
        for targets, names in sorted(by_target.items(), key=lambda row: len(row[1])):
            given = ", ".join(names)
            if len(names) >= _MANY:
                given = "*anything else*" if len(by_target) > 1 else "*anything*"
            rows.append(f"| {first} | {given} | {', '.join(targets)} |")
            first = ""
    return "\n".join(rows)


def _name(given: type[Any] | str) -> str:
    return f"*{given}*" if isinstance(given, str) else f"`{given.__name__}`"


def redrawn(page: str) -> str:
    """The page with both tables as the code has them."""
    tables: list[tuple[str, Mapping[Any, Mapping[Any, set[Any]]]]] = [
        ("run", TRANSITIONS),
        ("attempt", PHASES),
    ]
    for name, table in tables:
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n\n{drawn(name, table)}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text("utf-8")), "utf-8")

"""Tables for people, JSON for programs."""

from statistics import median
from typing import Any

from tests.benchmarks.figures import FIGURES, Figure
from tests.benchmarks.plan import DBOS, Sample
from tests.benchmarks.server_figures import SERVER_FIGURES

_SIZES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


def summarize(samples: list[Sample]) -> list[dict[str, Any]]:
    """Each figure with its values, best and median, and DBOS's beside it."""
    rows: list[dict[str, Any]] = []
    for figure in [*FIGURES, *SERVER_FIGURES]:
        found = [
            s
            for s in samples
            if (s.workload, s.database) == (figure.workload, figure.database)
        ]
        ours = [s for s in found if s.subject != DBOS]
        theirs = [s for s in found if s.subject == DBOS] if figure.beside else []
        if not ours and not theirs:
            continue
        row: dict[str, Any] = {
            "key": figure.key,
            "label": figure.label,
            "unit": figure.unit,
            "aim": figure.aim,
            "more_is_better": figure.more_is_better,
            "times_must": figure.times_must,
            "database": figure.database,
        }
        row["durable"] = _summarize(figure, ours)
        row["dbos"] = _summarize(figure, theirs)
        row["must"] = _must(figure, rows)
        if row["durable"] and row["must"]:
            row["over_must"] = figure.over(row["durable"]["best"], row["must"])
        is_like = not figure.whole or len({s.size for s in found}) == 1
        if row["durable"] and row["dbos"] and is_like:
            row["times_dbos"] = figure.over(row["dbos"]["best"], row["durable"]["best"])
        rows.append(row)
    return rows


def _must(figure: Figure, rows: list[dict[str, Any]]) -> float | None:
    """The budget, which may be so many times what another figure is."""
    if figure.within is None:
        return figure.must
    key, times = figure.within
    best = [row["durable"]["best"] for row in rows if row["key"] == key]
    if not best:
        return None
    return float(best[0] / times if figure.more_is_better else best[0] * times)


def _summarize(figure: Figure, samples: list[Sample]) -> dict[str, Any] | None:
    if not samples:
        return None
    values = [figure.of(sample.raw, sample.size) for sample in samples]
    return {
        "best": figure.best(values),
        "median": median(values),
        "values": values,
        "size": samples[0].size,
    }


def budget_table(rows: list[dict[str, Any]]) -> str:
    table = [["figure", "must", "aim", "best", "median", "of must", "", "size"]]
    for row in rows:
        ours = row["durable"]
        if ours is None:
            continue
        over = row.get("over_must")
        table.append(
            [
                row["label"],
                _show(row["must"], row["unit"]),
                _show(row["aim"], row["unit"]),
                _show(ours["best"], row["unit"]),
                _show(ours["median"], row["unit"]),
                "" if over is None else f"x{over:.2f}",
                _verdict(row),
                f"{ours['size']:,}",
            ]
        )
    return _table(table)


def dbos_table(rows: list[dict[str, Any]]) -> str:
    head = ["workload", "durable", "dbos", "median", "median", "times", "must", ""]
    table = [[*head, "sizes"]]
    for row in rows:
        ours, theirs = row["durable"], row["dbos"]
        if ours is None or theirs is None:
            continue
        unit = row["unit"]
        table.append(
            [
                row["label"],
                _show(ours["best"], unit),
                _show(theirs["best"], unit),
                _show(ours["median"], unit),
                _show(theirs["median"], unit),
                f"x{row['times_dbos']:.1f}" if "times_dbos" in row else "",
                *_times_verdict(row),
                f"{ours['size']:,} / {theirs['size']:,}",
            ]
        )
    return _table(table)


def _verdict(row: dict[str, Any]) -> str:
    over = row.get("over_must")
    if over is None:
        return ""
    if over > 1:
        return "MISS"
    best, aim = row["durable"]["best"], row["aim"]
    if aim is None:
        return "kept"
    reached = best >= aim if row["more_is_better"] else best <= aim
    return "aim" if reached else "kept"


def _times_verdict(row: dict[str, Any]) -> tuple[str, str]:
    must, times = row["times_must"], row.get("times_dbos")
    if must is None or times is None:
        return "", ""
    return f"x{must:g}", "kept" if times >= must else "MISS"


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "/s":
        return f"{value:,.0f}/s"
    if unit == "":
        return f"{value:,.0f}"
    if unit == "%":
        return f"{value:.0%}"
    if unit == "x":
        return f"x{value:.2f}"
    sizes = _BYTES if unit == "B" else _SIZES
    fitting = [(size, name) for size, name in sizes if abs(value) >= size]
    size, name = fitting[0] if fitting else sizes[-1]
    return f"{value / size:,.3g} {name}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)

"""Numbers in the text format 0.0.4 that Prometheus scrapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What such text is, for a header of its answer."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a family; `suffix` follows the family's name."""

    suffix: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """The numbers of one name."""

    name: str
    kind: str
    text: str
    samples: Sequence[Sample] = ()

    def labelled(self, **labels: str) -> Family:
        """The same with more labels."""
        samples = [
            Sample(s.suffix, {**s.labels, **labels}, s.value) for s in self.samples
        ]
        return msgspec.structs.replace(self, samples=samples)


def render(families: Iterable[Family]) -> str:
    """Write them down; families of one name become one.

    What would have the whole text refused is left out: a name that stands for a second
    kind, and a series that is there.
    """
    kinds: dict[str, tuple[str, str]] = {}
    samples: dict[str, dict[str, float]] = {}
    for family in families:
        kind, _ = kinds.setdefault(family.name, (family.kind, family.text))
        if kind == family.kind:
            found = samples.setdefault(family.name, {})
            for sample in family.samples:
                series = f"{family.name}{sample.suffix}{_in_braces(sample)}"
                found.setdefault(series, sample.value)
    lines: list[str] = []
    for name, found in samples.items():
        kind, text = kinds[name]
        text = text.replace("\\", r"\\").replace("\n", r"\n")
        lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")
        lines += (f"{series} {number(value)}" for series, value in found.items())
    return "".join(f"{line}\n" for line in lines)


def _in_braces(sample: Sample) -> str:
    labels = sorted(sample.labels.items())
    pairs = (f'{name}="{_escape(text)}"' for name, text in labels)
    return "{" + ",".join(pairs) + "}" if sample.labels else ""


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """Write a number."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(float(value))

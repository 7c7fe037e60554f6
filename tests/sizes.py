"""How much of a long search one run of the suite does: a share of it, or all.

`DURABLE_ALL=1` (`make test-all`) turns all on: the sizes below, and the cases that the
marker `sweep` leaves out. The variable of a size's own name goes before both.
"""

from __future__ import annotations

import os
from typing import Final

NAMES: Final = (
    "DURABLE_ALL",
    "DURABLE_EXAMPLES",
    "DURABLE_HEAVY_TURNS",
    "DURABLE_KILLS",
    "DURABLE_PAGES",
    "DURABLE_RACES",
    "DURABLE_STRIDE",
)
"""All that a search goes by; who repeats a test sets them likewise."""
IS_ALL: Final = bool(os.environ.get("DURABLE_ALL"))


def share() -> tuple[int, int]:
    """Which share of sweeps, and of kills in them: `DURABLE_KILLS=2/5` is the third.

    All of them otherwise. What comes to pass in each run must be the same for all of
    its processes, so nothing here draws by chance.
    """
    which, _, parts = os.environ.get("DURABLE_KILLS", "0/1").partition("/")
    return int(which), int(parts)


def size(name: str, share: int, whole: int) -> int:
    """What the variable says; else the whole, or in a short run a share of it."""
    return int(os.environ.get(name) or (whole if IS_ALL else share))


def examples(whole: int) -> int:
    """So many examples of a property that takes long; 3000 search longer."""
    return size("DURABLE_EXAMPLES", whole // 5, whole)

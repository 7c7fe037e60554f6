"""Tales: what operators do to runs, as data, and what must come of it: no durable here.

Each is told by a client beside a program of the same number (tests/chaos/operating.py).
A run of a tale acts, waits to be let go on, and acts again.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec

from tests.chaos.programs import value_of

Kind: TypeAlias = Literal[
    "paused",
    "reset",
    "reset while open",
    "retried",
    "deleted",
    "expired",
    "signalled",
    "cancelled",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MENDABLE: Final = "!"
"""In a place: what is done there fails until somebody has mended it."""
_ACTS: Final = 3
_MANY: Final = 3
_ENDS: Final[dict[Kind, tuple[str, ...]]] = {
    "reset": ("completed", "completed"),
    "reset while open": ("terminated", "completed"),
    "retried": ("failed", "completed"),
    "cancelled": ("cancelled",),
    "deleted": (),
    "expired": (),
}


class Tale(msgspec.Struct, frozen=True):
    """What is done to a run, or to several at once.

    Attributes:
        workflow_ids: of its runs.
        name: of the tale, and the value of their attribute.
    """

    name: str
    kind: Kind

    @property
    def workflow_ids(self) -> list[str]:
        many = _MANY if self.kind in ("signalled", "cancelled") else 1
        return [f"{self.name}.{number}" for number in range(many)]

    @property
    def ends(self) -> tuple[str, ...]:
        """The statuses of the runs of each workflow id, oldest first; none are left."""
        return _ENDS.get(self.kind, ("completed",))

    def places(self, workflow_id: str) -> list[str]:
        """Where a run acts, in order; it waits behind the first."""
        last = MENDABLE if self.kind == "retried" else ""
        places = [f"{workflow_id}/{number}" for number in range(_ACTS)]
        return [*places[:-1], places[-1] + last]

    def values(self, workflow_id: str) -> list[int]:
        """What a run comes to, if it completes."""
        values: list[int] = []
        for place in self.places(workflow_id):
            values.append(value_of(place, values[-1] if values else 0))
        return values

    def done_again(self, workflow_id: str) -> list[str]:
        """Where its second run acts, too; elsewhere that only knows what was done."""
        places = self.places(workflow_id)
        done: dict[Kind, list[str]] = {
            "reset": places[1:],
            "reset while open": places,
            "retried": places[2:],
        }
        return done.get(self.kind, [])


def draw(seed: int, index: int) -> Tale:
    """Draw the tale of a number: each kind comes as often as the others."""
    return Tale(f"t{seed}-{index}", KINDS[(seed + index) % len(KINDS)])

"""What a batch is to do, and how far it is."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from durable import limits
from durable.client.resets.planning import Reapply
from durable.core.history.payload import Payload, Payloads
from durable.errors import UndecodableError
from durable.search import conditions
from durable.search.conditions import Condition

PAGE: Final = 100
"""Runs that one step acts on."""
RefusedRun: TypeAlias = tuple[str, str, str]
"""Workflow id, run id, and the code of the error."""


class BatchAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done with each run.

    Attributes:
        kind: "signal", "cancel", "terminate", "delete", "pause", "resume", "reset" or
            "retry".
        signal_name: of a signal, with `input`.
        reason: of all but a signal; a note for some.
        terminates: a deletion ends open runs first.
        to: of a reset: the place; that before a step is its name and occurrence.
        reapply: of a reset: which messages the run gets again.
    """

    kind: str
    signal_name: str = ""
    input: Payloads = ()
    reason: str = ""
    terminates: bool = False
    to: int | str | tuple[str, int] = "last_task"
    reapply: Reapply = "all"


class Progress(msgspec.Struct, kw_only=True):
    """How far a batch is.

    Attributes:
        action: what it does with each run.
        total: so many runs there were when it began; at least so many, if not
            `is_counted`.
        done: so many were acted on.
        skipped: so many were not, by why: "closed" or "gone" meanwhile; of deletions,
            a need of `RunNeededError`; of resets and retries, "superseded".
        failed: so many refused, by the code of the error.
        failures: which ones those are, at most `limits.BATCH_FAILURES_KEPT`.
    """

    action: str
    total: int
    is_counted: bool
    done: int = 0
    skipped: dict[str, int] = {}
    failed: dict[str, int] = {}
    failures: list[RefusedRun] = []


class BatchState(msgspec.Struct, kw_only=True):
    """What the workflow is called with, and called again at a checkpoint.

    Attributes:
        where: which runs, packed.
        rate: so many runs a second at most; None is without bound.
        after: the run that it came to: start and id.
        deleted: so many went in this pass.
    """

    action: BatchAction
    where: list[Any]
    rate: float | None
    progress: Progress
    after: tuple[int, str] | None = None
    deleted: int = 0

    @property
    def size(self) -> int:
        """How many runs the next step acts on."""
        return PAGE if self.rate is None else max(1, min(PAGE, round(self.rate)))

    def take(self, found: Found, acted: Acted) -> bool:
        """Count what a step has done; tell whether there is more to do."""
        progress = self.progress
        progress.done += acted.done
        self.deleted += acted.done
        _add(progress.skipped, acted.skipped)
        _add(progress.failed, acted.failed)
        room = limits.BATCH_FAILURES_KEPT - len(progress.failures)
        progress.failures += acted.failures[: max(room, 0)]
        self.after = found.after
        if found.after is not None:
            return True
        # What came after the first run of a chain is gone now, so that may go, too.
        if self.action.kind != "delete" or not progress.skipped.get("chain"):
            return False
        again, self.deleted = self.deleted > 0, 0
        if again:
            progress.skipped = {}
        return again


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for why, count in more.items():
        counts[why] = counts.get(why, 0) + count


class FindWanted(msgspec.Struct, frozen=True):
    """Which runs are next."""

    where: list[Any]
    after: tuple[int, str] | None
    size: int


class Target(msgspec.Struct, frozen=True, array_like=True):
    """One run to act on."""

    workflow_id: str
    run_id: str
    first_run_id: str
    is_open: bool


class Found(msgspec.Struct, frozen=True):
    """The next runs; `after` is None if they are the last.

    They are recorded before anything is done, so that a step which is done again, as
    its worker died, is done to the same runs, whatever they have become by that.
    """

    targets: list[Target]
    after: tuple[int, str] | None


class ActWanted(msgspec.Struct, frozen=True):
    """What is to be done with some runs."""

    action: BatchAction
    targets: list[Target]


class Acted(msgspec.Struct, frozen=True):
    """What was done with them: see `Progress`."""

    done: int
    skipped: dict[str, int]
    failed: dict[str, int]
    failures: list[RefusedRun] = []


# --- packing --------------------------------------------------------------------------

_KINDS: Final[dict[str, type[Condition]]] = {
    kind.__name__: kind
    for kind in (
        conditions.All,
        conditions.Among,
        conditions.Compare,
        conditions.IsNull,
        conditions.Not,
        conditions.OneOf,
        conditions.StartsWith,
    )
}


def pack_condition(condition: Condition) -> list[Any]:
    """Turn a condition into plain data: its class's name, and its fields."""
    return [type(condition).__name__, *map(_plain, msgspec.structs.astuple(condition))]


def _plain(value: Any) -> Any:
    if isinstance(value, Condition):
        return pack_condition(value)
    if value.__class__ is tuple:
        return [_plain(one) for one in value]
    return value


def unpack_condition(packed: list[Any]) -> Condition:
    """Turn it back.

    Raises:
        UndecodableError: a newer release has written it.
    """
    kind = _KINDS.get(packed[0])
    if kind is None:
        raise UndecodableError(
            f"A batch has a condition of the unknown kind {packed[0]!r}.",
            hint="A newer release may have written it: use that.",
        )
    fields = packed[1:]
    if kind in (conditions.All, conditions.OneOf):
        fields = [tuple(map(unpack_condition, fields[0]))]
    elif kind is conditions.Not:
        fields = [unpack_condition(fields[0])]
    elif kind is conditions.Among:
        fields[2] = tuple(fields[2])
    make: Any = kind
    made: Condition = make(*fields)
    return made


def pack(value: Any) -> Payload:
    """Turn a struct into a payload."""
    return Payload(json=msgspec.Raw(msgspec.json.encode(value)))

"""Which closed runs must stay: pure.

Nothing goes that an open run may still need. A parent records how a child began, and
how it ended, in a commit after the child's own, and begins it anew if it does not find
it: so while it has work its children stay. The first run of a chain says what was asked
for under the workflow id, so it goes last; the others go from the oldest on, so that no
gap is ever in between.
"""

from __future__ import annotations

import msgspec

from durable.store.records import Need


class Tie(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a run has to do with others.

    Attributes:
        first_run_id: the first run of its chain.
        predecessor: the run of the chain that it goes on from, if that is there.
        has_successors: runs of its chain are there, beside those that are to go; only
            told of the first of a chain.
        has_open_child: a child of it is open.
        parent: its parent, if that is open.
        has_reply: a reply waits for who asked.
    """

    is_open: bool
    first_run_id: str
    predecessor: str | None = None
    has_successors: bool = False
    has_open_child: bool = False
    parent: OpenParent | None = None
    has_reply: bool = False


class OpenParent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An open parent, as far as its row tells what it has yet to do."""

    owner: str | None
    wake_at: int | None
    is_stuck: bool
    has_mail: bool


def cut(
    run_ids: list[str], counts: dict[str, int], events_max: int
) -> tuple[list[str], list[str]]:
    """Return the runs that have no more events together, at least one; and the rest."""
    events = 0
    for place, run_id in enumerate(run_ids):
        events += counts.get(run_id, 0)
        if place and events > events_max:
            return run_ids[:place], run_ids[place:]
    return run_ids, []


def find_needed(
    ties: dict[str, Tie], now: int, *, heeds_replies: bool
) -> dict[str, Need]:
    """Return which of some runs must stay, and why, if all of them were to go.

    Args:
        ties: of each of them.
        now: the database's time.
        heeds_replies: whether replies that wait keep a run.
    """
    kept: dict[str, Need] = {}
    for run_id, tie in ties.items():
        if tie.is_open:
            kept[run_id] = Need.OPEN
        elif tie.has_open_child:
            kept[run_id] = Need.CHILD
        elif tie.parent is not None and _has_work(tie.parent, now):
            kept[run_id] = Need.PARENT
        elif tie.has_successors:
            kept[run_id] = Need.CHAIN
        elif heeds_replies and tie.has_reply:
            kept[run_id] = Need.REPLY
    # One that stays keeps what comes after it, and the first of its chain.
    waiting = {
        run_id: before
        for run_id, tie in ties.items()
        if (before := tie.predecessor) is not None and before != tie.first_run_id
    }
    bound = [r for r, before in waiting.items() if before not in ties or before in kept]
    following = {before: run_id for run_id, before in waiting.items()}
    for run_id in bound:
        after: str | None = run_id
        while after is not None and after not in kept:
            kept[after] = Need.CHAIN
            after = following.get(after)
    for run_id in list(kept):
        first = ties[run_id].first_run_id
        if first in ties:
            kept.setdefault(first, Need.CHAIN)
    return kept


def _has_work(parent: OpenParent, now: int) -> bool:
    """Tell whether a parent may not have recorded all that it has begun."""
    return (
        parent.owner is not None
        or parent.is_stuck
        or parent.has_mail
        or (parent.wake_at is not None and parent.wake_at <= now)
    )

"""Hypothesis strategies: random workflow programs, and the world around them.

    @given(cases())
    def test_my_property(case: Case) -> None:
        driver = drive(program_call(case.program), case.steps)
        replay_at_every_prefix(driver.history)

Small cases come first and failing ones shrink toward them: fewer nodes, sequences
instead of tasks, activities that complete in order, no cancel and no crash.
"""

from __future__ import annotations

from hypothesis import strategies as st

from durable.testing import programs as p
from durable.testing.schedules import Answer, Case, Step

_SECONDS = st.integers(0, 3)


def leaves() -> st.SearchStrategy[p.Node]:
    """Programs without parts."""
    act = st.builds(p.Act, st.integers(0, 2), st.integers(0, 9))
    return st.one_of(
        act,
        act,  # once more: what workflows mostly do
        st.builds(p.Sleep, _SECONDS),
        st.builds(p.Pause, _SECONDS),
        st.builds(p.Draw, st.integers(0, 3)),
        st.builds(p.Put, st.integers(0, 9)),
        st.builds(p.Take, st.integers(1, 3)),
        st.builds(p.Await, st.integers(0, 3), st.none() | _SECONDS),
        st.builds(p.Signalled, st.integers(1, 3)),
        st.builds(p.Fail, st.integers(0, 2)),
    )


def _composed(children: st.SearchStrategy[p.Node]) -> st.SearchStrategy[p.Node]:
    several = st.lists(children, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.builds(p.Seq, several),
        st.builds(p.Gather, several, st.booleans()),
        st.builds(p.Group, several),
        st.builds(p.Race, several, st.booleans()),
        st.builds(p.Completed, several, st.booleans()),
        st.builds(p.Bag, several),
        st.builds(p.Within, _SECONDS, children, st.integers(0, 1)),
        st.builds(p.Shield, children),
        st.builds(p.Cancel, children, st.integers(0, 3), st.integers(0, 2)),
        st.builds(p.Cleanup, children, children),
        st.builds(p.Swallow, children),
        st.builds(p.Locked, children),
        st.builds(p.Limited, children),
        st.builds(p.Patch, st.integers(0, 1), children, children),
        st.builds(p.Generate, several, st.none() | st.integers(1, 2), st.booleans()),
    )


def programs(*, max_leaves: int = 12) -> st.SearchStrategy[p.Node]:
    """Programs: trees of at most `max_leaves` leaves, one to four of them in a row."""
    tree = st.recursive(leaves(), _composed, max_leaves=max_leaves)
    return st.lists(tree, min_size=1, max_size=4).map(lambda row: p.Seq(tuple(row)))


def answers() -> st.SearchStrategy[Answer]:
    """How one pending activity ends."""
    return st.builds(Answer, st.integers(0, 3), st.integers(0, 3))


def steps() -> st.SearchStrategy[Step]:
    """One workflow task, as the outside world brings it about."""
    return st.builds(
        Step,
        answers=st.lists(answers(), max_size=3).map(tuple),
        fire=st.booleans(),
        # Most runs are never cancelled; those that are, at any point.
        cancel=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 2)),
        keep=st.booleans(),
        crash=st.booleans(),
    )


def schedules(*, max_size: int = 8) -> st.SearchStrategy[tuple[Step, ...]]:
    """What happens to a run, task by task."""
    return st.lists(steps(), max_size=max_size).map(tuple)


def cases(*, max_leaves: int = 12, max_steps: int = 8) -> st.SearchStrategy[Case]:
    """Programs together with a schedule."""
    return st.builds(
        Case, programs(max_leaves=max_leaves), schedules(max_size=max_steps)
    )

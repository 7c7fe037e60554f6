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

from durable.testing.programs import programs as p
from durable.testing.programs.schedules import Answer, Case, Message, Step

_SECONDS = st.integers(0, 3)


def leaves() -> st.SearchStrategy[p.Node]:
    """Programs without parts."""
    act = st.builds(p.Act, st.integers(0, 2), st.integers(0, 9), st.booleans())
    return st.one_of(
        act,
        act,  # again: what workflows mostly do
        act,
        act,
        st.builds(p.Sleep, _SECONDS),
        st.builds(p.Pause, _SECONDS),
        st.builds(p.Draw, st.integers(0, 3)),
        st.builds(p.Put, st.integers(0, 9)),
        st.builds(p.Take, st.integers(1, 3)),
        st.builds(
            p.Await, st.integers(0, 3), st.none() | _SECONDS, takes=st.booleans()
        ),
        st.builds(p.Notify, st.integers(1, 2)),
        st.builds(p.Noticed, st.integers(1, 3)),
        st.builds(p.Signalled, st.integers(1, 3)),
        st.builds(p.Fail, st.integers(0, 2)),
        *_conversing(),
    )


def _conversing() -> list[st.SearchStrategy[p.Node]]:
    """What programs say to others and hear from them."""
    receive = st.builds(
        p.Receive, st.integers(0, 2), st.none() | st.integers(1, 3), st.booleans()
    )
    return [
        receive,
        receive,
        _handlers(),
        st.builds(p.Finish, st.integers(1, 3)),
        st.builds(p.Show, st.integers(0, 9)),
        st.builds(
            p.Raise,
            st.integers(0, 2),
            st.integers(0, 3),
            st.integers(0, 2),
            st.none() | st.integers(0, 2),
            st.booleans(),
        ),
        st.builds(p.Tell, st.integers(0, 1), st.integers(0, 2)),
    ]


def _handlers() -> st.SearchStrategy[p.Node]:
    return st.builds(
        p.Handle,
        st.sampled_from((1, 0, 1, 2)),
        st.none() | st.integers(0, 2),
        st.booleans(),
        # Most handlers are set for good.
        st.sampled_from((False, False, False, True)),
    )


def _composed(children: st.SearchStrategy[p.Node]) -> st.SearchStrategy[p.Node]:
    several = st.lists(children, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.builds(p.Seq, several),
        st.builds(
            p.Gather, several, st.booleans(), turns=st.none() | st.integers(0, 3)
        ),
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
    """Programs: trees of at most `max_leaves` leaves, one to four of them in a row.

    Some begin by setting handlers, some continue as new somewhere, and some offer
    checkpoints between the trees.
    """
    again = st.builds(p.Again, st.integers(0, 9))
    tree = st.recursive(
        st.one_of(leaves(), leaves(), leaves(), leaves(), leaves(), again),
        _composed,
        max_leaves=max_leaves,
    )
    row = st.one_of(tree, tree, tree, st.just(p.Mark()))
    rows = st.lists(row, min_size=1, max_size=5)
    handlers = st.lists(_handlers(), max_size=3)
    return st.tuples(handlers, rows).map(lambda parts: p.Seq((*parts[0], *parts[1])))


def answers() -> st.SearchStrategy[Answer]:
    """How one pending operation ends."""
    return st.builds(Answer, st.integers(0, 3), st.integers(0, 3))


def messages() -> st.SearchStrategy[Message]:
    """One message that comes from outside."""
    return st.builds(
        Message,
        st.sampled_from((0, 0, 0, 2, 2, 1)),
        st.integers(0, 2),
        st.integers(0, 9),
        st.none() | st.integers(0, 1),
        st.integers(0, 3),
    )


def steps() -> st.SearchStrategy[Step]:
    """One workflow task, as the outside world brings it about."""
    return st.builds(
        Step,
        answers=st.lists(answers(), max_size=3).map(tuple),
        messages=st.lists(messages(), max_size=3).map(tuple),
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

"""What a composed flow may do, found out without running it.

Every order in which its steps can end is tried, on the assumption that each step that
has begun does end. What no order ever begins is unreachable; where nothing can happen
any more before the end, parts wait for each other for ever.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

STATES_MAX: Final = 2_000
"""So many states are tried one by one: a tenth of a second in all."""


class Kind(enum.Enum):
    """What a part of a flow does."""

    STEP = enum.auto()
    SKIP = enum.auto()
    FAIL = enum.auto()
    NEVER = enum.auto()
    PROVIDE = enum.auto()
    NEED = enum.auto()
    SEQ = enum.auto()
    PAR = enum.auto()
    CHOICE = enum.auto()


class Part(NamedTuple):
    """A flow as its check sees it.

    Attributes:
        name: of a step; the token's name of PROVIDE and NEED.
        parts: of SEQ, PAR and CHOICE.
    """

    kind: Kind
    name: str
    parts: tuple[Part, ...] = ()

    def __str__(self) -> str:
        if self.kind is Kind.STEP:
            return repr(self.name)
        if self.kind in (Kind.PROVIDE, Kind.NEED):
            return f"{self.kind.name.lower()}({self.name!r})"
        if self.parts:
            inner = ", ".join(map(str, self.parts))
            return f"{self.kind.name.lower()}({inner})"
        return f"{self.kind.name.lower()}()"


class _Place:
    """A part at its place in a flow, which may hold the same part twice."""

    def __init__(
        self, part: Part, parent: _Place | None, index: int, places: list[_Place]
    ) -> None:
        self.part = part
        self.parent = parent
        self.index = index
        self.number = len(places)
        places.append(self)
        self.is_plain = _is_plain(part)
        # A plain part is one step: in which order its own steps end plays no role.
        inner = () if self.is_plain else part.parts
        self.places = [_Place(p, self, n, places) for n, p in enumerate(inner)]


def _is_plain(part: Part) -> bool:
    """Whether a part is sure to end, without a part in what happens elsewhere."""
    if part.kind is Kind.CHOICE:
        # A branch that ends at once would keep the others from ever going on.
        return all(_is_plain(p) and _takes_time(p) for p in part.parts)
    if part.kind in (Kind.SEQ, Kind.PAR):
        return _takes_time(part) and all(
            _is_plain(p) or p.kind is Kind.SKIP for p in part.parts
        )
    return part.kind is Kind.STEP


def _takes_time(part: Part) -> bool:
    return part.kind is Kind.STEP or any(map(_takes_time, part.parts))


class _State(NamedTuple):
    """How far a flow has come: which steps have ended, and what that has led to."""

    ended: frozenset[int] = frozenset()
    winners: frozenset[tuple[int, int]] = frozenset()
    tokens: frozenset[str] = frozenset()


class _Look:
    """What follows at once from a state, and what may happen next.

    Attributes:
        state: the state, with all that follows.
        running: steps that have begun and not ended.
        waiting: needs that wait, and nevers.
        begun: all parts that have begun.
        ties: branches that ended at the same time as one that won.
        has_failed: a `fail` has begun, which ends the flow.
        is_done: the flow has come to its end.
    """

    def __init__(self, root: _Place, state: _State, *, tries_all: bool = False) -> None:
        self._ended = set(state.ended)
        self._winners = dict(state.winners)
        self._tokens = set(state.tokens)
        self._tries_all = tries_all
        self.begun: set[int] = set()
        self.ties: set[tuple[int, int]] = set()
        self.has_failed = False
        before = -1
        while before != len(self._tokens) + len(self._winners):
            before = len(self._tokens) + len(self._winners)
            self.running: list[int] = []
            self.waiting: list[_Place] = []
            self.is_done = self._goes_on(root)
        self.state = _State(
            frozenset(self._ended),
            frozenset(self._winners.items()),
            frozenset(self._tokens),
        )

    def _goes_on(self, place: _Place) -> bool:
        """Let a part begin; whether it has ended."""
        self.begun.add(place.number)
        kind, part = place.part.kind, place.part
        if place.is_plain:
            if self._tries_all or place.number in self._ended:
                return True
            self.running.append(place.number)
            return False
        if kind is Kind.PROVIDE:
            self._tokens.add(part.name)
        elif kind is Kind.FAIL:
            self.has_failed = True
            return False
        elif kind is Kind.NEVER or (
            kind is Kind.NEED and part.name not in self._tokens
        ):
            self.waiting.append(place)
            return False
        elif kind is Kind.SEQ:
            return all(map(self._goes_on, place.places))
        elif kind is Kind.PAR:
            return all([self._goes_on(inner) for inner in place.places])
        elif kind is Kind.CHOICE:
            return self._has_winner(place)
        return True

    def _has_winner(self, place: _Place) -> bool:
        if place.number in self._winners:
            return True
        ended = [self._goes_on(inner) for inner in place.places]
        if not any(ended):
            return False
        if not self._tries_all:
            self._winners[place.number] = ended.index(True)
        # Which of several wins makes no difference to what can happen next.
        self.ties.update((place.number, n) for n, has in enumerate(ended) if has)
        return True


class _Found(NamedTuple):
    """What trying the orders has shown.

    Attributes:
        stuck: states in which nothing can happen any more before the end.
        begun: the parts that ever begin.
        winners: each choice that ever ends, with the branch that won.
    """

    stuck: list[_Look]
    begun: set[int]
    winners: set[tuple[int, int]]


def find_problems(part: Part) -> list[str]:
    """Everything that is wrong with a whole flow, each as a sentence."""
    places: list[_Place] = []
    root = _Place(part, None, 0, places)
    choices = sum(p.part.kind is Kind.CHOICE and not p.is_plain for p in places)
    found = _try_all_orders(root, choices)
    stuck = _try_in_general(root) if found is None else found.stuck
    problems = list(dict.fromkeys(_wait(look, places) for look in stuck))
    if problems or found is None:
        hidden = [*_cut_off(places)]
    else:
        hidden = _never_begun(places, found.begun)
        problems += _never_won(places, found.winners)
    return [*problems, *(_unreachable(place) for place in hidden)]


def _try_all_orders(root: _Place, choices: int) -> _Found | None:
    """Try all orders in which steps can end; None if there are too many.

    Once all choices are made, one order is as good as any: what has been provided is
    never taken back, so nothing that ends keeps anything else from ending.
    """
    first = _Look(root, _State())
    seen = {first.state}
    pending = [first]
    found = _Found([], set(), set())
    while pending:
        look = pending.pop()
        found.begun.update(look.begun)
        found.winners.update(look.ties)
        if look.is_done or look.has_failed:
            continue
        if not look.running:
            found.stuck.append(look)
        is_settled = len(look.state.winners) == choices
        steps = [look.running] if is_settled else [[n] for n in look.running]
        for ending in steps if look.running else []:
            state = look.state._replace(ended=look.state.ended.union(ending))
            following = _Look(root, state)
            if following.state not in seen:
                seen.add(following.state)
                pending.append(following)
        if len(seen) > STATES_MAX:
            return None
    return found


def _try_in_general(root: _Place) -> list[_Look]:
    """Where it stands still even if each branch of a choice does all it does, and wins.

    That is what goes wrong in every order.
    """
    look = _Look(root, _State(), tries_all=True)
    return [] if look.is_done or look.has_failed else [look]


# --- what cannot be reached -----------------------------------------------------------


def _never_begun(places: list[_Place], begun: set[int]) -> list[_Place]:
    """The outermost parts that never begin."""
    return [
        place
        for place in places
        if place.number not in begun
        and place.parent is not None
        and place.parent.number in begun
    ]


def _never_won(places: list[_Place], winners: set[tuple[int, int]]) -> Iterator[str]:
    """Branches that could end and never do so first."""
    for place in places:
        if place.part.kind is Kind.CHOICE:
            for branch in place.places:
                is_winner = (place.number, branch.index) in winners
                if not is_winner and _may_end(branch.part):
                    yield f"{branch.part} can never win in {place.part}."


def _cut_off(places: list[_Place]) -> Iterator[_Place]:
    """Parts right after one that never goes on, whatever happens elsewhere."""
    for place in places:
        if place.part.kind is Kind.SEQ:
            for before, after in zip(place.places, place.places[1:], strict=False):
                if not _may_end(before.part):
                    yield after
                    break


def _may_end(part: Part) -> bool:
    if part.kind in (Kind.FAIL, Kind.NEVER):
        return False
    if part.kind is Kind.CHOICE:
        return any(map(_may_end, part.parts))
    return all(map(_may_end, part.parts))


def _unreachable(place: _Place) -> str:
    parent = place.parent
    if parent is None or parent.part.kind is not Kind.SEQ or not place.index:
        return f"{place.part} can never run."
    before = parent.part.parts[place.index - 1]
    why = "never goes on" if not _may_end(before) else "never comes so far"
    return f"{place.part} can never run: {before}, before it, {why}."


# --- what waits for ever --------------------------------------------------------------


def _wait(look: _Look, places: list[_Place]) -> str:
    """Say who waits for what in a state where nothing can happen any more."""
    needs = [place for place in look.waiting if place.part.kind is Kind.NEED]
    if not needs:
        return "The flow can wait for ever: nothing but never() is left of it."
    reasons = [_why(need, look, places) for need in needs]
    return f"The flow can wait for ever: {'; '.join(dict.fromkeys(reasons))}."


def _why(need: _Place, look: _Look, places: list[_Place]) -> str:
    providers = [
        place
        for place in places
        if place.part.kind is Kind.PROVIDE and place.part.name == need.part.name
    ]
    if not providers:
        return f"{need.part} needs what nothing provides"
    whys = dict.fromkeys(_why_not(provider, look) for provider in providers)
    return f"{need.part} waits for {providers[0].part}, which {' and '.join(whys)}"


def _why_not(provider: _Place, look: _Look) -> str:
    """Why something was not provided."""
    winners = dict(look.state.winners)
    place, parent = provider, provider.parent
    while parent is not None:
        if winners.get(parent.number, place.index) != place.index:
            return "is in a branch of a choice that can lose"
        if parent.part.kind is Kind.SEQ:
            blocking = [w for w in look.waiting if _is_before(w, parent, place.index)]
            if blocking:
                return f"comes after {blocking[0].part}"
        place, parent = parent, parent.parent
    return "never comes"


def _is_before(waiting: _Place, seq: _Place, index: int) -> bool:
    """Whether a part is within an earlier part of a sequence."""
    place: _Place | None = waiting
    while place is not None and place.parent is not seq:
        place = place.parent
    return place is not None and place.index < index

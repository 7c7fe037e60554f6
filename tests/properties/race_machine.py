"""What all races have in common: a world, gates, crashes, and checks at the end."""

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.properties.gated_store import FAULTS, MOVES
from tests.properties.race_checks import (
    Chain,
    check_nothing_is_lost,
    check_rows,
    check_world,
)
from tests.properties.race_world import World
from tests.sizes import size

EXAMPLES: Final = size("DURABLE_RACES", 8, 40)
"""Races of each kind; the full proof is DURABLE_RACES=5000."""
RACING: Final = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    phases=[
        p for p in Phase if p is not Phase.shrink or not os.environ.get("NOSHRINK")
    ],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ROUNDS_MAX: Final = 40
places: Final = st.booleans()


class RaceMachine(RuleBasedStateMachine):
    """A race; subclasses say who races."""

    targets: tuple[str, ...] = ("a",)

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.is_unlucky = self.is_faulty = self.has_died = False

    @initialize(
        is_stubborn=st.booleans(),
        is_hasty=st.booleans(),
        is_unlucky=st.booleans(),
        early=st.sampled_from(("", "act", "try_on", None)),
        moves=st.lists(st.sampled_from(MOVES), max_size=4),
    )
    def begin(
        self,
        is_stubborn: bool,
        is_hasty: bool,
        is_unlucky: bool,
        early: str | None,
        moves: list[str],
    ) -> None:
        self.is_unlucky = is_unlucky
        for target in self.targets:
            self.world.start(
                target, is_home=True, is_stubborn=is_stubborn, is_hasty=is_hasty
            )
        if early is None:
            self.world.flow()
            return
        for gate in moves:
            self.world.move(gate)
        for target in self.targets:  # races the start itself
            self.world.send(target, is_home=False, do=early)
        self.world.let_reads_through()

    # --- gates ------------------------------------------------------------------------

    @rule(moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=4))
    def let_some_through(self, moves: list[str]) -> None:
        for gate in moves:
            self.world.move(gate)
        check_rows(self.world)

    @rule()
    def let_reads_through(self) -> None:
        """Reads go on while a write waits for its disk."""
        self.world.let_reads_through()
        check_rows(self.world)

    @rule()
    def let_all_through(self) -> None:
        self.world.flow()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def look_again(self) -> None:
        self.world.handles.clear()

    @rule(which=st.integers(0, 3))
    def end_an_activity(self, which: int) -> None:
        self.world.stage.finish(which)
        self.world.settle()

    @rule(which=st.integers(0, 3))
    def fail_an_activity(self, which: int) -> None:
        self.world.stage.finish(which, fails=True)
        self.world.settle()

    # --- faults -----------------------------------------------------------------------

    @precondition(lambda self: self.is_unlucky)
    @rule(fault=st.sampled_from(FAULTS))
    def fail_a_commit(self, fault: str) -> None:
        self.is_faulty = True
        self.world.gate.fail_next(fault)

    @precondition(lambda self: self.is_unlucky)
    @rule()
    def fail_a_read(self) -> None:
        self.is_faulty = True
        self.world.gate.is_failing_reads = True

    @precondition(lambda self: self.is_unlucky)
    @rule(is_away=st.booleans())
    def lose_the_database(self, is_away: bool) -> None:
        self.is_faulty = True
        self.world.gate.is_away = is_away
        self.world.gate.is_full = not is_away

    @rule()
    def find_the_database(self) -> None:
        self.world.gate.mend()

    @precondition(lambda self: self.is_unlucky)
    @rule()
    def lose_the_lease(self) -> None:
        self.die()
        self.is_faulty = True
        self.world.lose_lease()

    @rule()
    def crash(self) -> None:
        self.die()
        check_rows(self.world)
        self.world.crash()

    @rule()
    def restart(self) -> None:
        self.die()
        self.world.restart()

    # --- the end ----------------------------------------------------------------------

    def check(self) -> dict[str, list[Chain]]:
        """Check everything that is at rest."""
        self.die()
        return check_world(self.world, is_faulty=self.is_faulty)

    def die(self) -> None:
        """Until here no worker has died."""
        if not (self.has_died or self.is_faulty):
            check_nothing_is_lost(self.world)
        self.has_died = True

    def teardown(self) -> None:
        world = self.world
        try:
            world.calm()
            self.check()
            for _ in range(ROUNDS_MAX):  # letters that wait may start more
                if world.open_runs():
                    world.end_runs()
                    world.calm()
            self.check()
            assert not world.open_runs()
            world.close()
        except BaseException:
            world.abandon()
            raise

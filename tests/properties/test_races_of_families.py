"""Parents, children and strangers: their starts, ends, cancels and letters race."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.properties.family_checks import check_families
from tests.properties.race_checks import Chain
from tests.properties.race_machine import RACING, RaceMachine, places

KIDS = ("kid-0", "kid-1", "kid-2")
EVERYBODY = ("a", "b", *KIDS)
ENDINGS = ("finish", "fail", "continue", "checkpoint", "settle", "try_beside")
"""How a run ends, or what it does beside that."""
people = st.sampled_from(EVERYBODY)


class Families(RaceMachine):
    """Children race their parent's end: they start, end, continue and are stopped."""

    targets = ("a",)

    @rule(
        is_home=places,
        do=st.sampled_from(("child", "child", "await")),
        kid=st.sampled_from(KIDS),
        how=st.integers(0, 11),
        parent=st.sampled_from(("a", "a", "a", "kid-0")),
    )
    def raise_a_child(
        self, is_home: bool, do: str, kid: str, how: int, parent: str
    ) -> None:
        self.world.send(parent, is_home=is_home, do=do, to=kid, how=how)

    @rule(is_home=places, who=people, do=st.sampled_from(ENDINGS))
    def end(self, is_home: bool, who: str, do: str) -> None:
        self.world.send(who, is_home=is_home, do=do)

    @rule(is_home=places, who=people, what=st.sampled_from(("cancel", "terminate")))
    def stop(self, is_home: bool, who: str, what: str) -> None:
        self.world.stop(what, who, is_home=is_home)

    @rule(is_home=places, is_stubborn=st.booleans())
    def start(self, is_home: bool, is_stubborn: bool) -> None:
        self.world.start("a", is_home=is_home, is_stubborn=is_stubborn)

    def check(self) -> dict[str, list[Chain]]:
        chains = super().check()
        check_families(chains)
        return chains


class Strangers(RaceMachine):
    """Runs that send one another letters, and ask one another to stop."""

    targets = ("a", "b")

    @rule(is_home=places, who=people, to=people, do=st.sampled_from(("tell", "stop")))
    def talk(self, is_home: bool, who: str, to: str, do: str) -> None:
        self.world.send(who, is_home=is_home, do=do, to=to)

    @rule(is_home=places, kid=st.sampled_from(KIDS), how=st.integers(0, 11))
    def raise_a_child(self, is_home: bool, kid: str, how: int) -> None:
        self.world.send("a", is_home=is_home, do="child", to=kid, how=how)

    @rule(is_home=places, who=people, do=st.sampled_from(("", "act", "nap", *ENDINGS)))
    def send(self, is_home: bool, who: str, do: str) -> None:
        self.world.send(who, is_home=is_home, do=do)

    @rule(is_home=places, who=people)
    def update(self, is_home: bool, who: str) -> None:
        self.world.update("ask", who, is_home=is_home)

    @rule(is_home=places, who=people)
    def cancel(self, is_home: bool, who: str) -> None:
        self.world.stop("cancel", who, is_home=is_home)

    def check(self) -> dict[str, list[Chain]]:
        chains = super().check()
        check_families(chains)
        return chains


TestFamilies = Families.TestCase
TestFamilies.settings = RACING
TestStrangers = Strangers.TestCase
TestStrangers.settings = RACING

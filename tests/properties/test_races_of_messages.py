"""Signals, updates, cancels, completions and continue-as-new, racing one another."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.properties.race_machine import RACING, RaceMachine, places

ENDINGS = ("finish", "fail", "continue", "checkpoint")


class SignalsAndEndings(RaceMachine):
    """Signals race the end of their run, and its continuing as new."""

    @rule(is_home=places, do=st.sampled_from(("", "", "", "act", "nap", "within")))
    def send(self, is_home: bool, do: str) -> None:
        self.world.send("a", is_home=is_home, do=do)

    @rule(is_home=places, do=st.sampled_from(ENDINGS))
    def end(self, is_home: bool, do: str) -> None:
        self.world.send("a", is_home=is_home, do=do)

    @rule(is_home=places, what=st.sampled_from(("note", "push", "heave")))
    def signal(self, is_home: bool, what: str) -> None:
        self.world.signal(what, "a", is_home=is_home)

    @rule(is_home=places)
    def receive_both(self, is_home: bool) -> None:
        self.world.send("a", is_home=is_home, do="both")


TestSignalsAndEndings = SignalsAndEndings.TestCase
TestSignalsAndEndings.settings = RACING

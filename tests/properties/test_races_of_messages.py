"""Signals, updates, cancels, completions and continue-as-new, racing one another."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.properties.race_machine import RACING, RaceMachine, places
from tests.properties.race_world import Deed

ENDINGS = ("finish", "fail", "continue", "checkpoint")


class SignalsAndEndings(RaceMachine):
    """Signals race the end of their run, its checkpoints and its continuing as new."""

    @rule(is_home=places, do=st.sampled_from(("", "", "", "try_on", "nap", "within")))
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


class UpdatesAndEndings(RaceMachine):
    """Updates, each perhaps sent twice, race the end of their run."""

    def updates(self) -> list[Deed]:
        return [d for d in self.world.deeds if d.what in ("ask", "work", "leave")]

    @rule(is_home=places, what=st.sampled_from(("ask", "ask", "work", "leave")))
    def update(self, is_home: bool, what: str) -> None:
        self.world.update(what, "a", is_home=is_home)

    @rule(is_home=places, which=st.integers(0, 9))
    def update_again(self, is_home: bool, which: int) -> None:
        updates = self.updates()
        if updates:
            again = updates[which % len(updates)]
            self.world.update(again.what, "a", is_home=is_home, number=again.number)

    @rule(is_home=places, do=st.sampled_from((*ENDINGS, "act", "nap")))
    def send(self, is_home: bool, do: str) -> None:
        self.world.send("a", is_home=is_home, do=do)

    @rule(is_home=places, what=st.sampled_from(("cancel", "terminate")))
    def stop(self, is_home: bool, what: str) -> None:
        self.world.stop(what, "a", is_home=is_home)


class CancelsAndEndings(RaceMachine):
    """Cancels and terminations race activities, timers and the end of their run."""

    @rule(
        is_home=places,
        do=st.sampled_from(
            (*ENDINGS, "act", "act_on", "try_on", "nap", "within", "both")
        ),
    )
    def send(self, is_home: bool, do: str) -> None:
        self.world.send("a", is_home=is_home, do=do)

    @rule(is_home=places)
    def cancel(self, is_home: bool) -> None:
        self.world.stop("cancel", "a", is_home=is_home)

    @rule(is_home=places)
    def cancel_again(self, is_home: bool) -> None:
        self.world.stop("cancel", "a", is_home=is_home, key="the same cancel")

    @rule(is_home=places)
    def terminate(self, is_home: bool) -> None:
        self.world.stop("terminate", "a", is_home=is_home)


class ChainsOfRuns(RaceMachine):
    """Everything that is sent to a chain of runs, while they follow one another."""

    @rule(is_home=places)
    def go_on(self, is_home: bool) -> None:
        self.world.send("a", is_home=is_home, do="continue")

    @rule(is_home=places)
    def leave(self, is_home: bool) -> None:
        self.world.update("leave", "a", is_home=is_home)

    @rule(is_home=places, do=st.sampled_from(("", "act", "finish", "checkpoint")))
    def send(self, is_home: bool, do: str) -> None:
        self.world.send("a", is_home=is_home, do=do)

    @rule(is_home=places, which=st.integers(0, 9))
    def send_again(self, is_home: bool, which: int) -> None:
        letters = [deed for deed in self.world.deeds if deed.what == "letter"]
        if letters:
            again = letters[which % len(letters)]
            self.world.send(
                "a", is_home=is_home, number=again.number, key=again.key, do="again"
            )

    @rule(is_home=places, what=st.sampled_from(("note", "push", "heave")))
    def signal(self, is_home: bool, what: str) -> None:
        self.world.signal(what, "a", is_home=is_home)

    @rule(is_home=places, what=st.sampled_from(("ask", "work")))
    def update(self, is_home: bool, what: str) -> None:
        self.world.update(what, "a", is_home=is_home)

    @rule(is_home=places)
    def cancel(self, is_home: bool) -> None:
        self.world.stop("cancel", "a", is_home=is_home)

    @rule(is_home=places, is_stubborn=st.booleans())
    def start(self, is_home: bool, is_stubborn: bool) -> None:
        self.world.start("a", is_home=is_home, is_stubborn=is_stubborn)


TestSignalsAndEndings = SignalsAndEndings.TestCase
TestSignalsAndEndings.settings = RACING
TestUpdatesAndEndings = UpdatesAndEndings.TestCase
TestUpdatesAndEndings.settings = RACING
TestCancelsAndEndings = CancelsAndEndings.TestCase
TestCancelsAndEndings.settings = RACING
TestChainsOfRuns = ChainsOfRuns.TestCase
TestChainsOfRuns.settings = RACING

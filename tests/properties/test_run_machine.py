"""Whatever comes to a run, in whatever order, it keeps what its machine promises.

Steps are drawn: messages by hand and by mail, writes that end well, badly or nobody
knows how, reads that are late, attempts that end in all ways. While they are taken,
`RunWorld` looks that a run never drives beside a write and that nothing begins or is
told before it is durable. Then everything is let flow, and the end must be right.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from durable.core.history.events import WorkflowExecutionSignaled
from durable.core.messages import ActivityResolution, encode_message
from durable.runs import inputs
from durable.runs.states import AT_REST, OVER
from durable.store.records import AttemptState, RunStatus
from tests import obeyer
from tests.obeyer import addition, letter
from tests.run_store import AT_ONCE
from tests.run_world import SECOND, RunWorld
from tests.sizes import examples

Step: TypeAlias = tuple[str, int]

_DOES: Final = (
    "",
    "act",
    "act",
    "local",
    "local",
    "act once",
    "cancel",
    "sleep",
    "bug",
    "end",
)
_ENDS: Final = (
    "completed",
    "completed",
    "failed",
    "failed",
    "timed out",
    "stopped",
    "not begun",
    "lost",
    "unrecorded",
    "unknown",
    "queued",
)
_DRAINED: Final = ("completed", "failed", "doubtful", "unheard", "left")
_REFUSED: Final = (
    "taken",
    "unknown",
    "answer lost",
    "answer lost",
    "lease lost",
    "too large",
)
_STEPS: Final = (
    "nothing",
    "by hand",
    "by hand",
    "by mail",
    "by mail",
    "again by hand",
    "again by mail",
    "update by hand",
    "update by mail",
    "update again",
    "drive",
    "drive",
    "drive",
    "store",
    "store",
    "store",
    "store",
    "refuse",
    "see mail",
    "bring mail",
    "bring mail",
    "read",
    "read",
    "end attempt",
    "end attempt",
    "make room",
    "pass time",
    "ask",
    "harm",
    "evict",
    "leave",
    "drain",
    "enter",
    "break",
    "resolve",
    "hold again",
    "mend",
    "unlearn",
)


class Player:
    """Takes steps in a world, and lets it come to its end."""

    def __init__(self) -> None:
        obeyer.BROKEN[0] = True
        self.world = RunWorld()
        self.by_hand: list[str] = []
        self.by_mail: list[str] = []
        self.unique: set[str] = set()
        self.repeated: set[str] = set()
        self.updates: list[str] = []
        self.questions = 0
        self.world.start(drive=False)

    def take(self, step: Step) -> None:
        """Take one step, if that is possible now."""
        what, which = step
        getattr(self, "_" + what.replace(" ", "_"))(which)
        self.check_row()

    def check_row(self) -> None:
        """At rest the row says what the run waits for.

        It may say too that something is under way: who comes next only looks sooner.
        """
        world, run = self.world, self.world.run
        if run is None or run.state is not AT_REST or world.queue or not world.is_open:
            return
        if world.terms.is_draining:
            return  # it is given up, as one that has something under way
        assert world.record is not None
        row = world.record.is_active, world.record.wake_at
        # Of mail that nobody has told it of the run knows nothing; the row does.
        assert row in (run.row, (False, AT_ONCE))
        is_active, wake_at = run.wanted_row(is_busy=False)
        assert run.row in ((True, wake_at), (is_active, wake_at))

    def _nothing(self, which: int) -> None:
        """What a step that does not matter shrinks to."""

    # --- messages ---------------------------------------------------------------------

    def _by_hand(self, which: int) -> None:
        key = f"hand {len(self.by_hand)}"
        self.by_hand.append(key)
        may_repeat = which % 3 > 0
        if not may_repeat:
            self.unique.add(key)
        event = letter(key, _DOES[which % len(_DOES)])
        self.world.tell(event, may_repeat=may_repeat)

    def _by_mail(self, which: int) -> None:
        if not self.world.is_open:
            return
        key = f"mail {len(self.by_mail)}"
        self.by_mail.append(key)
        self.world.put(letter(key, _DOES[which % len(_DOES)]))

    def _again(self, which: int) -> Any:
        sent = (*self.by_hand, *self.by_mail)
        known = [key for key in sent if key not in self.unique]
        if not known:
            return None
        key = known[which % len(known)]
        self.repeated.add(key)
        return self.world.sent[key]

    def _again_by_hand(self, which: int) -> None:
        event = self._again(which)
        if event is not None:
            self.world.tell(event)

    def _again_by_mail(self, which: int) -> None:
        event = self._again(which)
        if event is not None:
            self.world.put(event)

    def _update(self, which: int) -> Any:
        key = f"update {len(self.updates)}"
        self.updates.append(key)
        return addition(key, which - 3)

    def _update_by_hand(self, which: int) -> None:
        self.world.tell(self._update(which))

    def _update_by_mail(self, which: int) -> None:
        if self.world.is_open:
            self.world.put(self._update(which))

    def _update_again(self, which: int) -> None:
        if self.updates:
            event = self.world.sent[self.updates[which % len(self.updates)]]
            if which % 2:
                self.world.tell(event)
            else:
                self.world.put(event)

    def _see_mail(self, which: int) -> None:
        self.world.see_mail()

    def _bring_mail(self, which: int) -> None:
        self.world.bring_mail()

    def _ask(self, which: int) -> None:
        self.questions += 1
        token = f"question {self.questions}"
        if self.world.run is None:
            self.world.looks[token] += 1
        else:
            self.world.feed(inputs.Asked(token))

    def _harm(self, which: int) -> None:
        self.world.harms = True
        self._ask(which)

    # --- writes, code, memory ---------------------------------------------------------

    def _drive(self, which: int) -> None:
        self.world.drive()

    def _store(self, which: int) -> None:
        self.world.store()

    def _refuse(self, which: int) -> None:
        self.world.store(_REFUSED[which % len(_REFUSED)])

    def _read(self, which: int) -> None:
        self.world.read()

    def _evict(self, which: int) -> None:
        if self.world.run is not None and self.world.run.is_idle:
            self.world.feed(inputs.Leave())

    def _leave(self, which: int) -> None:
        self.world.leave()

    def _enter(self, which: int) -> None:
        self.world.enter()

    def _break(self, which: int) -> None:
        obeyer.BROKEN[0] = bool(which % 2)

    def _unlearn(self, which: int) -> None:
        self.world.knows = bool(which % 2)

    def _drain(self, which: int) -> None:
        """The worker ends, in three steps; another comes."""
        world = self.world
        if not world.terms.is_draining:
            world.terms.is_draining = True
            return
        for attempt in [*world.running]:
            if which % 2:
                world.end_attempt(attempt, _DRAINED[which % len(_DRAINED)])
                return
        world.leave()
        world.join()

    # --- attempts ---------------------------------------------------------------------

    def _end_attempt(self, which: int) -> None:
        running = self.world.running
        if running:
            attempt = running[which // len(_ENDS) % len(running)]
            how = _ENDS[which % len(_ENDS)]
            if how in {"unknown", "queued"} and attempt.phase.value != "running":
                how = "completed"
            if how == "lost" and attempt.scheduled.settings.is_local:
                how = "completed"  # it has no process of its own
            if how == "stopped" and attempt.phase.value != "cancelling":
                how = "failed"
            self.world.end_attempt(attempt, how)

    def _make_room(self, which: int) -> None:
        if self.world.queued and not self.world.terms.is_draining:
            self.world.make_room(self.world.queued[0])

    def _pass_time(self, which: int) -> None:
        self.world.pass_time(which * SECOND // 4)

    def _hold_again(self, which: int) -> None:
        self.world.hold_again()

    def _mend(self, which: int) -> None:
        self.world.mends = bool(which % 2)

    def _resolve(self, which: int) -> None:
        """An operator decides of whatever is held."""
        world = self.world
        held = [
            row for row in world.attempt_rows.values() if row.state.value == "returned"
        ]
        if held and world.is_open:
            row = held[which % len(held)]
            result = obeyer.payload(1) if which % 2 else None
            said = ActivityResolution(row.scheduled_event_id, row.attempt, result)
            world.write_mail(
                "resolve", f"resolve {world.sequence}", encode_message(said)
            )
            if world.run is not None:
                world.feed(inputs.MailCame())

    # --- the end ----------------------------------------------------------------------

    def flow(self) -> None:
        """Let everything happen, well, until nothing is left to happen."""
        world = self.world
        obeyer.BROKEN[0] = False
        world.mends = world.knows = True
        world.harms = False
        if world.terms.is_draining:
            world.leave()
            world.join()
        for _ in range(300):
            if not self._goes_on():
                return
            self.check_row()
        raise AssertionError("it never comes to rest")

    def _goes_on(self) -> bool:
        world = self.world
        if world.wants_mail:
            world.bring_mail()
        elif world.queue:
            world.store()
        elif world.record is None and world.run is None:
            world.start(drive=False)
        elif world.run is None:
            return world.enter() is not None
        elif world.wants_run:
            world.read()
        elif world.task is not None:
            world.drive()
        elif world.hold_again():
            pass
        elif world.queued:
            world.make_room(world.queued[0])
        elif world.running:
            world.end_attempt(world.running[0], "completed")
        elif world.run.next_due_at() is not None:
            world.pass_time(10 * SECOND)
        else:
            return False
        return True

    def check_end(self) -> None:
        """What must be true once nothing is left to happen."""
        world, run = self.world, self.world.run
        assert world.record is not None
        for token, answers in world.answers.items():
            assert len(answers) == 1, (token, answers)
        for number in range(1, self.questions + 1):
            assert world.looks[f"question {number}"] == 1
        self._check_messages()
        if world.record.status is not RunStatus.RUNNING:
            assert run is None
            assert world.inbox == {}
            return
        assert run is not None
        incoming = run.incoming
        assert run.state is AT_REST
        left = (
            *(*incoming.waiting, *incoming.in_commit, *incoming.held),
            *(*incoming.updates, *incoming.stale, *incoming.stale_requests),
            *(*run.ended, *run.questions, *run.resolutions),
        )
        assert left == ()
        assert run.is_idle
        assert world.inbox == {}
        assert run.replayer.unprocessed == []
        row = run.wanted_row(is_busy=False)
        assert world.record.stuck is None
        assert not [
            row
            for row in world.attempt_rows.values()
            if row.state in {AttemptState.STARTED, AttemptState.BACKOFF}
        ]
        self._check_anew(row)

    def _check_messages(self) -> None:
        committed = [
            event.attributes.request_id
            for event in self.world.events()
            if isinstance(event.attributes, WorkflowExecutionSignaled)
        ]
        counts = Counter(self.world.keys())
        assert not [key for key, count in counts.items() if count > 1]
        for key in (*self.by_hand, *self.by_mail):
            assert counts[key] == 1 or key in self.world.lost, key
        refused = {key.removeprefix("update:") for key in self.world.replies}
        said = {key for key, what in self.world.news if what is not None}
        for key in self.updates:
            assert counts[key] or key in refused | said | self.world.lost, key
        mailed = self.world.mailed
        for sent in ([key for key in self.by_hand if key not in mailed], mailed):
            once = [key for key in sent if key not in self.repeated]
            assert [key for key in committed if key in once] == [
                key for key in once if key in committed
            ]

    def _check_anew(self, row: tuple[bool, int | None]) -> None:
        """Who reads the run anew wants the same."""
        world, run = self.world, self.world.run
        assert run is not None
        world.feed(inputs.Leave())
        world.enter()
        world.drive()
        while world.queue:  # its row may have said that something is under way
            world.store()
        anew = world.run
        assert anew is not None
        assert anew.state is AT_REST
        assert anew.wanted_row(is_busy=False) == row
        assert (*anew.incoming.waiting, *anew.attempts, *anew.backoffs) == ()
        assert not world.queue
        assert all(one.phase is OVER for one in run.attempts.values())


class LocalPlayer(Player):
    """Likewise, with local activities under way."""

    def __init__(self, chains: int) -> None:
        super().__init__()
        self.world.drive()
        self.world.store()
        for _ in range(chains):
            self._by_hand(_DOES.index("local"))
            self.world.drive()
            self.world.store()

    def check_row(self) -> None:
        """What is not written keeps the run this worker's; no row says when it is due.

        What a read has passed on its way may be said for a moment longer.
        """
        run = self.world.run
        if run is not None and run.state is AT_REST and run.unwritten is not None:
            assert run.row[0], "others would take it"


def _steps(names: tuple[str, ...]) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(st.sampled_from(names), st.integers(0, 60))
    return st.lists(step, min_size=15, max_size=80)


def _play(player: Player, steps: list[Step]) -> None:
    try:
        for step in steps:
            player.take(step)
        player.flow()
        player.check_end()
    finally:
        obeyer.BROKEN[0] = False
        if player.world.run is not None:
            player.world.run.replayer.tear_down()


@settings(max_examples=examples(1000))
@given(_steps(_STEPS))
def test_a_run_keeps_its_promises_whatever_comes(steps: list[Step]) -> None:
    _play(Player(), steps)


@settings(max_examples=examples(1000))
@given(_steps((*_STEPS, *("end attempt", "drive") * 8)), st.integers(1, 3))
def test_so_does_one_whose_local_activities_are_not_written(
    steps: list[Step], chains: int
) -> None:
    _play(LocalPlayer(chains), steps)

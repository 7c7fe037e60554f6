"""The judge: the ledger against the database, with nothing of durable in between."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from functools import cached_property
from typing import Final, TypeAlias

from tests.chaos import branches, histories, tale_judge, tales
from tests.chaos.database import Row, event_of
from tests.chaos.ledger import ALL, Line
from tests.chaos.programs import Expected, Program, draw, expect, undoing

_Key: TypeAlias = tuple[str, str]
"""The run and the id of an activity."""
# A lease that ran out in a fault may be taken over until it has been renewed.
_RECOVERY_SECONDS: Final = 5.0


class Judge:
    """Judges one run of chaos: `violations` says what is wrong, of which run.

    Args:
        lines: the ledger.
        tables: `runs`, `history` and `attempts`.
    """

    def __init__(
        self, lines: list[Line], tables: dict[str, list[Row]], seed: int
    ) -> None:
        self.violations: list[str] = []
        self.branches = branches.count(lines)
        self.figures: Counter[str] = Counter()
        self._lines = lines
        self._attempts = tables["attempts"]
        self._runs = {row["run_id"]: row for row in tables["runs"]}
        self._history: dict[str, list[Row]] = defaultdict(list)
        for row in tables["history"]:
            self._history[row["run_id"]].append(event_of(row))
        self._chains: dict[str, list[Row]] = defaultdict(list)
        for row in tables["runs"]:
            self._chains[row["workflow_id"]].append(row)
        self._programs: list[tuple[Program, Expected]] = []
        begun = sorted(x["program"] for x in lines if x["what"] == "begun")
        self._tales = [tales.draw(seed, number) for number in begun]
        self._tale_places = {
            place
            for tale in self._tales
            for workflow_id in tale.workflow_ids
            for place in tale.places(workflow_id)
        }
        for number in begun:
            program = draw(seed, number)
            self._programs.append((program, expect(program)))
        self._faults = [x for x in lines if x["what"] == "fault"]
        self._of_activity: dict[_Key, dict[str, list[Line]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._of_place: dict[str, dict[str, list[Line]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for line in lines:
            if line["what"] in ("begin", "end", "fail"):
                key = line["run"], line["activity"]
                self._of_activity[key][line["what"]].append(line)
                self._of_place[line["place"]][line["what"]].append(line)

    def judge(self) -> None:
        self._check_processes()
        for chain in self._chains.values():
            for row in chain:
                for text in histories.faults_of(row, self._history[row["run_id"]]):
                    self._violated(row["workflow_id"], text)
            if chain[0]["workflow_type"] != tale_judge.TYPE:
                self._check_chain(chain)
        for program, expected in self._programs:
            self._check_program(program, expected)
        self._check_tales()
        self._check_effects()
        for key in self._of_activity:
            self._check_activity(key)
        self._count_branches()

    def _violated(self, who: str, text: str) -> None:
        self.violations.append(f"{who}: {text}")

    # --- processes and what clients were told -----------------------------------------

    def _check_processes(self) -> None:
        for line in self._lines:
            match line["what"]:
                case "died":
                    text = f"ended by itself with {line['code']}"
                    self._violated(line["of"], text)
                case "wrong":
                    self._violated(line["key"], line["text"])
                case "standstill":
                    self._violated(
                        "all", f"nothing goes on, and open are {line['runs']}"
                    )
        for row in self._runs.values():
            if row["open_key"] is not None:
                self._violated(row["workflow_id"], f"is open; stuck: {row['stuck']}")

    # --- runs -------------------------------------------------------------------------

    def _check_chain(self, chain: list[Row]) -> None:
        who = chain[0]["workflow_id"]
        firsts = {row["first_run_id"] for row in chain}
        if len(firsts) > 1:
            self._violated(who, f"was started {len(firsts)} times")
        before = {row["continued_from_run_id"] for row in chain}
        for row in chain:
            goes_on = row["status"] == "continued_as_new"
            if goes_on != (row["run_id"] in before):
                self._violated(who, f"{row['run_id']} and what follows it disagree")
        if len(before) < len(chain):
            self._violated(who, "two runs follow the same one")

    def _events(self, workflow_id: str, *kinds: str) -> list[Row]:
        return [
            event
            for row in self._chains[workflow_id]
            for event in self._history[row["run_id"]]
            if event["type"] in kinds
        ]

    def _last_of(self, workflow_id: str) -> Row | None:
        chain = self._chains.get(workflow_id, ())
        ends = [row for row in chain if row["status"] != "continued_as_new"]
        return ends[-1] if ends else None

    def _check_program(self, program: Program, expected: Expected) -> None:
        who = program.workflow_id
        last = self._last_of(who)
        if last is None:
            if self._is_answered(f"start {who}"):
                self._violated(who, "its start was acknowledged, and it is nowhere")
            return
        self.figures["programs"] += 1
        if last["status"] != "completed":
            self._violated(who, f"ended as {last['status']}")
            return
        self._check_result(last, expected)
        for child, status in expected.children.items():
            found = self._last_of(child)
            found_status = found and found["status"]
            if found_status != status:
                self._violated(child, f"must be {status}, and is {found_status}")
        self._check_messages(program)
        self._check_undone(expected)

    def _check_result(self, last: Row, expected: Expected) -> None:
        who = last["workflow_id"]
        end = self._history[last["run_id"]][-1]
        if "result" not in end["data"]:
            return  # told of as a fault of the history
        found, wanted = histories.value_in(end["data"]["result"]), expected.result
        for name in ("values", "signals", "updates"):
            if found[name] != getattr(wanted, name):
                self._violated(
                    who,
                    f"{name} must be {getattr(wanted, name)}, and are {found[name]}",
                )
        once = found["once"]
        if once.keys() != wanted.once.keys():
            self._violated(who, f"once must be {wanted.once}, and is {once}")
        for place, value in once.items():
            if value is None:
                self.branches["activity in doubt"] += 1
                self._check_doubt(place, last)
            elif value != wanted.once.get(place):
                self._violated(place, f"must be {wanted.once.get(place)}: {value}")
        told = [x.get("value") for x in self._lines_of("answered", f"result {who}")]
        for value in filter(None, told):
            if value != found:
                self._violated(who, f"a client was told {value}, recorded is {found}")

    def _check_doubt(self, place: str, last: Row) -> None:
        """Nobody may be in doubt without a fault."""
        begun = self._of_place[place]["begin"]
        if not begun:
            is_explained = bool(self._faults)
        else:
            is_explained = self._is_explained(begun[0]["by"], begun[0]["at"], None)
        if not is_explained:
            self._violated(place, "is in doubt, and there was no fault")

    def _check_messages(self, program: Program) -> None:
        who = program.workflow_id
        signals = self._events(who, "WorkflowExecutionSignaled")
        found = Counter(event["data"]["request_id"] for event in signals)
        for key, count in found.items():
            if count > 1:
                self._violated(who, f"signal {key} is recorded {count} times")
        for sender, count in program.signals.items():
            keys = [f"{who}:{sender}:{number}" for number in range(count)]
            if [key for key in found if key in keys] != keys:
                self._violated(who, f"signals of {sender} are {[*found]}")
        accepted = self._events(who, "WorkflowExecutionUpdateAccepted")
        completed = self._events(who, "WorkflowExecutionUpdateCompleted")
        ids = [f"{who}:{number}" for number in range(program.updates)]
        for events, what in ((accepted, "accepted"), (completed, "completed")):
            recorded = [event["data"]["update_id"] for event in events]
            if recorded != ids:
                self._violated(who, f"updates that were {what} are {recorded}")

    def _check_undone(self, expected: Expected) -> None:
        """What was booked is undone, the last first."""
        for places in expected.undone:
            lines = [self._of_place[undoing(place)] for place in places]
            if not all(each["end"] for each in lines):
                continue  # told of as an effect that never ended
            for earlier, later in itertools.pairwise(lines):
                if later["begin"][0]["at"] < earlier["end"][0]["at"]:
                    self._violated(places[0], "was not undone in order")
            by = {line["by"] for each in lines for line in each["begin"]}
            self.branches["saga undone by two workers"] += len(by) > 1

    def _lines_of(self, what: str, key: str) -> list[Line]:
        return self._by_key.get((what, key), [])

    def _is_answered(self, key: str) -> bool:
        return bool(self._lines_of("answered", key))

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], list[Line]]:
        found: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in self._lines:
            if "key" in line:
                found[line["what"], line["key"]].append(line)
        return found

    # --- tales ------------------------------------------------------------------------

    def _check_tales(self) -> None:
        judge = tale_judge.TaleJudge(
            self._lines, self._chains, self._history, self._is_explained
        )
        for tale in self._tales:
            for who, text in judge.faults_of(tale):
                self._violated(who, text)
            self.branches[f"tale: {tale.kind}"] += 1

    # --- effects ----------------------------------------------------------------------

    def _check_effects(self) -> None:
        effects: dict[str, int] = {}
        once: set[str] = set()
        for program, expected in self._programs:
            if self._last_of(program.workflow_id) is not None:
                effects |= expected.effects
                once |= expected.result.once.keys()
        for place, value in effects.items():
            lines = self._of_place[place]
            ends = lines["end"]
            if not ends and place not in once:
                self._violated(place, "must have been done, and was not")
            for line in ends:
                if line["value"] != value:
                    self._violated(place, f"{line['value']} must be {value}")
            keys = {(x["run"], x["activity"]) for x in lines["begin"]}
            if len(keys) > 1:
                self._violated(place, f"was asked for as {keys}")
            if place in once and len(lines["begin"]) > 1:
                self._violated(place, "may begin once, and began again")
            self.figures["effects"] += 1
            self.figures["effects done twice"] += len(ends) > 1
        for place in self._of_place.keys() - effects.keys() - self._tale_places:
            if self._of_place[place]["begin"]:
                self._violated(place, "was done, and no program asks for it")

    def _check_activity(self, key: _Key) -> None:
        lines = self._of_activity[key]
        begins = sorted(lines["begin"], key=lambda x: (x["attempt"], x["at"]))
        who = begins[0]["place"] if begins else str(key)
        numbers = Counter(line["attempt"] for line in begins)
        self.figures["attempts"] += len(begins)
        for number, count in numbers.items():
            if count > 1:
                self._violated(who, f"attempt {number} began {count} times")
        failed = {line["attempt"] for line in lines["fail"]}
        for one, other in itertools.pairwise(begins):
            if one["attempt"] in failed or one["attempt"] == other["attempt"]:
                continue
            self.figures["attempts begun again"] += 1
            between = sorted((one["at"], other["at"]))
            if not self._is_explained(one["by"], *between):
                self._violated(
                    who,
                    f"{other['by']} began attempt {other['attempt']}"
                    f" {between[1] - between[0]:.2f} s after attempt {one['attempt']}"
                    f" of {one['by']}, which nothing had befallen: it was robbed",
                )
        self._check_recorded(key, who, begins)

    def _check_recorded(self, key: _Key, who: str, begins: list[Line]) -> None:
        """Nothing begins once there is a result, and the result is what was done."""
        recorded = self._recorded.get(key)
        if recorded is None:
            return
        number = recorded["attempt"]
        ends = {x["attempt"]: x for x in self._of_activity[key]["end"]}
        end = ends.pop(number, None)
        self.branches["result of an older attempt refused"] += bool(ends)
        if recorded["type"] == "ActivityTaskFailed":
            return
        if end is None:
            self._violated(who, f"attempt {number} is recorded, and never ended")
            return
        value = recorded["value"]
        if not end["place"].endswith("~") and end["value"] != value:
            self._violated(who, f"recorded is {value}, returned was {end['value']}")
        for line in begins:
            if line["attempt"] > number:
                self._violated(
                    who,
                    f"attempt {number} is recorded, and then began"
                    f" attempt {line['attempt']} of {line['by']}",
                )
            elif line["at"] > end["at"]:
                self.branches["begun late by a stopped worker"] += 1
                if not self._is_explained(line["by"], end["at"], line["at"]):
                    self._violated(
                        who,
                        f"{line['by']} began attempt {line['attempt']}"
                        f" after attempt {number} had ended",
                    )

    @cached_property
    def _recorded(self) -> dict[_Key, Row]:
        return {
            (run_id, activity): outcome
            for run_id, events in self._history.items()
            for activity, outcome in histories.outcomes_of_activities(events)
        }

    def _is_explained(self, by: str, since: float, until: float | None) -> bool:
        """Whether a fault of a process, or of the server, lies in a span."""
        for fault in self._faults:
            if fault["of"] not in (ALL, by):
                continue
            late = fault["at"] + _RECOVERY_SECONDS
            if late >= since and (until is None or fault["since"] <= until):
                return True
        return False

    # --- branches ---------------------------------------------------------------------

    def _count_branches(self) -> None:
        count = self.branches
        for row in self._attempts:
            count["attempt lost with its worker"] += row["state"] == "lost"
        by: dict[str, set[str]] = defaultdict(set)
        for (run_id, _), lines in self._of_activity.items():
            by[run_id].update(line["by"] for line in lines["begin"])
        for run_id, events in self._history.items():
            kinds = Counter(event["type"] for event in events)
            count["checkpoint taken"] += kinds["CheckpointRecorded"]
            count["run with a checkpoint that changed hands"] += (
                len(by[run_id]) > 1 and kinds["CheckpointRecorded"] > 0
            )
            count["continued as new"] += kinds["WorkflowExecutionContinuedAsNew"]
        for _, expected in self._programs:
            count["saga undone"] += len(expected.undone)
            count.update(f"child {s}" for s in expected.children.values())

"""Judges tales: what operators have done, against what they may do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from tests.chaos import histories
from tests.chaos.database import Row
from tests.chaos.ledger import Line
from tests.chaos.programs import value_of
from tests.chaos.tales import Tale

TYPE: Final = "chaos.operated"
Explained: TypeAlias = Callable[[str, float, float], bool]


class TaleJudge:
    """Says what is wrong with each run of tales.

    Args:
        lines: the ledger.
        chains: the runs of each workflow id, oldest first.
        history: events by run id, with their data.
        is_explained: whether a fault of a process lies in a span.
    """

    def __init__(
        self,
        lines: list[Line],
        chains: dict[str, list[Row]],
        history: dict[str, list[Row]],
        is_explained: Explained,
    ) -> None:
        self._chains = chains
        self._history = history
        self._is_explained = is_explained
        self._answers = {x["key"]: x for x in lines if x["what"] == "answered"}
        self._at: dict[str, list[Line]] = defaultdict(list)
        self._spans: dict[str, list[Line]] = defaultdict(list)
        for line in lines:
            if "place" in line:
                self._at[line["place"]].append(line)
            elif line["what"] in ("paused", "resuming"):
                self._spans[line["of"]].append(line)

    def faults_of(self, tale: Tale) -> Iterator[tuple[str, str]]:
        """Say what is wrong, and of whom."""
        for workflow_id in tale.workflow_ids:
            if f"start {workflow_id}" not in self._answers:
                continue
            for text in self._faults_of_run(tale, workflow_id):
                yield workflow_id, text

    def _faults_of_run(self, tale: Tale, workflow_id: str) -> Iterator[str]:
        chain = self._chains.get(workflow_id, [])
        if not tale.ends:
            if f"delete {workflow_id}" in self._answers and chain:
                yield f"is there though it was {tale.kind}"
            begun = {x["run"] for p in tale.places(workflow_id) for x in self._at[p]}
            if any(self._history.get(run_id) for run_id in begun):
                yield "there are rows of a run that is gone"
            yield from self._faults_of_places(tale, workflow_id)
            return
        if not chain:
            yield "its start was acknowledged, and it is nowhere"
            return
        ends = tuple(row["status"] for row in chain)
        if ends != tale.ends:
            yield f"{tale.kind}: it must have ended as {tale.ends}, and did as {ends}"
            return
        if {row["first_run_id"] for row in chain} != {chain[0]["run_id"]}:
            yield "was started more than once"
        for row in chain:
            yield from self._faults_of_history(tale, workflow_id, row)
        if tale.ends[-1] == "completed":
            yield from self._faults_of_places(tale, workflow_id)
        if len(chain) > 1:
            yield from self._faults_of_what_was_kept(tale, workflow_id, chain[-1])
        yield from self._faults_of_pause(workflow_id, tale)

    def _faults_of_history(
        self, tale: Tale, workflow_id: str, row: Row
    ) -> Iterator[str]:
        events, values = self._history[row["run_id"]], tale.values(workflow_id)
        found = [
            outcome["value"]
            for _, outcome in histories.outcomes_of_activities(events)
            if outcome["type"] == "ActivityTaskCompleted"
        ]
        if found != values[: len(found)]:
            yield f"its values must be {values}, returned was {found}"
        if row["status"] != "completed":
            return
        if histories.value_in(events[-1]["data"].get("result", {})) != values:
            yield f"its result is not {values}"
        told = self._answers.get(f"result {workflow_id}", {}).get("value")
        if told is not None and told != values:
            yield f"a client was told {told}"
        count = sum(event["type"] == "WorkflowExecutionSignaled" for event in events)
        if count == 0:
            yield "signals of the operator are lost"
        elif count > 1:
            yield f"signal to go is recorded {count} times"

    def _faults_of_places(self, tale: Tale, workflow_id: str) -> Iterator[str]:
        given = 0
        for place in tale.places(workflow_id):
            value = value_of(place, given)
            ends = [x["value"] for x in self._at[place] if x["what"] == "end"]
            if f"result {workflow_id}" in self._answers and not ends:
                yield f"{place} must have been done, and was not"
            if set(ends) - {value}:
                yield f"{place}: {ends} must be {value}"
            given = value

    def _faults_of_what_was_kept(
        self, tale: Tale, workflow_id: str, last: Row
    ) -> Iterator[str]:
        again = tale.done_again(workflow_id)
        for place in tale.places(workflow_id):
            begun = [x["what"] for x in self._at[place] if x["run"] == last["run_id"]]
            if place in again and "end" not in begun:
                yield f"{place} must have been done again, and was not"
            if place not in again and begun:
                yield f"{place} was kept, and done again"

    def _faults_of_pause(self, workflow_id: str, tale: Tale) -> Iterator[str]:
        """Nothing begins from when it was seen to be paused until it is let go on."""
        since: float | None = None
        for line in self._spans[workflow_id]:
            if line["what"] == "paused":
                since = line["at"] if since is None else since
                continue
            if since is None:
                continue
            for place in tale.places(workflow_id):
                for begun in self._at[place]:
                    is_in = since < begun["at"] < line["at"]
                    if begun["what"] == "begin" and is_in:
                        by, at = begun["by"], begun["at"]
                        if not self._is_explained(by, since - 60, at):
                            yield f"{place} began while it was paused"
            since = None

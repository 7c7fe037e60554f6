"""What two documents asked for before this library began, row by row, in their order.

S1 is a comparison with Temporal, S2 a roadmap. Each row has a key, where it stands, and
what it asks for, with its default values. What is there for it says a test, marked by
`shows`, or else a sentence below.

`python -m tests.acceptance.founding_rows` draws all of it into the documentation.
"""

# size: a table.
# ruff: noqa: E501 - a row is a line.

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parents[1] / "docs/reference/asked-and-given.md"
COMMAND: Final = "python -m tests.acceptance.founding_rows"

F = TypeVar("F", bound=Callable[..., object])


def shows(key: str, there: str = "") -> Callable[[F], F]:
    """Mark a test that shows what is there for a row.

    Args:
        key: the row's.
        there: what stands for it, for the page; a row's further tests leave it out.
    """

    def mark(test: F) -> F:
        return test

    return mark


class Asked(NamedTuple):
    """One row."""

    key: str
    where: str
    what: str


ASKED: Final = [
    Asked(*(cell.strip() for cell in line.split("|")))
    for line in """
workflow function | S1 5.2.1 | a workflow is an async function with a context
activity | S1 5.2.1, S2 1.1 | activities with types of input, output and error, and a name
retry policy | S2 1.1 | an optional retry policy of an activity, which has one by default
timeout | S1, S2 1.1 | a timeout of an attempt, 60 s by default
is_idempotent | S2 1.1 | whether an attempt that a crash cut short may run again
max_attempts | S2 1.1 | 3 attempts, counting the first
backoff | S2 1.1 | waits that begin with 1 s and double, 60 s at most
retryable_errors | S2 1.1 | which errors are tried again: by texts that they contain, all by default
executor | S1 4.1.4, S2 1.2 | an `ActivityExecutor` that registers and retries without an engine
error kinds | S2 1.2 | errors for: not found, all attempts failed (with the cause), not retryable (with the cause), timed out
last attempt | S2 1.2 | what may not be tried again is called so, on the last attempt too
attempts | S2 1.2 | a history of attempts: name, number, duration, status, time
activity metrics | S2 1.2 | a histogram of durations, by the activity's name
executor missing | S2 1.3 | an engine says before any run that an activity cannot be run
signal handler | S1 4.1.2, S2 2.1 | handlers of signals, which may fail
signal queue | S2 2.1 | a queue of signals for each run; `await_signal(name)` takes the oldest of a name
signal envelope | S2 2.1 | signals with a name, data and a time
query handler | S1 4.1.2, S2 2.2 | read-only handlers of queries; errors for an unknown run and an unknown query
client | S1 5.2.3 | query handlers set at run time, and a client that signals and queries
updates | S1 | updates: requests that are answered (of low priority)
event kinds | S2 3.1 | events of each kind, with the run's id and an integer for the time
event store | S2 3.1 | an event store that numbers each run's events from 1, without gaps
rebuild state | S2 3.1 | the state of a run, rebuilt from its events alone
replay_from | S1 4.1.1 | replay from a checkpoint
auto checkpoint | S1 4.1.1 | checkpoints by themselves, in given intervals
snapshot | S1 2.2.3 | a snapshot of a run's state, and an engine in memory
write-ahead log | S1 5.3, S2 3.1 | a write-ahead log, so that nothing is lost without power
crash recovery | S1 | recovery after a crash, from events and snapshots
state machine | S1 2.2.1 | a workflow made of states, transitions and guards
workflow data | S1 2.2.1 | JSON data of a workflow; an instance with id, state and status
saga | S1 2.2.2 | steps that are undone in reverse order; errors for a failed step and failed undoing
saga steps | S1 5.2.2 | `ctx.new_saga().add_step(do, undo).execute()`
auto rollback | S1 | undoing by itself, after failures and cancellations
timer object | S1 4.2.1 | a timer object: new, wait, `is_triggered`
timers | S1 phase 2 | precise timers, timers that survive, timers by cron
child workflow | S1 4.2.2 | start a child workflow, and wait for its completion
child options | S2 5.1 | options of a child: `inherit_parent_timeout`, `propagate_failures`, `wait_for_cancellation`
child messages | S1 phase 2 | messages between parent and child, and what becomes of the child
versions | S1 4.1.3 | versions of a workflow, compatible ones, and a plan of migration
version manager | S1 4.1.3 | the newest version that is compatible with a given one
migration rules | S2 4.1 | versions out of use, and rules that migrate a run's state
smooth upgrade | S1 | upgrades without breaking what is running
builder | S1 3.1.2 | a builder that type-checks in the right order only: initial, configured, ready
process algebra | S1 3.1.1, 3.3.1 | `seq`, `par`, `choice`, which can be checked formally, at no cost
performance | S1 3.2.1 | to create in 1.2 us, to run in 5.8 us, 1,000 at once in 58 ms, in memory
memory safety | S1 3.1.3 | memory safety and no data races
embedded | S1 2.1 | a library in one process, with optional persistence
tracer | S2 6.1 | a tracer with a span for each workflow
metrics and logs | S1 | metrics (80 %) and logs (70 %)
search | S1 | search for workflows
cluster | S2 7.1, S1 phase 3 | a cluster: tasks distributed, load balanced
temporal | S2 8.1, S1 6.3 | working together with Temporal, in both directions
validation | S2 9.1 | validation in production
visualisation | S1 phase 3 | visualisation, a debugger, a framework for tests
ease | S1 7.2 | an API as short as macros, better error messages, integration in frameworks
engine calls | S1 3-6 | `new`, `register_workflow`, `start_workflow`, `execute_workflow`, `get_workflow_state`, `sleep`, `checkpoint_all`
event bus | S1 2.2.4 | signals and queries as events that a program can subscribe to
small devices | S1 7.2.3 | formal verification, small devices, standards
guides | S2 resources | guides to activities, messages and persistence; examples
year goals | S1 7.3 | a release for production, a community, three real uses
migration guide | S1 7.3 | a guide from Temporal, and examples that compare
alignment | S1 7.3, S2 goals | how much of Temporal there is, in percent: 60, 75, 85
milestones | S2 milestones | milestones: activities, messages, events, versions, children, tracing, cluster, Temporal
quality | S2 1.1 | tests of all levels, covering over 80 %
risks | S2 risks | risks: complexity, speed, compatibility, resources
when to use which | S1 6 | which of the two to use when
glossary | S1 appendix A | a glossary of Temporal's words
""".strip().splitlines()
]

# What no test can show.
SENTENCES: Final[dict[str, str]] = {
    "year goals": "no behaviour of a library; releases are told in the changelog",
    "alignment": "rows are counted, see above; no percentage is claimed",
    "milestones": "the order was kept; the rows above show each of those that are there",
    "quality": "tests of all these levels run in CI, with kills, chaos and other servers; no percentage of lines decides, as a line that was run is not a promise that was kept",
    "risks": "`make bench` prints each figure beside its budget; the schema has versions and migrates by itself, and recorded histories of earlier releases are replayed by the tests",
}
# What later releases bring.
PLANNED: Final[dict[str, str]] = {
    "temporal": "planned",
    "validation": "planned. `make chaos` kills, stops and cuts off workers and servers for as long as it is told to, and a page tells how to [back up](../how-to/back-up.md)",
    "migration guide": "planned",
}


class Shown(NamedTuple):
    """What is said of a row, by a mark."""

    key: str
    there: str
    test: str


def find_shown() -> Iterator[Shown]:
    """The marks of all tests here, in order; nothing is imported."""
    for file in sorted(HERE.glob("test_founding_documents_*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "shows":
                        words = [ast.literal_eval(word) for word in mark.args]
                        yield Shown(words[0], "".join(words[1:]), node.name)


def drawn() -> str:
    """The table, as Markdown."""
    shown: dict[str, list[Shown]] = {}
    for one in find_shown():
        shown.setdefault(one.key, []).append(one)
    counts = {
        "shown by a test": len(shown),
        "told in a sentence": len(SENTENCES),
        "planned": len(PLANNED),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    lines = [
        f"{len(ASKED)} rows: {told}.",
        "",
        "| where | asked for | what is there | shown by |",
        "| --- | --- | --- | --- |",
    ]
    for asked in ASKED:
        of_it = shown.get(asked.key, [])
        there = "".join(one.there for one in of_it)
        tests = "<br>".join(f"`{one.test}`" for one in of_it)
        there = there or SENTENCES.get(asked.key) or PLANNED[asked.key]
        lines.append(f"| {asked.where} | {asked.what} | {there} | {tests} |")
    return "\n".join(lines)


LINK: Final = re.compile(r"\]\(([^)#]+)")
BEGIN: Final = "<!-- rows: begin -->"
END: Final = "<!-- rows: end -->"


def redrawn(page: str) -> str:
    """The page with the table as the tests have it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{drawn()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text("utf-8")), "utf-8")

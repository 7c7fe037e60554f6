"""Reads a transcript, plays it against the replayer, writes what happened.

A transcript is a text file of commands and what they print. A command begins in the
first column; its printed answer follows behind `----`, up to an empty line. Comments
begin with `#`. The commands are:

    workflow <name> [<argument as JSON>]   choose one of tests/transcripts/workflows.py
    start                                  the first workflow task
    complete <event> [<value as JSON>]     an activity returned; likewise:
    fail <event> <type> [<message>]
    time-out <event> [<timeout type>]
    stopped <event>                        an activity stopped, as it was asked to
    signal <name> [<arguments as JSON>]    a signal came, with a list of arguments
    update <id> <name> [<arguments>]       an update came, likewise
    begun <event>                          a child has started; or it ended:
    taken <event>                          its id was taken
    returned <event> [<value as JSON>]
    raised <event> <type> [<message>]
    called-off <event>                     it ended as cancelled
    overdue <event>                        it timed out
    felled <event>                         it was terminated
    delivered <event>                      another run has what it was sent
    undelivered <event> [closed]           it cannot take it
    cancel [<reason>]
    terminate [<reason>]
    fire                                   time passes until the next timer is due
    advance <duration>                     time passes
    set-back <duration>                    the clock steps back
    record <command>; <command>...         inputs are recorded, but no code runs
    turn [<command>; <command>...]         inputs that arrive together
    crash                                  the process dies; the next command replays
    edit <name>                            other code is deployed under the same name
    query <name> [<arguments as JSON>]     what the code answers
    pending                                what is waited for
    unread                                 signals that nobody has received
    history                                every event, in full
    result                                 how the run ended
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from durable import ApplicationError, DurableError
from durable.clock import to_datetime
from durable.core.history.events import HistoryEvent, WorkflowExecutionTerminated
from durable.core.history.payload import Payload
from durable.core.workflow_task import TaskInput, WorkflowTaskCompletion
from durable.testing.driver import Driver
from tests.transcripts import workflows

SEPARATOR = "----"


class Step(msgspec.Struct):
    """One command, the comments before it, and what it printed."""

    comments: list[str]
    command: str
    answer: list[str]


def parse(text: str) -> Iterator[Step]:
    """Split a transcript into steps."""
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        comments = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            yield Step(comments, "", [])
            continue
        end = rest.index(SEPARATOR) if SEPARATOR in rest else len(rest)
        (command,) = rest[:end]
        yield Step(comments, command, rest[end + 1 :])


def play(text: str) -> str:
    """Play a transcript; return it with what its commands print now."""
    dialogue = Dialogue()
    blocks = []
    for step in parse(text):
        lines = list(step.comments)
        if step.command:
            lines += [step.command, SEPARATOR, *dialogue.answer(step.command)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


class Dialogue:
    """One run, and the person who talks to it."""

    def __init__(self) -> None:
        self._driver: Driver | None = None
        workflows.deployed = "first"

    @property
    def driver(self) -> Driver:
        """The run that was chosen."""
        assert self._driver is not None, "begin with `workflow <name>`"
        return self._driver

    def answer(self, command: str) -> list[str]:
        """Carry out one command."""
        verb, _, rest = command.partition(" ")
        method = getattr(self, "do_" + verb.replace("-", "_"), None)
        try:
            if method is not None:
                lines = method(rest.strip())
            else:
                lines = self._turn(self._input(command))
        except (DurableError, *workflows.BUGS) as error:
            lines = self._error(error)
        return lines or ["ok"]

    def _error(self, error: Exception) -> list[str]:
        # Without the line: an edit above it must not change a transcript.
        place = re.escape(str(workflows.__file__)) + r":\d+"
        text = re.sub(place, "workflows.py", f"{type(error).__name__}: {error}")
        waiting = [e for e in self.driver.history if e.task_number == 0]
        lines = [text]
        if waiting:
            lines.append(f"(inputs that wait: {len(waiting)})")
        return lines

    # --- commands -------------------------------------------------------------------

    def do_workflow(self, rest: str) -> list[str]:
        name, _, argument = rest.partition(" ")
        definition = getattr(workflows, name)
        if isinstance(definition, type):
            definition = definition.run  # type: ignore[attr-defined]  # a class workflow
        call = definition(json.loads(argument)) if argument else definition()
        self._driver = Driver(call, workflow_id=name)
        return []

    def do_start(self, _: str) -> list[str]:
        return self._turn(self.driver.started())

    def do_fire(self, _: str) -> list[str]:
        return self._describe(self.driver.fire_next_timer())

    def do_advance(self, rest: str) -> list[str]:
        completion = self.driver.advance(rest)
        return ["nothing is due"] if completion is None else self._describe(completion)

    def do_set_back(self, rest: str) -> list[str]:
        self.driver.clock.set_back(rest)
        return []

    def do_record(self, rest: str) -> list[str]:
        before = len(self.driver.history)
        self.driver.record(*self._inputs(rest))
        return [show(event) for event in self.driver.history[before:]]

    def do_turn(self, rest: str) -> list[str]:
        return self._turn(*self._inputs(rest))

    def do_crash(self, _: str) -> list[str]:
        self.driver.crash()
        return []

    def do_edit(self, rest: str) -> list[str]:
        self.driver.crash()
        workflows.deployed = rest
        return []

    def do_pending(self, _: str) -> list[str]:
        lines = [
            f"activity {activity.activity_type} at event {activity.scheduled_event_id}"
            + (", asked to stop" if activity.is_cancel_requested else "")
            for activity in self.driver.pending
        ]
        lines += [
            f"child {child.workflow_id} at event {child.initiated_event_id}"
            + ("" if child.run_id else ", not begun")
            + (", asked to stop" if child.is_cancel_requested else "")
            for child in self.driver.children
        ]
        lines += [
            f"{sent.signal_name or 'a request to stop'} to {sent.workflow_id}"
            f" at event {sent.initiated_event_id}"
            for sent in self.driver.deliveries
        ]
        due_at = self.driver.next_timer_at
        if due_at is not None:
            lines.append(f"timer due at {to_datetime(due_at):%d %H:%M:%S}")
        return lines or ["nothing"]

    def do_history(self, _: str) -> list[str]:
        return [show(event) for event in self.driver.history]

    def do_result(self, _: str) -> list[str]:
        try:
            return [json.dumps(self.driver.result())]
        except DurableError as error:
            cause = error.__cause__
            why = (
                "" if cause is None else f" because of {type(cause).__name__}: {cause}"
            )
            return [f"{type(error).__name__}{why}"]

    def do_query(self, rest: str) -> list[str]:
        name, _, arguments = rest.partition(" ")
        return [json.dumps(self.driver.query(name, *_list(arguments)))]

    def do_unread(self, _: str) -> list[str]:
        unread = self.driver.unread_signals()
        return [
            f"signal {one.number} {one.signal_name}"
            f" {','.join(bytes(p.json).decode() for p in one.input)}"
            for one in unread
        ] or ["nothing"]

    # --- inputs ---------------------------------------------------------------------

    def _inputs(self, rest: str) -> list[Any]:
        return [self._input(part.strip()) for part in rest.split(";") if part.strip()]

    def _input(self, command: str) -> TaskInput:
        verb, _, rest = command.partition(" ")
        driver = self.driver
        if verb == "signal":
            name, _, arguments = rest.partition(" ")
            return driver.signalled(name, *_list(arguments))
        if verb == "update":
            update_id, _, rest = rest.partition(" ")
            name, _, arguments = rest.partition(" ")
            return driver.requested(name, *_list(arguments), update_id=update_id)
        if verb in CHILD_INPUTS or verb in DELIVERY_INPUTS:
            return self._news(verb, *rest.partition(" ")[::2])
        if verb == "start":
            return driver.started()
        if verb == "cancel":
            return driver.cancel_requested(rest)
        if verb == "terminate":
            return WorkflowExecutionTerminated(rest)
        event, _, more = rest.partition(" ")
        if verb == "complete":
            return driver.completed(int(event), json.loads(more or "null"))
        if verb == "fail":
            kind, *message = shlex.split(more)
            error = ApplicationError(" ".join(message) or "failed", type=kind)
            return driver.failed(int(event), error)
        if verb == "time-out":
            return driver.timed_out(int(event), more or "start_to_close")
        if verb == "stopped":
            return driver.cancelled(int(event))
        raise AssertionError(f"no command is called {verb!r}")

    def _news(self, verb: str, event: str, more: str) -> TaskInput:
        """What happened to another run."""
        number = int(event)
        if verb in DELIVERY_INPUTS:
            (sent,) = (
                one
                for one in self.driver.deliveries
                if one.initiated_event_id == number
            )
            if verb == "delivered":
                return sent.delivered()
            return sent.refused(is_closed=more == "closed")
        (child,) = (
            one for one in self.driver.children if one.initiated_event_id == number
        )
        if verb == "returned":
            return child.completed(json.loads(more or "null"))
        if verb == "raised":
            kind, *message = shlex.split(more)
            return child.failed(ApplicationError(" ".join(message), type=kind))
        input: TaskInput = getattr(child, CHILD_INPUTS[verb])()
        return input

    def _turn(self, *inputs: TaskInput) -> list[str]:
        return self._describe(self.driver.turn(*inputs))

    def _describe(self, completion: WorkflowTaskCompletion) -> list[str]:
        lines = [show(event) for event in completion.events]
        lines += [
            f"(update {update_id} was refused: {failure.type} {failure.message})"
            for update_id, failure in completion.rejected
        ]
        return [*lines, "(closed)"] if completion.is_closed else lines


CHILD_INPUTS = {
    "begun": "started",
    "taken": "refused",
    "returned": "completed",
    "raised": "failed",
    "called-off": "cancelled",
    "overdue": "timed_out",
    "felled": "terminated",
}
DELIVERY_INPUTS = {"delivered", "undelivered"}


def _list(arguments: str) -> list[Any]:
    values: list[Any] = json.loads(arguments or "[]")
    return values


UNSHOWN = {"settings", "headers", "source", "run_id", "first_run_id", "request_id"} | {
    "root_workflow_id",
    "root_run_id",
    "started_at",
    "retry_state",
    "failure",
    "result",
    "input",
    "details",
}


# What a field says by itself is not worth a word.
UNTOLD = (None, "", 1, "default", (), msgspec.UNSET)


def show(event: HistoryEvent) -> str:
    """One event in one line: id, task, time, kind, and the fields that say much."""
    attributes = event.attributes
    fields: dict[str, Any] = {}
    for name in attributes.__struct_fields__:
        value = getattr(attributes, name)
        if isinstance(value, Payload):
            fields[name] = bytes(value.json).decode()
        elif name == "unread":
            fields[name] = ",".join(f"{one.number} {one.signal_name}" for one in value)
        elif name not in UNSHOWN and value not in (*UNTOLD, {}):
            fields[name] = value
    if hasattr(attributes, "input"):
        fields["input"] = ",".join(bytes(p.json).decode() for p in attributes.input)
    details = getattr(attributes, "details", None)
    if details:
        (detail,) = details.values()
        fields["details"] = bytes(detail.json).decode()
    failure = getattr(attributes, "failure", None)
    if failure is not None:
        fields["failure"] = f"{failure.type or failure.kind}({failure.message})"
    task = event.task_number or "-"
    moment = to_datetime(event.time)
    shown = " ".join(f"{name}={value}" for name, value in fields.items())
    line = f"{event.event_id:3} {task!s:>2} {moment:%d %H:%M:%S}"
    return f"{line} {type(attributes).__name__} {shown}".rstrip()


def rewrite(path: Path) -> None:
    """Write down what a transcript's commands print now."""
    path.write_text(play(path.read_text()))

"""Programs as data: small trees that one workflow interprets with plain asyncio.

A property about replay needs many different workflows. A `Node` is one step of such a
workflow; `durable.testing.programs.interpreter` has the workflow that walks it and
returns what it saw, in the order in which it saw it. Programs are JSON, so that another
process can run the same.

`durable.testing.strategies` draws programs at random; this module needs no hypothesis.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class _Step(msgspec.Struct, frozen=True, tag=True, tag_field="do", omit_defaults=True):
    """Base of the nodes; `do` in their JSON says which one it is."""


class Act(_Step, frozen=True):
    """Await an activity: 0 tries to cancel it, 1 waits for that, 2 abandons it.

    Its failure is noted, or raised.
    """

    kind: int = 0
    value: int = 0
    raises: bool = False


class Sleep(_Step, frozen=True):
    """Await a durable timer, by `durable.sleep`; 0 is a timer too."""

    seconds: int = 0


class Pause(_Step, frozen=True):
    """Await `asyncio.sleep`; 0 only yields."""

    seconds: int = 0


class Draw(_Step, frozen=True):
    """Note a random number, a UUID, the time, or the history's length."""

    what: int = 0


class Patch(_Step, frozen=True):
    """Ask for a patch, and go one way or the other."""

    patch: int
    then: Node
    otherwise: Node


class Fail(_Step, frozen=True):
    """Raise an ApplicationError."""

    kind: int = 0


class Put(_Step, frozen=True):
    """Put into the queue, count up, and set the event."""

    value: int = 0


class Take(_Step, frozen=True):
    """Take from the queue, within some seconds."""

    seconds: int = 1


class Await(_Step, frozen=True):
    """Wait until the count is high enough, within some seconds or without a timer.

    Then perhaps count down by as much: others that wait must look again.
    """

    count: int = 0
    seconds: int | None = 1
    takes: bool = False


class Notify(_Step, frozen=True):
    """Notify some who wait for the condition."""

    count: int = 1


class Noticed(_Step, frozen=True):
    """Wait to be notified, within some seconds."""

    seconds: int = 1


class Signalled(_Step, frozen=True):
    """Wait for the event, within some seconds."""

    seconds: int = 1


class Seq(_Step, frozen=True):
    """One after the other."""

    steps: tuple[Node, ...]


class Gather(_Step, frozen=True):
    """All at once, by `asyncio.gather`; perhaps of tasks that have begun before."""

    steps: tuple[Node, ...]
    keep_errors: bool = True
    turns: int | None = None


class Group(_Step, frozen=True):
    """All at once, in a TaskGroup."""

    steps: tuple[Node, ...]


class Race(_Step, frozen=True):
    """Until the first is done, by `asyncio.wait` upon a set; then cancel the others."""

    steps: tuple[Node, ...]
    drop: bool = True


class Completed(_Step, frozen=True):
    """As they finish, by `asyncio.as_completed`, of tasks or of bare coroutines."""

    steps: tuple[Node, ...]
    bare: bool = False


class Bag(_Step, frozen=True):
    """Make a set of tasks and await them as the set iterates."""

    steps: tuple[Node, ...]


class Within(_Step, frozen=True):
    """Within a time: 0 by `asyncio.timeout`, 1 by `asyncio.wait_for`."""

    seconds: int
    step: Node
    how: int = 0


class Shield(_Step, frozen=True):
    """Await through `asyncio.shield`."""

    step: Node


class Cancel(_Step, frozen=True):
    """Make a task, let the loop turn or time pass, cancel it, await it."""

    step: Node
    turns: int = 0
    seconds: int = 0


class Cleanup(_Step, frozen=True):
    """`try: step finally: cleanup`."""

    step: Node
    cleanup: Node


class Swallow(_Step, frozen=True):
    """Await, and go on after a CancelledError."""

    step: Node


class Locked(_Step, frozen=True):
    """Await while holding the lock."""

    step: Node


class Limited(_Step, frozen=True):
    """Await while holding one of the semaphore's two places."""

    step: Node


class Generate(_Step, frozen=True):
    """Iterate an async generator over steps; leave it after some, closed or not."""

    steps: tuple[Node, ...]
    leave_after: int | None = None
    close: bool = True


# --- messages -------------------------------------------------------------------------


class Receive(_Step, frozen=True):
    """Receive from a channel: within some seconds, without end, or what is here."""

    channel: int = 0
    seconds: int | None = 1
    waits: bool = True


class Handle(_Step, frozen=True):
    """Set a handler at run time, or take it away.

    Of 0 signals, 1 updates, 2 queries; of one name, or of all others.
    """

    what: int = 0
    channel: int | None = 0
    is_async: bool = False
    remove: bool = False


class Finish(_Step, frozen=True):
    """Wait until all handlers have finished, within some seconds."""

    seconds: int = 1


class Show(_Step, frozen=True):
    """Publish a state."""

    value: int = 0


# --- other runs -----------------------------------------------------------------------


class Raise(_Step, frozen=True):
    """Start a child: 0 and wait for its end, 1 only for its start, 2 for both.

    `kind` is how it is cancelled, `policy` what becomes of it at the end; without a
    name it gets a random id. Its failure is noted, or raised.
    """

    how: int = 0
    kind: int = 0
    policy: int = 0
    name: int | None = None
    raises: bool = False


class Tell(_Step, frozen=True):
    """Send another run 0 a signal or 1 a request to stop."""

    what: int = 0
    to: int = 0


# --- bounded histories ----------------------------------------------------------------


class Again(_Step, frozen=True):
    """Continue as new."""

    value: int = 0


class Mark(_Step, frozen=True):
    """Offer a checkpoint, but only in the main code and only a few times."""


Node: TypeAlias = (
    Act
    | Sleep
    | Pause
    | Draw
    | Patch
    | Fail
    | Put
    | Take
    | Await
    | Notify
    | Noticed
    | Signalled
    | Seq
    | Gather
    | Group
    | Race
    | Completed
    | Bag
    | Within
    | Shield
    | Cancel
    | Cleanup
    | Swallow
    | Locked
    | Limited
    | Generate
    | Receive
    | Handle
    | Finish
    | Show
    | Raise
    | Tell
    | Again
    | Mark
)

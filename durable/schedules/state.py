"""What a schedule remembers, and what it decides: pure.

Times are microseconds since 1970. Which instants a spec means is never worked out here:
machines may have different data of time zones, so that is recorded once it is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from durable.clock import to_datetime
from durable.core.history.payload import Failure, Payload
from durable.schedules.definition import ScheduleDefinition, ScheduleOverlap

FORMAT: Final = 1
"""Of the state that checkpoints hold; later releases read all earlier ones."""
BUFFER_MAX: Final = 1_000
RECENT_MAX: Final = 10
LONGEST_REST: Final = 7 * 86_400_000_000
"""How long a schedule sleeps at most: then it asks again, by today's time zones."""


class Firing(msgspec.Struct, frozen=True, array_like=True):
    """A time at which something is to be started.

    Attributes:
        at: that time, without jitter.
        overlap: its own policy; the schedule's if None.
        is_manual: somebody asked for it: it heeds neither pause nor limit.
    """

    at: int
    overlap: ScheduleOverlap | None = None
    is_manual: bool = False


class ScheduledRun(msgspec.Struct, frozen=True, array_like=True):
    """A run that a schedule has started, or tried to.

    Attributes:
        scheduled_at: the time that it is for.
        workflow_id: its workflow id.
        run_id: its run id; empty while it is being started.
        started_at: when the schedule started it.
        status: "running", "completed", "failed", "timed_out", "cancelled" or
            "terminated"; "exists" if there was a run of that id; "started" if the
            schedule does not watch it (ALLOW_ALL).
    """

    scheduled_at: datetime
    workflow_id: str
    run_id: str
    started_at: datetime
    status: str


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How often a schedule did what.

    Attributes:
        actions: runs that it started.
        missed: times that were over longer than the catch-up window allows.
        skipped: times at which the run before was still open.
        dropped: times for which the buffer had no room.
    """

    actions: int = 0
    missed: int = 0
    skipped: int = 0
    dropped: int = 0


class ScheduleState(msgspec.Struct, kw_only=True):
    """What a schedule remembers, from one checkpoint to the next.

    Attributes:
        declared: what code said last by `@schedule`, if any did.
        version: how often its definition was changed.
        after: times up to here are dealt with.
        upcoming: the next times, and when to act for each.
        has_more: there may be times after those.
        lapsed_until: times up to here passed while the run before was open.
        buffer: times at which something is still to be started.
    """

    format: int = FORMAT
    schedule_id: str
    definition: ScheduleDefinition
    declared: ScheduleDefinition | None = None
    created_at: int
    updated_at: int
    version: int = 0
    after: int
    upcoming: list[tuple[int, int]] = []
    has_more: bool = True
    lapsed_until: int = 0
    buffer: list[Firing] = []
    running: list[ScheduledRun] = []
    recent: list[ScheduledRun] = []
    counts: Counts = Counts()
    last_result: Payload | None = None
    last_failure: Failure | None = None

    # --- times ------------------------------------------------------------------------

    @property
    def is_acting(self) -> bool:
        """Whether it starts anything by itself."""
        definition = self.definition
        return not definition.paused and definition.remaining_actions != 0

    def is_ticking(self, is_running: bool) -> bool:
        """Whether it must be there when the next time comes."""
        if not self.is_acting:
            return False
        overlap = self.definition.overlap
        waits = is_running and (
            overlap is ScheduleOverlap.SKIP
            or (overlap is ScheduleOverlap.BUFFER_ONE and bool(self.buffer))
        )
        return not waits

    def take_due(self, now: int) -> bool:
        """Put the times that have come into the buffer, or count them; say if any."""
        window = round(self.definition.catchup_window.total_seconds() * 1_000_000)
        missed = skipped = dropped = 0
        due = [times for times in self.upcoming if times[1] <= now]
        for at, act_at in due:
            if act_at <= self.lapsed_until:
                skipped += 1
            elif now - at > window:
                missed += 1
            elif len(self.buffer) >= BUFFER_MAX:
                dropped += 1
            else:
                self.buffer.append(Firing(at))
            self.after = max(self.after, at)
        if due:
            del self.upcoming[: len(due)]
            self.count(missed=missed, skipped=skipped, dropped=dropped)
        return bool(due)

    def put_off(self, now: int) -> list[tuple[int, int]]:
        """The times that have come, and that jitter has put off until later."""
        return [(at, act_at) for at, act_at in self.upcoming if at <= now < act_at]

    def restart(self, now: int, kept: Iterable[tuple[int, int]] = ()) -> None:
        """Forget the times that were worked out, but for some: go on from now."""
        self.after = max(self.after, now)
        self.upcoming, self.has_more = list(kept), True

    def count(
        self, *, actions: int = 0, missed: int = 0, skipped: int = 0, dropped: int = 0
    ) -> None:
        """Add to the counts."""
        old = self.counts
        self.counts = Counts(
            actions=old.actions + actions,
            missed=old.missed + missed,
            skipped=old.skipped + skipped,
            dropped=old.dropped + dropped,
        )

    # --- what to start ----------------------------------------------------------------

    def decide(self, is_running: bool) -> Decision:
        """Go through the buffer: what starts now, what waits, what is skipped."""
        left: list[Firing] = []
        decision = Decision()
        skipped = 0
        for firing in self.buffer:
            if not (firing.is_manual or self.is_acting):
                continue
            overlap = firing.overlap or self.definition.overlap
            if overlap is ScheduleOverlap.ALLOW_ALL:
                decision.beside.append(firing)
            elif not is_running and decision.start is None:
                decision.start = firing
            elif overlap is ScheduleOverlap.SKIP or (
                overlap is ScheduleOverlap.BUFFER_ONE and left
            ):
                skipped += 1
                continue
            elif overlap in (ScheduleOverlap.BUFFER_ONE, ScheduleOverlap.BUFFER_ALL):
                left.append(firing)
                continue
            else:
                # Only the newest is worth stopping others for.
                skipped += len(left)
                left = [firing]
                if overlap is ScheduleOverlap.TERMINATE_OTHER:
                    decision.terminates = True
                else:
                    decision.cancels = True
                continue
            self._spend(firing)
        self.buffer = left
        self.count(skipped=skipped)
        return decision

    def _spend(self, firing: Firing) -> None:
        self.count(actions=1)
        left = self.definition.remaining_actions
        if left and not firing.is_manual:
            self.definition = self.definition.replace(remaining_actions=left - 1)

    def workflow_id(self, firing: Firing) -> str:
        """The id of the run for a time: one time, one run."""
        instant = to_datetime(firing.at)
        text = instant.replace(tzinfo=None).isoformat(timespec="auto")
        return f"{self.definition.action.workflow_id}-{text}Z"

    # --- what it shows ----------------------------------------------------------------

    def note_run(self, run: ScheduledRun) -> None:
        """Remember what has become of a run."""
        ids = run.workflow_id, run.started_at
        self.running = [r for r in self.running if (r.workflow_id, r.started_at) != ids]
        if run.status == "running":
            self.running.append(run)
        for n, old in enumerate(self.recent):
            if (old.workflow_id, old.started_at) == ids:
                self.recent[n] = run
                return
        self.recent = [*self.recent, run][-RECENT_MAX:]

    def shown(self) -> ScheduleState:
        """The same without what only the next run may read."""
        return msgspec.structs.replace(self, last_result=None, last_failure=None)


class Decision(msgspec.Struct):
    """What is to be done about times that have come.

    Attributes:
        start: what to start and to watch.
        beside: what to start beside everything else.
        cancels: ask the open run to stop.
        terminates: terminate it.
    """

    start: Firing | None = None
    beside: list[Firing] = []
    cancels: bool = False
    terminates: bool = False

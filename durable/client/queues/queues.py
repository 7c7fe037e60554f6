"""Queues: what may run of each at once, and how fast it begins; `Engine.queues`."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from durable.client.chain import Connection
from durable.clock import to_datetime
from durable.errors import InvalidOptionError, QueueNotFoundError
from durable.options import Duration, check_id, to_microseconds
from durable.store.activity_tasks import TaskState
from durable.store.queries import CountActivityTasks, CountRunTurns, ReadQueues
from durable.store.queues import (
    DeleteQueue,
    PutQueue,
    QueueRecord,
    TurnState,
)
from durable.store.records import OF_RUNS
from durable.suggestions import closest

_COUNT_MAX: Final = 1_000_000
_RATE: Final = re.compile(r"(\d{1,7})/(\d*\.?\d*)(ms|s|min|m|h|d)")
_UNITS: Final = {"min": "m"}
_Limit = int | msgspec.UnsetType | None


class Rate(msgspec.Struct, frozen=True):
    """How many activities, or runs, of a queue begin within a time.

    Attributes:
        count: so many.
        per: within this time: in any such time, not only from one full second on.
        burst: so many of them at one instant, and the others spread over the time; 1
            begins them evenly, None as soon as they are there.
    """

    count: int
    per: Duration = "1s"
    burst: int | None = None

    def __str__(self) -> str:
        """As the command line takes it, but for the burst."""
        per = self.per if isinstance(self.per, str) else f"{self.per}s"
        return f"{self.count}/{'s' if per == '1s' else per}"


class QueueDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A configured queue; None stands for no limit.

    Attributes:
        concurrency: how many of its activities run at once, on all workers.
        worker_concurrency: likewise, on one worker.
        key_concurrency: likewise, of one `fairness_key`.
        paused_at: since when nothing of it begins; None if it is not paused.
        note: what whoever has configured it said.
        waiting: how many activities wait in it, up to 100,000 in all queues.
        running: how many run, and count towards its limits.
        of_runs: all of it is about whole runs, not about activities.
    """

    name: str
    concurrency: int | None = None
    worker_concurrency: int | None = None
    key_concurrency: int | None = None
    rate: Rate | None = None
    paused_at: datetime | None = None
    note: str | None = None
    waiting: int = 0
    running: int = 0
    of_runs: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Queues:
    """What task queues may have at once and how fast; `Engine.queues`.

    A queue that nobody has configured has no limits. Changes count at once, for all
    workers: only of a queue that is configured for the first time the workers of other
    processes hear within five seconds, and what runs by then is not counted.
    """

    def __init__(
        self, open_client: Callable[[], Connection], *, of_runs: bool = False
    ) -> None:
        self._open_client = open_client
        self._ending = OF_RUNS if of_runs else ""

    @property
    def runs(self) -> Queues:
        """The same for whole runs of workflows: how many of a queue are under way.

        A run that has not begun waits for its turn; one that has begun goes on, and its
        slot is free when it closes. Runs that follow it, by continuing as new or by a
        retry, take its slot over, and children of the same queue need none.
        """
        return Queues(self._open_client, of_runs=True)

    async def configure(
        self,
        name: str,
        *,
        concurrency: _Limit = msgspec.UNSET,
        worker_concurrency: _Limit = msgspec.UNSET,
        key_concurrency: _Limit = msgspec.UNSET,
        rate: Rate | str | msgspec.UnsetType | None = msgspec.UNSET,
        paused: bool | msgspec.UnsetType = msgspec.UNSET,
        note: str | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> QueueDescription:
        """Give a queue limits, or change some; what is left out stays.

        What runs when a limit is lowered goes on.

        Args:
            name: the task queue's name.
            concurrency: how many of its activities run at once; None for no limit.
            worker_concurrency: likewise, on one worker.
            key_concurrency: likewise, of one `fairness_key`; those without are free.
            rate: how many begin within a time, as `Rate(100, per="1s", burst=20)` or
                text like "100/s", "5/min", "1/500ms"; None for no limit.
            paused: whether nothing of it begins.
            note: what others are told of it.

        Raises:
            InvalidOptionError, InvalidDurationError: a limit has a wrong value.
            InvalidIdError: the name breaks the rule for ids.
        """
        check_id(name, "the queue's name")
        if self._ending and worker_concurrency not in (None, msgspec.UNSET):
            raise InvalidOptionError(
                "worker_concurrency is of activities: any worker may go on with a run.",
                hint="Give concurrency, which is of all workers.",
            )
        given: dict[str, Any] = {
            key: _check_limit(key, value)
            for key, value in (
                ("concurrency", concurrency),
                ("worker_concurrency", worker_concurrency),
                ("key_concurrency", key_concurrency),
            )
            if value is not msgspec.UNSET
        }
        if rate is not msgspec.UNSET:
            given |= _rate_fields(rate)
        if note is not msgspec.UNSET:
            given["note"] = _check_note(note)
        if paused is not msgspec.UNSET and not isinstance(paused, bool):
            raise InvalidOptionError(f"paused is {paused!r}: give True or False.")
        return await self._change(name, given, paused, must_be=False)

    async def pause(
        self, name: str, *, note: str | msgspec.UnsetType | None = msgspec.UNSET
    ) -> QueueDescription:
        """Let nothing of a queue begin; what runs goes on.

        Raises:
            InvalidOptionError, InvalidIdError: as `configure`.
        """
        return await self.configure(name, paused=True, note=note)

    async def resume(self, name: str) -> QueueDescription:
        """Let a paused queue go on.

        Raises: as `get`.
        """
        check_id(name, "the queue's name")
        return await self._change(name, {}, False, must_be=True)

    async def get(self, name: str) -> QueueDescription:
        """Return what a queue allows, and what waits in it and runs.

        Raises:
            QueueNotFoundError: nobody has configured it.
            InvalidIdError: the name breaks the rule for ids.
        """
        check_id(name, "the queue's name")
        found = {one.name: one for one in await self.list()}
        if name not in found:
            raise _unknown(name, found)
        return found[name]

    async def list(self) -> builtins.list[QueueDescription]:
        """List the queues that somebody has configured, by name."""
        client = self._open_client()
        records = await self._read(client)
        if not records:
            return []
        store, namespace = client.store, client.namespace
        if self._ending:
            turns = await store.read(CountRunTurns(namespace))
            by_state = {(one.task_queue, str(one.state)): one.runs for one in turns}
        else:
            tasks = await store.read(CountActivityTasks(namespace))
            by_state = {(one.task_queue, str(one.state)): one.tasks for one in tasks}
        running = TurnState.ADMITTED if self._ending else TaskState.CLAIMED
        return [
            _describe(
                record,
                name,
                by_state.get((name, "waiting"), 0),
                by_state.get((name, running), 0),
            )
            for name, record in records.items()
        ]

    async def _read(self, client: Connection) -> dict[str, QueueRecord]:
        """The rows that are about activities, or about runs, by the queue's name."""
        found = await client.store.read(ReadQueues(client.namespace))
        return {
            one.name.removesuffix(OF_RUNS): one
            for one in found
            if one.name.endswith(OF_RUNS) == bool(self._ending)
        }

    async def delete(self, name: str) -> None:
        """Take all limits of a queue away.

        Raises: as `get`.
        """
        check_id(name, "the queue's name")
        client = self._open_client()
        operation = DeleteQueue(namespace=client.namespace, name=name + self._ending)
        if not await client.store.perform(operation):
            raise _unknown(name, await self._read(client))
        await self._tell(client)

    async def _change(
        self,
        name: str,
        given: dict[str, Any],
        paused: bool | msgspec.UnsetType,
        *,
        must_be: bool,
    ) -> QueueDescription:
        client = self._open_client()
        store, namespace = client.store, client.namespace
        while True:  # who is too late finds out, and somebody has changed it
            found = await self._read(client)
            before = found.get(name)
            if before is None and must_be:
                raise _unknown(name, found)
            version = 0 if before is None else before.version
            record = msgspec.structs.replace(
                before or QueueRecord(namespace=namespace, name=name + self._ending),
                version=version + 1,
                **given,
            )
            if paused is not msgspec.UNSET:
                since = record.paused_at or store.now()
                record = msgspec.structs.replace(
                    record, paused_at=since if paused else None
                )
            change = PutQueue(record=record, version=version or None)
            if await store.perform(change):
                break
        await self._tell(client)
        return await self.get(name)

    @staticmethod
    async def _tell(client: Connection) -> None:
        if client.worker is not None:
            await client.worker.heed_queues()


def _describe(
    record: QueueRecord, name: str, waiting: int, running: int
) -> QueueDescription:
    rate = None
    if record.rate_count and record.rate_per:
        rate = Rate(record.rate_count, _shown(record.rate_per), record.rate_burst)
    since = record.paused_at
    return QueueDescription(
        name=name,
        concurrency=record.concurrency,
        worker_concurrency=record.worker_concurrency,
        key_concurrency=record.key_concurrency,
        rate=rate,
        paused_at=None if since is None else to_datetime(since),
        note=record.note,
        waiting=waiting,
        running=running,
        of_runs=record.name != name,
    )


def _shown(microseconds: int) -> str:
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{microseconds / 1_000:g}ms"


def _check_limit(name: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _COUNT_MAX:
        raise InvalidOptionError(
            f"{name} of a queue is {value!r}: give 1 to {_COUNT_MAX:,}, or None for no"
            " limit.",
            hint="To let nothing begin, pause the queue." if value == 0 else None,
        )
    return value


def _check_note(note: object) -> str | None:
    if note is not None and (not isinstance(note, str) or "\0" in note):
        raise InvalidOptionError(f"note of a queue is {note!r}: give a text.")
    return note


def _rate_fields(rate: object) -> dict[str, int | None]:
    if rate is None:
        return {"rate_count": None, "rate_per": None, "rate_burst": None}
    if isinstance(rate, str):
        rate = parse_rate(rate)
    if not isinstance(rate, Rate):
        raise InvalidOptionError(
            f"rate of a queue is {rate!r}: give a Rate, or text like '100/s'."
        )
    count = _check_limit("rate", rate.count)
    per = to_microseconds(rate.per, "the time of a queue's rate")
    burst = _check_limit("the burst of a rate", rate.burst)
    if count is None or per < count:
        raise InvalidOptionError(
            f"rate of a queue is {rate}: give at most one a microsecond."
        )
    return {"rate_count": count, "rate_per": per, "rate_burst": burst}


def parse_rate(text: str, burst: int | None = None) -> Rate:
    """Read a rate, such as "100/s" or "1/500ms".

    Raises:
        InvalidOptionError: it is none.
    """
    match = _RATE.fullmatch(text.replace(" ", ""))
    if match is None or match[2] == ".":
        raise InvalidOptionError(
            f"rate of a queue is {text!r}, which is no rate.",
            hint="Write '100/s', '5/min' or '1/500ms'; a burst is given beside it.",
        )
    count, number, unit = match.groups()
    return Rate(int(count), f"{number or '1'}{_UNITS.get(unit, unit)}", burst)


def _unknown(name: str, known: Any) -> QueueNotFoundError:
    close = closest(name, known)
    return QueueNotFoundError(
        f"Nobody has configured the queue {name!r}, so it has no limits.",
        hint="`durable queue set`, or engine.queues.configure(), gives it some."
        if close is None
        else f"Did you mean {close!r}?",
    )

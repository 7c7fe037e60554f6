"""Options that users write: durations, retry policies, conflict policies.

Every option validates itself when it is made, so that a wrong value is refused at the
line that holds it and not when a retry is due.
"""

from __future__ import annotations

import contextlib
import enum
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias, TypeVar, cast

from typing_extensions import TypedDict

from durable import limits
from durable.errors import InvalidDurationError, InvalidIdError, InvalidOptionError
from durable.suggestions import ending_with_closest

Duration: TypeAlias = timedelta | float | str
"""A `timedelta`, a number of seconds, or text such as "30s", "1h30m", "PT5M"."""

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|us|[smhdw])", re.IGNORECASE)
_ISO: Final = re.compile(
    r"P(?:(\d+(?:\.\d+)?)W)?(?:(\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?",
    re.IGNORECASE,
)
_ISO_SECONDS: Final = (604_800, 86_400, 3_600, 60, 1)
_UNIT_SECONDS: Final = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 604_800,
}


def to_seconds(value: Duration | None, name: str) -> float | None:
    """Turn a duration into seconds; None stays None.

    Raises: as `to_microseconds`.
    """
    return None if value is None else to_microseconds(value, name) / 1_000_000


def to_microseconds(value: Duration, name: str) -> int:
    """Turn a duration into whole microseconds.

    Args:
        value: a `timedelta`, seconds, or text like "30s", "1h30m", "PT5M".
        name: what the duration is, for the error.

    Raises:
        InvalidDurationError: it is no duration, negative, not finite, or longer than
            `limits.DURATION_SECONDS_MAX`.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool):
        raise InvalidDurationError(_not_a_duration(value, name))
    elif isinstance(value, int | float):
        seconds = value
    elif isinstance(value, str):
        seconds = _parse(value, name)
    else:
        raise InvalidDurationError(_not_a_duration(value, name))
    if seconds != seconds or seconds in (math.inf, -math.inf) or seconds < 0:
        raise InvalidDurationError(
            f"{name} is {value!r}: a duration is finite and not negative."
        )
    if seconds > limits.DURATION_SECONDS_MAX:
        raise InvalidDurationError(
            f"{name} is {value!r}, longer than {limits.DURATION_SECONDS_MAX} s"
            " (100 years). Numbers are seconds, not milliseconds."
        )
    return round(seconds * 1_000_000)


def _not_a_duration(value: object, name: str) -> str:
    return (
        f"{name} is {value!r}, which is no duration."
        ' Give a timedelta, seconds, or text such as "30s", "1h30m" or "PT5M".'
    )


def _parse(text: str, name: str) -> float:
    stripped = text.strip()
    iso = _ISO.fullmatch(stripped)
    if iso and any(iso.groups()):
        return sum(
            float(number) * seconds
            for number, seconds in zip(iso.groups(), _ISO_SECONDS, strict=True)
            if number
        )
    parts = _PART.findall(stripped)
    if not parts or _PART.sub("", stripped).strip():
        raise InvalidDurationError(_not_a_duration(text, name))
    return sum(float(number) * _UNIT_SECONDS[unit.lower()] for number, unit in parts)


def check_id(value: object, name: str) -> str:
    """Return `value` if every database can keep it as an id.

    Raises:
        InvalidIdError: it is no text, empty, longer than `limits.ID_BYTES_MAX` bytes,
            or holds control characters, lone surrogates or outer blanks.
    """
    if not isinstance(value, str):
        raise InvalidIdError(f"{name} is {value!r}: an id is text.")
    if not value:
        raise InvalidIdError(f"{name} is empty: give it at least one character.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidIdError(
            f"{name} {value!a} holds a lone surrogate, which no database keeps."
        ) from None
    if size > limits.ID_BYTES_MAX:
        raise InvalidIdError(
            f"{name} {value[:40]!r}... is {size} bytes long; the limit is"
            f" {limits.ID_BYTES_MAX}. Shorten it, or use a digest of it."
        )
    if not value.isprintable():
        raise InvalidIdError(
            f"{name} {value!r} holds control or unprintable characters."
            " Use letters, digits and punctuation."
        )
    if value != value.strip():
        raise InvalidIdError(
            f"{name} {value!r} begins or ends with a blank, which some databases drop."
        )
    return value


def spell_out(value: object) -> str:
    """Return a text for people; what no database keeps of it is spelt out."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def to_label(value: object, name: str) -> str | None:
    """Return a text that is given, as `spell_out` does.

    Args:
        value: the text, such as one that holds the name of a file; None for none.
        name: what errors call it.

    Raises:
        InvalidOptionError: it is no text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidOptionError(f"{name} is {value!r}: give a text.")
    return spell_out(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When and how often a failed activity runs again.

    The waits are `initial_interval`, then each `backoff_coefficient` times the one
    before, never above `max_interval`. Defaults follow the founding documents of this
    library (three attempts, one second, doubling, a minute at most); Temporal's own
    default has no bound on attempts.

    Args:
        max_attempts: how many attempts may fail, counting the first; 0 means no bound.
            One that was cut short because its process died has not failed: it runs
            again besides, up to `limits.LOST_ATTEMPTS_MAX` times; but with 1 it ends
            as `OutcomeUnknown`.
        initial_interval: the wait before the second attempt.
        max_interval: the longest wait.
        backoff_coefficient: the factor from wait to wait, at least 1.
        retryable_errors: if not empty, only failures that match one of these are
            tried again. A text matches if the failure's message contains it or its
            type is called so; an exception class matches itself and its subclasses.
        non_retryable: failures that match one of these are never tried again.
        jitter: each wait is shorter by up to this fraction, at random: 0.2 makes 8 to
            10 s of 10 s, and 1.0 anything from 0 to 10 s, so that many that failed at
            once do not come back at once. It follows from the run, the activity and the
            attempt, and so is the same on every replay. None by default; a
            `next_retry_delay` has none either.

    Timeouts of an attempt are always tried again: `retryable_errors` speaks of
    failures that the activity raised.

    Raises:
        InvalidOptionError, InvalidDurationError: a value breaks its rule.
    """

    max_attempts: int = 3
    initial_interval: Duration = 1.0
    max_interval: Duration = 60.0
    backoff_coefficient: float = 2.0
    retryable_errors: tuple[str | type[BaseException], ...] = ()
    non_retryable: tuple[str | type[BaseException], ...] = ()
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 0:
            raise InvalidOptionError(
                f"RetryPolicy.max_attempts is {attempts!r}: give a whole number,"
                " counting the first attempt; 0 means no bound."
            )
        coefficient: object = self.backoff_coefficient
        if (
            not isinstance(coefficient, int | float)
            or isinstance(coefficient, bool)
            or not 1 <= coefficient < math.inf
        ):
            raise InvalidOptionError(
                f"RetryPolicy.backoff_coefficient is {coefficient!r}:"
                " give a finite number of at least 1."
            )
        initial = to_microseconds(self.initial_interval, "RetryPolicy.initial_interval")
        longest = to_microseconds(self.max_interval, "RetryPolicy.max_interval")
        if initial == 0:
            raise InvalidOptionError(
                "RetryPolicy.initial_interval is 0: a failing activity would spin."
                " Give at least a millisecond."
            )
        if longest < initial:
            raise InvalidOptionError(
                f"RetryPolicy.max_interval ({self.max_interval!r}) is shorter than"
                f" initial_interval ({self.initial_interval!r})."
            )
        for field in ("retryable_errors", "non_retryable"):
            _check_patterns(getattr(self, field), f"RetryPolicy.{field}")
        jitter: object = self.jitter
        is_number = isinstance(jitter, int | float) and not isinstance(jitter, bool)
        if not is_number or not 0 <= self.jitter <= 1:
            raise InvalidOptionError(
                f"RetryPolicy.jitter is {jitter!r}: give a fraction from 0 to 1, such"
                " as 0.2."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many retries of an activity a worker begins, besides its first attempts.

    When a service is down each of its calls fails, and retries multiply what it has to
    refuse. With a budget they are a share of the first attempts, plus a few that are
    always allowed. A retry for which nothing is left is not given up: it waits, backing
    off, until `min_per_second` pays for it.

    Each worker keeps one for each activity that has been given any, in memory. What
    counts is what fails there: neither attempts that are lost with their worker nor
    what is reported from outside.

    Args:
        ratio: how many retries each first attempt allows: 0.1 is one for ten. 0 if only
            `min_per_second` is to count.
        min_per_second: so many are allowed besides, whatever begins: at least 0.001.
        burst: how many are saved up at most, and there at the start: at least 1.

    Raises:
        InvalidOptionError: a value breaks its rule.
    """

    ratio: float = 0.1
    min_per_second: float = 1.0
    burst: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for field, least in (("ratio", 0), ("min_per_second", 0.001), ("burst", 1)):
            value: object = getattr(self, field)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not least <= value <= 1_000_000:  # type: ignore[operator]  # a number, as checked
                raise InvalidOptionError(
                    f"RetryBudget.{field} is {value!r}:"
                    f" give a number from {least} to 1,000,000."
                )


def _check_patterns(patterns: object, name: str) -> None:
    if not isinstance(patterns, tuple):
        raise InvalidOptionError(
            f"{name} is {patterns!r}: give a tuple, such as ('declined',)."
        )
    items: list[object] = [*cast("tuple[object, ...]", patterns)]
    for pattern in items:
        is_class = isinstance(pattern, type) and issubclass(pattern, BaseException)
        if not is_class and not (isinstance(pattern, str) and pattern):
            raise InvalidOptionError(
                f"{name} holds {pattern!r}: give exception classes or texts."
            )


class ActivityCancellationType(enum.Enum):
    """What awaiting a cancelled activity does."""

    TRY_CANCEL = "try_cancel"
    """Raise at once and ask the activity to stop (the default)."""
    WAIT_CANCELLATION_COMPLETED = "wait_cancellation_completed"
    """Ask it to stop and wait for what it finally did, which may be success.

    The task's next wait then raises the CancelledError, so that it is not lost."""
    ABANDON = "abandon"
    """Raise at once and let the activity run on unheard."""


class ChildCancellationType(enum.Enum):
    """What awaiting a cancelled child workflow does."""

    ABANDON = "abandon"
    """Raise at once and let the child run on."""
    TRY_CANCEL = "try_cancel"
    """Raise at once and ask the child to stop."""
    WAIT_CANCELLATION_REQUESTED = "wait_cancellation_requested"
    """Ask the child to stop, and raise once it has the request."""
    WAIT_CANCELLATION_COMPLETED = "wait_cancellation_completed"
    """Ask it to stop and wait for how it ended, which may be success (the default).

    The task's next wait then raises the CancelledError, so that it is not lost."""


class ParentClosePolicy(enum.Enum):
    """What becomes of an open child when its parent closes, however that ends."""

    TERMINATE = "terminate"
    """The child is terminated (the default)."""
    ABANDON = "abandon"
    """The child runs on."""
    REQUEST_CANCEL = "request_cancel"
    """The child is asked to stop."""


class HandlerUnfinishedPolicy(enum.Enum):
    """What a run does that ends while a handler of a signal or update is under way."""

    WARN = "warn"
    """Drop the handler and log a warning (the default)."""
    ABANDON = "abandon"
    """Drop the handler."""


class IdReusePolicy(enum.Enum):
    """Whether a start may begin another run under the id of a closed one.

    Wherever one is asked for, its word will do: `"new_run"`, `"after_failure"`,
    `"never"`.
    """

    ALLOW_DUPLICATE = "allow_duplicate"
    """`"new_run"`: whatever became of the closed run."""
    ALLOW_DUPLICATE_FAILED_ONLY = "allow_duplicate_failed_only"
    """`"after_failure"`: if the last run failed, timed out, was cancelled or was
    terminated."""
    REJECT_DUPLICATE = "reject_duplicate"
    """`"never"`: a closed run keeps its id."""

    @classmethod
    def _missing_(cls, value: object) -> IdReusePolicy | None:
        return next((policy for policy in cls if policy.word == value), None)

    @property
    def word(self) -> str:
        """What people write for it, in Python and on the command line."""
        # Histories hold the values, so those stay as they are.
        return _REUSE_WORDS[self.value]


_REUSE_WORDS: Final = {
    "allow_duplicate": "new_run",
    "allow_duplicate_failed_only": "after_failure",
    "reject_duplicate": "never",
}


class IdConflictPolicy(enum.Enum):
    """What a start does with a run that holds its id.

    That is an open one, or a closed one whose id may not be used again. Wherever one is
    asked for, its value will do, such as `"fail"`.
    """

    USE_SAME = "use_same"
    """Use that run if it is of the same workflow with equal arguments, or else fail
    (the default)."""
    USE_EXISTING = "use_existing"
    """Use that run, whatever it is."""
    FAIL = "fail"
    TERMINATE_EXISTING = "terminate_existing"
    """Terminate that run if it is open, and start another."""


# For what every run passes: on Python 3.11 reading a member of an enum is a call.
USE_SAME: Final = IdConflictPolicy.USE_SAME
USE_EXISTING: Final = IdConflictPolicy.USE_EXISTING
TERMINATE_EXISTING: Final = IdConflictPolicy.TERMINATE_EXISTING
ALLOW_DUPLICATE: Final = IdReusePolicy.ALLOW_DUPLICATE
REJECT_DUPLICATE: Final = IdReusePolicy.REJECT_DUPLICATE


OnConflict: TypeAlias = (
    IdConflictPolicy | Literal["use_same", "use_existing", "fail", "terminate_existing"]
)
IdReuse: TypeAlias = IdReusePolicy | Literal["new_run", "after_failure", "never"]


def to_conflict_policy(value: object) -> IdConflictPolicy:
    """Read an `on_conflict`.

    Raises:
        InvalidOptionError: it is neither a policy nor one's value.
    """
    return _to_policy(
        IdConflictPolicy, value, "on_conflict", [p.value for p in IdConflictPolicy]
    )


def to_reuse_policy(value: object, name: str = "id_reuse") -> IdReusePolicy:
    """Read an `id_reuse`.

    Raises:
        InvalidOptionError: it is neither a policy nor one's word or value.
    """
    return _to_policy(IdReusePolicy, value, name, [p.word for p in IdReusePolicy])


def check_option_names(
    given: Iterable[str],
    known: Iterable[str],
    what: str,
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Return if there are options of these names.

    Args:
        given: the names that were written.
        known: those that there are.
        what: what an option is called, such as "workflow option".
        elsewhere: what to do about names that belong to something else.

    Raises:
        InvalidOptionError: one does not exist.
    """
    unknown = set(given).difference(known)
    if unknown:
        name, names = min(unknown), sorted(known)
        raise InvalidOptionError(
            f"No {what} is called {name!r}; there are {', '.join(names)}"
            f"{ending_with_closest(name, names)}",
            hint=(elsewhere or {}).get(name),
        )


_Policy = TypeVar("_Policy", bound=enum.Enum)


def _to_policy(
    kind: type[_Policy], value: object, name: str, words: list[str]
) -> _Policy:
    if isinstance(value, kind | str):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise InvalidOptionError(
        f"{name} is {value!r}: give one of {', '.join(map(repr, words))}"
        f"{ending_with_closest(value, words)}"
    )


class ActivityOptions(TypedDict, total=False):
    """Options of an activity, on the decorator or per call through `.options(...)`.

    Keys:
        retry: the retry policy; `None` means one attempt.
        start_to_close_timeout: the longest one attempt may take (60 s by default).
        schedule_to_close_timeout: the longest the activity may take with all retries.
        schedule_to_start_timeout: the longest an attempt may wait for a worker.
        task_queue: where it runs: on the workers that serve this queue for activities
            (`Engine(activity_queues=...)`). None means the queue of its run.
        priority: 1 to 5, 3 by default: of what waits in a queue, less comes first.
        fairness_key: whose it is, such as a customer's id of at most 64 characters: in
            a configured queue (`Engine.queues`) keys take turns, however much waits of
            each, and `key_concurrency` bounds how many of one run at once.
        fairness_weight: so many of its key may begin in one turn; 1 by default.
        heartbeat_timeout: the longest an attempt may go on without `heartbeat()`; it is
            given up then, as by `start_to_close_timeout`.
        cancellation_type: what awaiting it does when cancelled.
        effect: what it does to the world, and so what follows on an attempt in doubt,
            which its worker's death or its timeout has cut short. "idempotent": it
            does no harm twice (give `activity_info().idempotency_key` to a service),
            so its policy lets it run again; the default. "read": it changes nothing,
            and runs again even if its policy allows one attempt. "once": never twice;
            then `verify` and `in_doubt` count. "transaction": all that it does is in
            the engine's own database, and is committed with its result.
        at_most_once: True is another way to write effect="once".
        in_doubt: what follows on an attempt of effect "once" whose outcome nobody
            knows: "raise" `OutcomeUnknown` in the workflow; or "wait" for an operator
            (`durable resolve`, `engine.activities.resolve`).
        local: True means that it is very short work: its result is written with the
            run's next turn, and not at once. It is begun without being recorded, in the
            process that owns its run; a crash runs again all that is not written.
        match_arguments: False means that replay does not compare the arguments.
        summary: a label for timelines; never compared on replay.
    """

    retry: RetryPolicy | None
    start_to_close_timeout: Duration | None
    schedule_to_close_timeout: Duration | None
    schedule_to_start_timeout: Duration | None
    heartbeat_timeout: Duration | None
    task_queue: str | None
    priority: int | None
    fairness_key: str | None
    fairness_weight: int
    cancellation_type: ActivityCancellationType
    effect: Literal["read", "idempotent", "once", "transaction"]
    at_most_once: bool
    in_doubt: Literal["raise", "wait"]
    local: bool
    match_arguments: bool
    summary: str | None

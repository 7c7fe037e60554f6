"""Retry arithmetic: how often, how long between, and when to stop."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.core.history.commands import ActivitySettings, RetrySettings
from durable.core.history.payload import Failure
from durable.core.machines.retry import (
    MAXIMUM_ATTEMPTS_REACHED,
    NON_RETRYABLE,
    SCHEDULE_TO_CLOSE,
    GiveUp,
    Retry,
    backoff,
    decide,
    is_retryable,
)

SECOND = 1_000_000
POLICY = RetrySettings(
    max_attempts=0,
    initial_interval=SECOND,
    max_interval=60 * SECOND,
    backoff_coefficient=2.0,
    retryable_errors=(),
    non_retryable=(),
)
FAILURE = Failure(message="no", type="ValueError", bases=("ValueError",))


def settings(policy: RetrySettings, deadline: int | None = None) -> ActivitySettings:
    return ActivitySettings(
        task_queue="default",
        start_to_close_timeout=SECOND,
        schedule_to_close_timeout=deadline,
        schedule_to_start_timeout=None,
        heartbeat_timeout=None,
        retry_policy=policy,
        cancellation_type="try_cancel",
        at_most_once=False,
    )


policies = st.builds(
    RetrySettings,
    max_attempts=st.integers(0, 20),
    initial_interval=st.integers(1, 10**9),
    max_interval=st.integers(10**9, 10**13),
    backoff_coefficient=st.floats(1, 1e6),
    retryable_errors=st.just(()),
    non_retryable=st.just(()),
)


def attempts(policy: RetrySettings, deadline: int | None = None) -> tuple[int, str]:
    """Fail for ever; say after how many attempts and why it ended."""
    now = 0
    for attempt in range(1, 1_000):
        decision = decide(
            settings(policy, deadline),
            attempt=attempt,
            failure=FAILURE,
            scheduled_at=0,
            now=now,
        )
        if isinstance(decision, GiveUp):
            return attempt, decision.retry_state
        now += decision.delay
        assert deadline is None or now < deadline
    return 0, "never"


def test_intervals_double_up_to_the_longest() -> None:
    seconds = [backoff(POLICY, attempt) // SECOND for attempt in range(1, 9)]
    assert seconds == [1, 2, 4, 8, 16, 32, 60, 60]


@given(policies, st.integers(1, 10**6))
def test_intervals_never_shrink_and_stay_in_bounds(
    policy: RetrySettings, attempt: int
) -> None:
    wait, following = backoff(policy, attempt), backoff(policy, attempt + 1)
    assert policy.initial_interval <= wait <= following <= policy.max_interval
    assert type(wait) is int


@given(policies.filter(lambda policy: policy.max_attempts > 0))
def test_attempts_include_the_first_and_are_used_up(policy: RetrySettings) -> None:
    assert attempts(policy) == (policy.max_attempts, MAXIMUM_ATTEMPTS_REACHED)


@given(policies, st.integers(1, 10**14))
def test_no_attempt_begins_after_the_deadline(
    policy: RetrySettings, deadline: int
) -> None:
    count, reason = attempts(policy, deadline)
    if reason == SCHEDULE_TO_CLOSE:
        waits = sum(backoff(policy, attempt) for attempt in range(1, count + 1))
        assert waits >= deadline


def test_next_attempt_past_the_deadline_ends_the_activity_now() -> None:
    decision = decide(
        settings(POLICY, 10 * SECOND),
        attempt=4,
        failure=FAILURE,
        scheduled_at=0,
        now=2 * SECOND,
    )
    assert decision == GiveUp(SCHEDULE_TO_CLOSE)  # 2 s + 8 s


@pytest.mark.parametrize("attempt", [1, 3, 10_000])
def test_next_retry_delay_replaces_the_interval_and_its_maximum(attempt: int) -> None:
    failure = msgspec.structs.replace(FAILURE, next_retry_delay=999 * SECOND)
    decision = decide(
        settings(POLICY), attempt=attempt, failure=failure, scheduled_at=0, now=0
    )
    assert decision == Retry(999 * SECOND)


def test_next_retry_delay_rules_neither_attempts_nor_deadline() -> None:
    failure = msgspec.structs.replace(FAILURE, next_retry_delay=999 * SECOND)
    once = msgspec.structs.replace(POLICY, max_attempts=1)
    last = decide(settings(once), attempt=1, failure=failure, scheduled_at=0, now=0)
    assert last == GiveUp(MAXIMUM_ATTEMPTS_REACHED)
    late = decide(
        settings(POLICY, 10 * SECOND),
        attempt=1,
        failure=failure,
        scheduled_at=0,
        now=0,
    )
    assert late == GiveUp(SCHEDULE_TO_CLOSE)


def test_non_retryable_is_named_even_on_the_last_attempt() -> None:
    once = msgspec.structs.replace(
        POLICY, max_attempts=1, non_retryable=("ValueError",)
    )
    decision = decide(settings(once), attempt=1, failure=FAILURE, scheduled_at=0, now=0)
    assert decision == GiveUp(NON_RETRYABLE)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure(kind="cancelled"), False),
        (Failure(kind="terminated"), False),
        (Failure(kind="timeout", timeout_type="start_to_close"), True),
        (Failure(kind="timeout", timeout_type="heartbeat"), True),
        (Failure(kind="timeout", timeout_type="schedule_to_close"), False),
        (Failure(kind="timeout", timeout_type="schedule_to_start"), False),
        (Failure(kind="outcome_unknown"), True),
        (Failure(non_retryable=True), False),
        (Failure(), True),
    ],
)
def test_what_is_tried_again(failure: Failure, expected: bool) -> None:
    assert is_retryable(POLICY, failure) is expected


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("ValueError",), True),
        (("LookupError",), True),  # a base class
        (("Look",), False),
        (("temporarily",), True),  # in the message
        (("Other", "unavailable"), True),
    ],
)
def test_retryable_errors_match_types_bases_and_messages(
    patterns: tuple[str, ...], expected: bool
) -> None:
    failure = Failure(
        message="temporarily unavailable", type="ValueError", bases=("LookupError",)
    )
    policy = msgspec.structs.replace(POLICY, retryable_errors=patterns)
    assert is_retryable(policy, failure) is expected


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [(("ValueError",), False), (("LookupError",), False), (("unavailable",), True)],
)
def test_non_retryable_matches_types_and_bases_only(
    patterns: tuple[str, ...], expected: bool
) -> None:
    failure = Failure(message="unavailable", type="ValueError", bases=("LookupError",))
    policy = msgspec.structs.replace(POLICY, non_retryable=patterns)
    assert is_retryable(policy, failure) is expected


def jittered(jitter: float) -> RetrySettings:
    return msgspec.structs.replace(POLICY, jitter=jitter)


@given(policies, st.floats(0, 1), st.integers(1, 40), st.text(max_size=20))
def test_jitter_shortens_a_wait_by_its_fraction_at_most_and_always_alike(
    policy: RetrySettings, jitter: float, attempt: int, key: str
) -> None:
    longest = backoff(policy, attempt, key)
    policy = msgspec.structs.replace(policy, jitter=jitter)
    wait = backoff(policy, attempt, key)
    assert int(longest * (1 - jitter)) - 1 <= wait <= longest
    assert backoff(policy, attempt, key) == wait


def test_waits_of_many_that_failed_at_once_are_spread() -> None:
    waits = [backoff(jittered(0.5), 4, f"run-{n}/5/4") for n in range(400)]
    assert min(waits) < 4.2 * SECOND
    assert max(waits) > 7.8 * SECOND
    assert len(set(waits)) == 400
    assert 5.7 * SECOND < sum(waits) / 400 < 6.3 * SECOND


def test_jitter_is_the_same_on_every_machine() -> None:
    assert backoff(jittered(0.2), 1, "run/1/1") == 970604


def test_a_policy_without_jitter_is_recorded_as_it_always_was() -> None:
    assert b"jitter" not in msgspec.json.encode(POLICY)
    assert b'"jitter":0.2' in msgspec.json.encode(jittered(0.2))
    read = msgspec.json.decode(msgspec.json.encode(POLICY), type=RetrySettings)
    assert read == POLICY

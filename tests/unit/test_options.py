"""Durations, ids and retry policies: a value, or a typed error where it is written."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import RetryPolicy, limits
from durable.errors import InvalidDurationError, InvalidIdError, InvalidOptionError
from durable.options import check_id, to_microseconds

# --- durations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (1, 1),
        (1.5, 1.5),
        (timedelta(hours=1), 3_600),
        (timedelta(microseconds=1), 1e-6),
        ("30s", 30),
        ("1h30m", 5_400),
        (" 1h 30 m ", 5_400),
        ("2w", 14 * 86_400),
        ("1.5D", 129_600),
        ("250ms", 0.25),
        ("7us", 7e-6),
        ("PT5M", 300),
        ("P1DT1H", 90_000),
        ("p2w", 14 * 86_400),
        ("PT0.5S", 0.5),
        (limits.DURATION_SECONDS_MAX, limits.DURATION_SECONDS_MAX),
    ],
)
def test_duration_is_whole_microseconds(value: Any, seconds: float) -> None:
    assert to_microseconds(value, "it") == round(seconds * 1_000_000)


NO_DURATIONS: list[Any] = [
    -1,
    -0.001,
    timedelta(seconds=-1),
    timedelta.max,
    timedelta.min,
    math.nan,
    math.inf,
    -math.inf,
    1e18,
    10**300,
    limits.DURATION_SECONDS_MAX + 1,
    True,
    None,
    b"30s",
    "",
    " ",
    "P",
    "PT",
    "30",
    "30 seconds",
    "s",
    "-5s",
    "1h-30m",
    "1e3s",
    "nan",
    "5 s x",
    "99999999999d",
    "9" * 5_000 + "s",
    [1],
    1 + 0j,
]


@pytest.mark.parametrize("value", NO_DURATIONS, ids=range(len(NO_DURATIONS)))
def test_what_is_no_duration_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidDurationError, match="the timeout of x"):
        to_microseconds(value, "the timeout of x")


def test_integer_beyond_every_float_is_refused_too() -> None:
    with pytest.raises(InvalidDurationError):
        to_microseconds(10**400, "it")


@given(st.one_of(st.floats(), st.integers(), st.timedeltas(), st.text(max_size=12)))
def test_any_value_is_a_duration_in_range_or_a_typed_error(value: Any) -> None:
    try:
        result = to_microseconds(value, "it")
    except InvalidDurationError:
        return
    assert type(result) is int
    assert 0 <= result <= limits.DURATION_SECONDS_MAX * 1_000_000


@given(st.integers(0, limits.DURATION_SECONDS_MAX * 1_000_000))
def test_timedelta_keeps_every_microsecond(microseconds: int) -> None:
    assert to_microseconds(timedelta(microseconds=microseconds), "it") == microseconds


# --- ids ------------------------------------------------------------------------------

GOOD_IDS = [
    "a",
    "order-42",
    "../etc/passwd",
    "%2f",
    "'; DROP TABLE runs; --",
    "a b",
    "ordér",
    "日本",
    "🙂",
    "x" * limits.ID_BYTES_MAX,
]
BAD_IDS: list[Any] = [
    "",
    " a",
    "a ",
    "\u3000a",
    "a\x00b",
    "a\nb",
    "a\tb",
    "\x1b[31mred",
    "a\u202eb",
    "a\u200bb",
    "\ud800",
    "a\u2028b",
    "x" * (limits.ID_BYTES_MAX + 1),
    "é" * 128,
    "x" * 3_000,
    "x" * 1_000_000,
    None,
    5,
    b"a",
]


@pytest.mark.parametrize("value", GOOD_IDS)
def test_id_that_every_database_keeps_is_kept(value: str) -> None:
    assert check_id(value, "the id") == value


@pytest.mark.parametrize("value", BAD_IDS, ids=range(len(BAD_IDS)))
def test_bad_id_is_refused_with_a_short_printable_message(value: Any) -> None:
    with pytest.raises(InvalidIdError, match="the workflow id") as caught:
        check_id(value, "the workflow id")
    message = str(caught.value)
    assert len(message) < 400
    assert message.isprintable()


@given(st.text(max_size=300))
def test_any_text_is_an_id_or_refused(value: str) -> None:
    try:
        check_id(value, "it")
    except InvalidIdError:
        return
    assert 0 < len(value.encode()) <= limits.ID_BYTES_MAX
    assert value.isprintable()
    assert value == value.strip()


# --- retry policies -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": -1},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": None},
        {"max_attempts": "3"},
        {"initial_interval": 0},
        {"initial_interval": -1},
        {"initial_interval": math.nan},
        {"initial_interval": "soon"},
        {"initial_interval": 1e-9},
        {"max_interval": 0.5},
        {"max_interval": math.inf},
        {"backoff_coefficient": 0.99},
        {"backoff_coefficient": -2},
        {"backoff_coefficient": math.nan},
        {"backoff_coefficient": math.inf},
        {"backoff_coefficient": True},
        {"backoff_coefficient": "2"},
        {"retryable_errors": "ValueError"},
        {"retryable_errors": ["ValueError"]},
        {"retryable_errors": (int,)},
        {"retryable_errors": ("",)},
        {"non_retryable": ValueError},
        {"non_retryable": (ValueError("x"),)},
    ],
    ids=str,
)
def test_policy_that_cannot_work_is_refused_with_the_field(options: Any) -> None:
    (field,) = options
    with pytest.raises((InvalidOptionError, InvalidDurationError), match=field):
        RetryPolicy(**options)


def test_policy_accepts_what_works() -> None:
    RetryPolicy()
    RetryPolicy(max_attempts=0, initial_interval="1ms", max_interval="1d")
    RetryPolicy(backoff_coefficient=1, non_retryable=(ValueError, "Declined"))
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]  # positions would be guesses


@pytest.mark.parametrize("jitter", [-0.1, 1.1, float("nan"), True, "0.2"])
def test_jitter_that_is_no_fraction_is_refused(jitter: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"RetryPolicy\.jitter"):
        RetryPolicy(jitter=jitter)

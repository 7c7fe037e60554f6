"""Recording a failure never fails, and what is recorded is bounded as a whole."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from durable import ApplicationError, limits
from durable.converter.failures import exception_of
from durable.errors import CompensationFailed
from tests.unit.converter.test_failure_parts import Declined, back, stored


class Hostile(Exception):
    """Raises wherever it is touched."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError


class BadText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError

    def __getitem__(self, key: object) -> str:
        raise RuntimeError

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        raise RuntimeError


class BadNote:
    def __str__(self) -> str:
        raise RuntimeError


def with_bad_note() -> Exception:
    error = ApplicationError("x", non_retryable=True)
    error.__notes__ = [BadNote(), "good"]  # type: ignore[list-item]  # the fault under test
    return error


def with_bad_attribute() -> Exception:
    class Value:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]  # as every class with an __eq__

    error = ApplicationError("x", non_retryable=True)
    error.value = Value()  # type: ignore[attr-defined]  # the fault under test
    return error


anything: Any = ApplicationError


@pytest.mark.parametrize(
    "error",
    [
        anything(OSError(5, "connection lost"), non_retryable=True),
        anything("x", type="a\ud800", non_retryable=True),
        anything("x", type=object(), non_retryable=True),
        anything(BadText("x"), non_retryable=True),
        anything("x", object(), b"bytes", non_retryable=True),
        anything("x", non_retryable=True, next_retry_delay=object()),
        with_bad_note(),
        with_bad_attribute(),
    ],
    ids=range(8),
)
def test_what_is_wrong_with_one_part_costs_no_other(error: BaseException) -> None:
    failure = stored(error)
    assert failure.non_retryable
    again = exception_of(failure)
    assert isinstance(again, ApplicationError)
    assert again.non_retryable


def test_exception_as_the_message_is_its_text() -> None:
    again = back(anything(OSError(5, "connection lost")))
    assert str(again) == "[Errno 5] connection lost"
    assert isinstance(again.args[0], OSError)


def test_exception_that_raises_wherever_it_is_touched_is_a_failure() -> None:
    failure = stored(Hostile("x"))
    assert failure.type == "Hostile"
    assert failure.message
    assert isinstance(exception_of(failure), Exception)


def wide_and_deep(depth: int) -> Exception:
    if depth == 0:
        return ValueError("\x00" * 40_000)
    return ExceptionGroup("g", [wide_and_deep(depth - 1) for _ in range(7)])


def loaded() -> Exception:
    error = Declined("x" * 100_000, b"y" * 30_000)
    for number in range(100):
        error.add_note("\x01" * 100_000)
        vars(error)[f"a{number}"] = "z" * 30_000
    error.__cause__ = ApplicationError("x", *["d" * 30_000] * 100)
    return error


def holding_each_other() -> Exception:
    errors = [Declined(number) for number in range(30)]
    for error in errors:
        error.others = errors  # type: ignore[attr-defined]  # as programs do
    return errors[0]


def long_chain() -> Exception:
    error: Exception = ValueError("first")
    for _ in range(30):
        outer = loaded()
        outer.__cause__ = error
        error = outer
    return error


@pytest.mark.parametrize("make", [loaded, holding_each_other, long_chain])
def test_failure_is_bounded_as_a_whole(make: Callable[[], Exception]) -> None:
    failure = stored(make())
    assert len(msgspec.json.encode(failure)) <= limits.FAILURE_BYTES_MAX
    assert failure.left_out
    assert isinstance(exception_of(failure), Exception)


def test_group_of_groups_is_bounded_as_a_whole() -> None:
    failure = stored(wide_and_deep(5))
    assert len(msgspec.json.encode(failure)) <= limits.FAILURE_BYTES_MAX
    assert isinstance(exception_of(failure), ExceptionGroup)


def test_recorded_failure_among_others_is_bounded_too() -> None:
    recorded: Any = exception_of(stored(loaded()))
    for group in (
        ExceptionGroup("g", [recorded] * 50),
        CompensationFailed("x", errors=(recorded,) * 50),
    ):
        failure = stored(group)
        assert len(msgspec.json.encode(failure)) <= limits.FAILURE_BYTES_MAX
        assert len(failure.group) == 50

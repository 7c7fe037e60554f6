"""Which class a failure is rebuilt as, what catches it, and what is added to it."""

import asyncio
import concurrent.futures
import json
import pickle
import socket
import subprocess
import urllib.error
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from durable import ApplicationError
from durable.converter.failures import exception_of, failure_of
from durable.core.history.payload import Failure
from durable.errors import ActivityError, RemoteError
from tests.unit.converter.test_failure_parts import (
    Declined,
    Frozen,
    Picky,
    back,
    of_activity,
    stored,
)

# --- which classes are visible --------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("x", "y", 0),
        urllib.error.URLError("x"),
        concurrent.futures.BrokenExecutor("x"),
        concurrent.futures.InvalidStateError("x"),
        subprocess.TimeoutExpired(["x"], 5),
        ElementTree.ParseError("x"),
        pickle.PicklingError("x"),
        socket.gaierror(1, "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_class_that_an_imported_package_names_is_visible(error: Exception) -> None:
    assert type(exception_of(of_activity(stored(error)))) is type(error)


@pytest.mark.parametrize(
    ("module", "name"),
    [("wave", "Error"), ("configparser", "NoSectionError"), ("no.such", "X")],
)
def test_class_of_a_package_that_is_not_imported_here_is_not_visible(
    module: str, name: str
) -> None:
    failure = Failure(
        message="x", type=name, module=module, classes=(f"{module}:{name}",)
    )
    assert isinstance(exception_of(failure), RemoteError)


def test_failure_that_an_older_release_recorded_is_read_as_it_was() -> None:
    old = Failure(
        message="x",
        type="JSONDecodeError",
        module="json.decoder",
        bases=("ValueError",),
    )
    found = exception_of(of_activity(old))
    assert type(found) is ActivityError
    assert not isinstance(found, ValueError)
    assert type(found.__cause__) is RemoteError


@pytest.mark.parametrize("with_classes", [True, False])
@pytest.mark.parametrize("cls", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_only_exceptions_are_rebuilt(
    cls: type[BaseException], *, with_classes: bool
) -> None:
    failure = stored(cls(3))
    if not with_classes:
        failure = msgspec.structs.replace(failure, classes=())
    found = exception_of(of_activity(failure))
    assert type(found) is ActivityError
    assert f"{cls.__name__}: 3" in str(found)


# --- bases ----------------------------------------------------------------------------


def unknown(base: type[Exception], **attributes: Any) -> Exception:
    """An exception of a class that cannot be found again."""
    error: Exception = type("Unknown", (base,), {})("text")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize(
    "base", [ValueError, KeyError, OSError, TimeoutError, Frozen, UnicodeDecodeError]
)
def test_base_class_catches_what_cannot_be_rebuilt(base: type[Exception]) -> None:
    failure = Failure(
        message="text",
        type="Unknown",
        module="elsewhere",
        classes=("elsewhere:Unknown", f"{base.__module__}:{base.__name__}"),
    )
    found = exception_of(of_activity(failure))
    assert isinstance(found, base)
    assert isinstance(found, ActivityError)
    assert "Unknown: text" in str(found)
    assert type(found).__name__ == "ActivityError"
    assert isinstance(found.__cause__, base)
    assert isinstance(found.__cause__, RemoteError)
    child = exception_of(Failure(kind="child_workflow", cause=failure))
    assert isinstance(child, base)
    copy = pickle.loads(pickle.dumps(found))  # noqa: S301 - made here
    assert isinstance(copy, base)
    assert str(copy) == str(found)


def test_class_that_cannot_build_its_text_again_is_caught_by_its_base() -> None:
    class Wrapped:
        def __repr__(self) -> str:
            return "<h>"

    found = exception_of(of_activity(stored(Picky(Wrapped()))))
    assert isinstance(found, ValueError)
    assert isinstance(found, ActivityError)
    assert "Picky: handle <h>" in str(found)


def test_attributes_of_what_cannot_be_rebuilt_are_there() -> None:
    found: Any = exception_of(stored(unknown(ValueError, status=404, code=5)))
    assert (found.status, found.type) == (404, "Unknown")
    assert found.code == "remote_error"


# --- what is added before it is raised again ------------------------------------------


def again_with(change: Callable[[Any], object], first: Failure) -> Any:
    """Raise a recorded failure, change it, record it, and read that."""
    error = exception_of(first)
    change(error)
    return back(error)


FIRST: tuple[Callable[[], Failure], ...] = (
    lambda: of_activity(stored(Declined("x"))),
    lambda: Failure(kind="child_workflow", cause=stored(Declined("x"))),
    lambda: stored(Declined("x")),
    lambda: of_activity(Failure(message="x", type="Gone", module="gone")),
    lambda: Failure(kind="timeout", message="x", timeout_type="run"),
)


@pytest.mark.parametrize("first", [make() for make in FIRST], ids=range(len(FIRST)))
def test_what_code_adds_before_it_raises_again_is_kept(first: Failure) -> None:
    def change(error: Any) -> None:
        error.add_note("while paying")
        error.order = "o-1"
        error.__cause__ = OSError(5, "other")

    again = again_with(change, first)
    before: Any = exception_of(first)
    assert type(again) is type(before)
    assert str(again) == str(before)
    assert again.__notes__ == [*getattr(before, "__notes__", []), "while paying"]
    assert again.order == "o-1"
    assert type(again.__cause__) is OSError

    def more(error: Any) -> None:
        error.add_note("once more")
        error.order = "o-2"

    last = again_with(more, stored(again))
    assert last.__notes__[-2:] == ["while paying", "once more"]
    assert last.order == "o-2"
    assert type(last.__cause__) is OSError


def test_what_is_raised_again_unchanged_is_the_same_failure() -> None:
    for make in FIRST:
        failure = make()
        assert failure_of(exception_of(failure)) is failure
        error = exception_of(failure)
        error.__context__ = ValueError("handled meanwhile")
        assert failure_of(error) is failure
    added = stored(again_with(lambda error: error.add_note("x"), FIRST[0]()))
    assert failure_of(exception_of(added)) is added


def test_retry_that_code_forbids_before_it_raises_again_is_kept() -> None:
    def change(error: Any) -> None:
        error.non_retryable = True

    first = stored(ApplicationError("x"))
    again = again_with(change, first)
    assert again.non_retryable
    assert stored(again).non_retryable


def test_cancellation_keeps_what_code_adds() -> None:
    error = exception_of(Failure(kind="cancelled", message="stop"))
    error.add_note("while paying")
    again = back(error)
    assert isinstance(again, asyncio.CancelledError)
    assert again.__notes__ == ["while paying"]

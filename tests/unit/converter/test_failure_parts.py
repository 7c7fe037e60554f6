"""What a failure keeps of an exception: all that is data, and it says what is not."""

import asyncio
import concurrent.futures
import dataclasses
import enum
import json
import pickle
import socket
import subprocess
import urllib.error
import uuid
import xml.etree.ElementTree as ElementTree
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import ApplicationError, activity, limits
from durable.converter.failures import exception_of, failure_of, is_bug
from durable.core.payload import Failure
from durable.errors import ActivityError, RemoteError


class Code(enum.StrEnum):
    FUNDS = "funds"


class Odd(enum.Flag):
    ONE = 1
    TWO = 2


class Declined(Exception):
    pass


class Slotted(Exception):
    __slots__ = ("code", "more")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


@dataclasses.dataclass(frozen=True)
class Frozen(LookupError):
    key: str


class Picky(ValueError):
    """Its text needs what is no data."""

    def __init__(self, handle: object) -> None:
        self.handle = handle

    def __str__(self) -> str:
        return f"handle {self.handle!r}"


class Needing(Exception):
    code: int

    def __new__(cls, *, code: int) -> Self:
        made = super().__new__(cls)
        made.code = code
        return made

    def __init__(self, *, code: int) -> None:
        super().__init__("x")


class Outer:
    class Missing(Exception):
        pass


class NamedByType(ApplicationError):
    pass


class Wide(ExceptionGroup[Exception]):
    retries: int = 0


@activity(name="failure_parts.here", retry=None)
async def here() -> None:
    """Makes this module's names known."""


def stored(error: BaseException) -> Failure:
    """What an exception is after it was raised, written and read."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever was given
        failure = failure_of(caught)
    return msgspec.json.decode(msgspec.json.encode(failure), type=Failure)


def back(error: BaseException) -> Any:
    return exception_of(stored(error))


def of_activity(cause: Failure) -> Failure:
    return Failure(
        kind="activity", cause=cause, activity_type="a", activity_id="1", attempt=1
    )


def raised_by(code: Callable[[], object]) -> BaseException:
    try:
        code()
    except BaseException as caught:  # noqa: BLE001 - whatever it raises
        return caught
    raise AssertionError


# --- parts ----------------------------------------------------------------------------


def test_error_of_the_system_names_its_file() -> None:
    again = back(raised_by(lambda: Path("/nope/file.txt").read_text("utf-8")))
    assert type(again) is FileNotFoundError
    assert again.filename == "/nope/file.txt"
    assert str(again) == "[Errno 2] No such file or directory: '/nope/file.txt'"
    assert back(OSError(2, "x", "a", None, "b")).filename2 == "b"
    assert back(OSError(2, "x", b"\xff")).filename == b"\xff"
    assert back(OSError(2, "x", "\udcff")).filename == "\udcff"


@pytest.mark.parametrize(
    "code",
    [
        lambda: b"a\xff".decode(),
        lambda: "\ud800".encode(),
        lambda: json.loads("{"),
        lambda: compile("x =", "file.py", "exec"),
        lambda: ElementTree.fromstring("<a>"),  # noqa: S314 - a literal
        lambda: __import__("no_such_module"),
        lambda: dict[Any, Any]()[("a", 1)],
        lambda: int("x"),
        lambda: subprocess.run(["false"], check=True),
        lambda: (_ for _ in ()).throw(urllib.error.URLError(OSError(5, "x"))),
        lambda: (_ for _ in ()).throw(socket.gaierror(-2, "unknown")),
        lambda: uuid.UUID("x"),
        lambda: zoneinfo.ZoneInfo("No/Where"),
    ],
    ids=range(13),
)
def test_exception_of_the_library_comes_back_whole(code: Callable[[], object]) -> None:
    error = raised_by(code)
    again = back(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name in dir(error):
        value = getattr(error, name, None)
        if name.startswith("_") or callable(value) or value is None or name == "obj":
            continue
        assert str(getattr(again, name)) == str(value), name
    assert not hasattr(again, "__notes__")


values: list[Any] = [
    Code.FUNDS,
    Decimal("9.990"),
    datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    date(2026, 1, 2),
    timedelta(days=-1, microseconds=3),
    uuid.UUID(int=5),
    b"\x00\xff",
    (1, (2, [3])),
    {(1, "a"): {"$": 5}},
    frozenset({1, "a"}),
    2**200,
    1j,
    Path("a/b"),
    None,
    "a\ud800",
]


@pytest.mark.parametrize("value", values, ids=repr)
def test_attribute_and_argument_come_back_equal_and_of_their_type(value: Any) -> None:
    error = Declined("x", value)
    error.value = value  # type: ignore[attr-defined]  # as programs do
    again = back(error)
    for found in (again.args[1], again.value):
        assert (type(found), found) == (type(value), value)
        assert repr(found) == repr(value)


data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.sampled_from(Code),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.just("$"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(data, max_size=3), data)
def test_any_data_comes_back_equal_and_of_its_type(args: list[Any], value: Any) -> None:
    error = Declined(*args)
    error.value = value  # type: ignore[attr-defined]  # as programs do
    again = back(error)
    if args:
        assert repr(again.args) == repr(error.args)
    assert repr(again.value) == repr(value)


def test_slots_come_back_and_unset_ones_stay_so() -> None:
    again = back(Slotted(9))
    assert (again.code, str(again)) == (9, "code 9")
    assert not hasattr(again, "more")


def test_frozen_dataclass_comes_back_as_what_an_activity_raised() -> None:
    error = Frozen("k")
    again = exception_of(of_activity(stored(error)))
    assert isinstance(again, Frozen)
    assert again.key == "k"
    assert not is_bug(again)
    assert "raised by activity" in again.__notes__[0]


def test_class_whose_new_wants_more_comes_back() -> None:
    again = back(Needing(code=5))
    assert isinstance(again, Needing)
    assert again.code == 5


def test_nested_class_and_one_with_another_type_come_back() -> None:
    assert isinstance(back(Outer.Missing("x")), Outer.Missing)
    again = back(NamedByType("x", 1, type="Elsewhere"))
    assert isinstance(again, NamedByType)
    assert (again.type, again.details) == ("Elsewhere", (1,))


def test_group_keeps_its_members_and_attributes() -> None:
    members = [*(ValueError(str(n)) for n in range(25)), Declined("last")]
    group = Wide("many", members)
    group.retries = 3
    again = back(group)
    assert isinstance(again, Wide)
    assert (again.message, again.retries, len(again.exceptions)) == ("many", 3, 26)
    assert isinstance(again.exceptions[25], Declined)


def test_members_beyond_the_limit_are_counted() -> None:
    again = back(ExceptionGroup("many", [ValueError(n) for n in range(1_000)]))
    assert len(again.exceptions) == limits.FAILURE_GROUP_MAX
    assert again.__notes__ == ["not recorded: 900 of 1,000 members"]


def test_members_with_one_cause_both_keep_it() -> None:
    cause = OSError(5, "disk")
    members = [ValueError("a"), ValueError("b")]
    for member in members:
        member.__cause__ = cause
    again = back(ExceptionGroup("g", members))
    assert [str(member.__cause__) for member in again.exceptions] == [str(cause)] * 2


def test_what_cannot_be_kept_is_said_by_name_and_type() -> None:
    error = Declined("x", object())
    error.handle = open  # type: ignore[attr-defined]  # no data
    error.odd = Odd.ONE | Odd.TWO  # type: ignore[attr-defined]  # no one member
    error.good = 1  # type: ignore[attr-defined]  # data beside it
    again = back(error)
    assert again.good == 1
    (note,) = again.__notes__
    assert note.startswith("not recorded: the arguments (object)")
    assert "attribute 'handle' (builtin_function_or_method)" in note
    assert "attribute 'odd' (Odd)" in note


def test_enum_that_is_not_known_costs_only_its_attribute() -> None:
    class Local(enum.Enum):
        A = 1

    error = Declined("x")
    error.code, error.good = Local.A, 1  # type: ignore[attr-defined]  # as programs do
    again = back(error)
    assert isinstance(again, Declined)
    assert again.good == 1  # type: ignore[attr-defined]  # as programs do
    assert again.__notes__ == ["not rebuilt: attributes code"]


def test_values_of_a_failure_are_not_in_its_repr() -> None:
    error = ApplicationError("x", {"key": "hunter2"})
    error.token = "hunter2"  # type: ignore[attr-defined]  # as programs do
    failure = stored(error)
    assert "hunter2" in msgspec.json.encode(failure).decode()
    assert "hunter2" not in repr(failure)
    assert "hunter2" not in f"{of_activity(failure)}"


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

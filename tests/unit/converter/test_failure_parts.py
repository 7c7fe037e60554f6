"""What a failure keeps of an exception: all that is data, and it says what is not."""

import concurrent.futures  # noqa: F401 - makes its classes visible
import dataclasses
import enum
import json
import pickle  # noqa: F401 - likewise
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
from durable.core.history.payload import Failure


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
    # Its order, and so its name, is another in each process.
    pytest.param(frozenset({1, "a"}), id="frozenset"),
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

"""What users of such libraries have met with their types, and what happens here."""

import dataclasses
import enum
import ipaddress
import zoneinfo
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import msgspec
import pytest

from durable.converter import json
from durable.core.history.payload import Payload
from durable.errors import PayloadError, UndecodableError

pydantic: Any = pytest.importorskip("pydantic")
A = TypeVar("A")


def back(value: Any, hint: Any) -> Any:
    payload, copy = json.encode_with_copy(value, hint, "argument 'x' of 'f'")
    again = json.decode(payload, hint, "it")
    assert (again, type(again)) == (copy, type(copy)) == (value, type(value))
    return again


@dataclasses.dataclass
class User:
    name: str


@dataclasses.dataclass
class Reference:
    id: int


@dataclasses.dataclass
class Project:
    author: User | Reference


def test_field_of_a_union_of_two_dataclasses() -> None:
    back(Project(User("Ada")), Project)
    back([Project(Reference(1))], list[Project])


class Example(msgspec.Struct):
    field: float | int | None = 1.0
    when: int | datetime | date | None = None
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None


@pytest.mark.parametrize(
    "value",
    [
        Example(1, datetime(2026, 1, 1), ipaddress.ip_address("127.0.0.1")),  # noqa: DTZ001 - as it was reported
        Example(None, date(2026, 1, 1), ipaddress.ip_address("::1")),
        Example(1.5, 5),
    ],
)
def test_struct_with_unions_that_msgspec_refuses(value: Example) -> None:
    back(value, Example)


@dataclasses.dataclass
class Ok(Generic[A]):
    value: A


@dataclasses.dataclass
class Err(Generic[A]):
    value: A


def test_result_of_two_generics_of_one_shape() -> None:
    hint = Ok[int] | Err[str]
    back(Ok(1), hint)
    back(Err("no"), hint)
    with pytest.raises(PayloadError, match=r"x\.value does not fit"):
        json.encode(Ok("one"), hint, "argument 'x' of 'f'")


def test_two_bounds_of_one_type_are_both_kept() -> None:
    low = Annotated[int, msgspec.Meta(ge=-10, le=-1)]
    high = Annotated[int, msgspec.Meta(ge=1, le=10)]
    hint = Union[low, high]  # noqa: UP007 - as it was reported
    back(-1, hint)
    back(10, hint)
    with pytest.raises(PayloadError, match="fits none of"):
        json.encode(0, hint, "it")


Text: Any = pydantic.create_model("Text", author=(str, ...), content=(str, ""))
Tool: Any = pydantic.create_model(
    "Tool", author=(str, ...), content=(str, ""), type=(Literal["tool"], "tool")
)


def test_model_that_another_one_would_swallow_stays_what_it_is() -> None:
    # The first member that validates would be Text, whose fields Tool has, too.
    for hint in (Text | Tool, Tool | Text):
        back(Tool(author="a", content="b"), hint)
        back(Text(author="a", content="b"), hint)


@dataclasses.dataclass
class Request:
    parts: list[str]
    kind: Literal["request"] = "request"


@dataclasses.dataclass
class Response:
    parts: list[str]
    kind: Literal["response"] = "response"


@dataclasses.dataclass
class Params:
    messages: list[Request | Response]
    metadata: dict[str, Any] | None = None


def test_list_of_messages_in_a_dataclass_survives_a_second_trip() -> None:
    value = Params([Request(["a"]), Response(["b"]), Request([])])
    assert back(back(value, Params), Params) == value


@pytest.mark.parametrize("held", [{"a"}, (1, 2), User("Ada"), b"\x01", {1: "one"}])
def test_untyped_metadata_that_json_would_change_is_refused_with_its_path(
    held: Any,
) -> None:
    value = Params([], {"key": held})
    with pytest.raises(PayloadError, match=r"at x\.metadata\[key 1\]"):
        json.encode(value, Params, "argument 'x' of 'f'")


def test_sums_across_the_change_of_the_clocks_are_right_after_a_trip() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        moment = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold)
        copy = json.encode_with_copy(moment, datetime, "it")[1]
        assert copy.fold == fold
        assert copy.utcoffset() == timedelta(hours=2 - fold)
        assert copy + timedelta(days=1) == moment + timedelta(days=1)


def test_times_of_two_zones_are_not_the_same() -> None:
    written = {
        bytes(json.encode(time(12, tzinfo=zoneinfo.ZoneInfo(zone)), time, "it").json)
        for zone in ("America/Fortaleza", "Europe/Prague")
    }
    assert len(written) == 2


def test_zone_that_this_machine_does_not_know_is_said_and_never_guessed() -> None:
    payload = Payload(json=msgspec.Raw(b'"2026-01-01T00:00:00+01:00[Mars/Base]"'))
    with pytest.raises(UndecodableError, match="time zone is unknown") as caught:
        json.decode(payload, datetime, "it")
    assert "tzdata" in str(caught.value)
    assert "Mars" not in str(caught.value)


def test_rules_of_a_zone_that_have_changed_keep_the_instant() -> None:
    payload = Payload(json=msgspec.Raw(b'"2026-01-01T00:00:00+05:00[Europe/Berlin]"'))
    found = json.decode(payload, datetime, "it")
    assert found == datetime.fromisoformat("2026-01-01T00:00:00+05:00")
    assert found.tzinfo == zoneinfo.ZoneInfo("Europe/Berlin")


class Shade(str, enum.Enum):  # noqa: UP042 - as it was reported
    DARK = "dark"


def test_enums_that_are_texts_come_back_as_members_wherever_they_are() -> None:
    back(Shade.DARK, Shade | str)
    back("dark", Shade | str)
    back({Shade.DARK: [Shade.DARK]}, dict[Shade, list[Shade]])


def test_result_that_is_kept_keeps_its_zone_and_its_members() -> None:
    moment = datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    for value in (moment, Project(Reference(1))):
        kept = json.keep(value, int)
        assert kept is not None
        recovered = json.recover(kept, type(value), "it")
        assert repr(json.decode(recovered, type(value), "it")) == repr(value)

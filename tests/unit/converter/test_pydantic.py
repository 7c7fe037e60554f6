"""Models of pydantic: whole or refused, and no value in a message."""

import traceback
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from durable.converter import json
from durable.core.history.payload import Payload
from durable.errors import PayloadError, UndecodableError

# By Any: the library works without it, and is checked without it.
pydantic: Any = pytest.importorskip("pydantic")

SECRET = "SENTINEL-4711"


def refuse(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"{value} is wrong")
    return value


Model: Any = pydantic.create_model(
    "Model",
    name=(int, ...),
    more=(dict[str, int], {}),
    moment=(datetime | None, None),
    __validators__={"v": pydantic.field_validator("name", mode="before")(refuse)},
)
Hidden: Any = pydantic.create_model(
    "Hidden", name=(str, ...), token=(pydantic.SecretStr, ...)
)
Open: Any = pydantic.create_model(
    "Open", __config__=pydantic.ConfigDict(extra="allow"), name=(int, ...)
)


@pytest.mark.parametrize(
    "value",
    [
        {"name": SECRET},
        {"name": {SECRET: 1}},
        {"name": 1, "more": {SECRET: SECRET}},
        {"name": 1, "moment": SECRET},
        SECRET,
        [SECRET],
    ],
    ids=range(6),
)
@pytest.mark.parametrize("hint", [Model, list[Model], dict[str, Model]], ids=range(3))
def test_what_a_model_refuses_is_in_no_message(value: Any, hint: Any) -> None:
    held = value if hint is Model else [value] if hint == list[Model] else {"a": value}
    payload = Payload(json=msgspec.Raw(msgspec.json.encode(held)))
    with pytest.raises(UndecodableError) as caught:
        json.decode(payload, hint, "it")
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    with pytest.raises(PayloadError) as refused:
        json.encode(held, hint, "it")
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_check_that_failed_is_named() -> None:
    payload = Payload(json=msgspec.Raw(b"[{}]"))
    with pytest.raises(
        UndecodableError, match=r"at \[0\]\.name does not fit.*\(missing\)"
    ):
        json.decode(payload, list[Model], "it")


def test_field_that_would_change_is_named() -> None:
    model = Hidden(name=SECRET, token=SECRET)
    with pytest.raises(PayloadError, match=r"It at token would change") as caught:
        json.encode(model, Hidden, "it")
    assert "another SecretStr" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_zone_in_a_model_is_refused_and_an_offset_is_kept() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    with pytest.raises(PayloadError, match=r"at moment would change"):
        json.encode(Model(name=1, moment=moment), Model, "it")
    for zone in (UTC, timezone(timedelta(hours=2)), None):
        model = Model(name=1, moment=moment.replace(tzinfo=zone))
        assert json.encode_with_copy(model, Model, "it")[1] == model


def test_fields_beside_those_of_the_class_are_compared_too() -> None:
    model = Open(name=1, other=2)
    assert json.encode_with_copy(model, Open, "it")[1] == model
    model = Open(name=1, other=(1, 2))
    with pytest.raises(PayloadError, match="would change"):
        json.encode(model, Open, "it")

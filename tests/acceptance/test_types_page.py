"""Each row of the tables in docs/reference/types.md is what happens."""

# ruff: noqa: S102, S307 - the page is ours, and code is what is in its tables

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from durable.api.signature import CallSignature
from durable.converter import json
from durable.converter.comparing import same
from durable.errors import DefinitionError, PayloadError, UndecodableError

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "types.md"
TEXT = PAGE.read_text()
CELL = re.compile(r"(?<!\\)\|")


class Row(NamedTuple):
    kind: str
    annotation: str
    rest: tuple[str, ...]


def rows(header: str, text: str = TEXT) -> list[Row]:
    """The rows of all tables with that header; code is given without its ticks."""
    found = list(find_rows(header, text))
    assert found, f"there is no table {header!r}"
    return found


def find_rows(header: str, text: str) -> Iterator[Row]:
    is_inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_inside = False
        elif line == header:
            is_inside = True
        elif is_inside and not line.startswith("| ---"):
            kind, *cells = [cell.strip() for cell in CELL.split(line)[1:-1]]
            code = [cell.strip("`").replace("\\|", "|") for cell in cells]
            yield Row(kind, code[0], tuple(code[1:]))


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """What the page defines, as in a program of its own."""
    source = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert source is not None
    module = ModuleType("types_page")
    sys.modules["types_page"] = module
    exec(compile(source[1], str(PAGE), "exec"), module.__dict__)
    yield module.__dict__
    del sys.modules["types_page"]


def check_kept(row: Row, names: dict[str, Any]) -> None:
    hint, value = eval(row.annotation, names), eval(row.rest[0], names)
    payload, copy = json.encode_with_copy(value, hint, "argument 'x' of 'f'")
    assert bytes(payload.json).decode() == row.rest[1]
    again = json.decode(payload, hint, "it")
    assert same(value, copy)
    assert same(value, again)
    assert type(again) is type(value)
    repeated = json.encode_again(value, hint, "it")
    assert repeated == payload


def check_refused(row: Row, names: dict[str, Any]) -> None:
    hint, value = eval(row.annotation, names), eval(row.rest[0], names)
    with pytest.raises(PayloadError) as caught:
        json.encode(value, hint, "argument 'x' of 'f'")
    assert str(caught.value).startswith("Argument 'x' of 'f'")
    assert row.rest[1] in (caught.value.hint or "")


KEPT = rows("| kind | annotation | value | recorded as |")
REFUSED = rows("| kind | annotation | value | what to do |")
NEVER = rows("| kind | annotation | what to do |")


def name_of(row: Row) -> str:
    return row.kind


@pytest.mark.parametrize("row", KEPT, ids=name_of)
def test_value_is_recorded_so_and_comes_back(row: Row, names: dict[str, Any]) -> None:
    check_kept(row, names)


@pytest.mark.parametrize("row", REFUSED, ids=name_of)
def test_value_is_refused_with_what_to_do(row: Row, names: dict[str, Any]) -> None:
    check_refused(row, names)


@pytest.mark.parametrize("row", NEVER, ids=name_of)
def test_annotation_is_refused_when_an_engine_opens(
    row: Row, names: dict[str, Any]
) -> None:
    async def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = eval(row.annotation, names)
    with pytest.raises(DefinitionError, match="'order'") as caught:
        CallSignature(charge, "charge").check_annotations()
    assert row.rest[0] in (caught.value.hint or "")


WRONG = """
| kind | annotation | value | recorded as |
| --- | --- | --- | --- |
| other JSON | `int` | `1` | `2` |
| another type | `Any` | `(1, 2)` | `[1,2]` |
| not written so | `int \\| str` | `"1"` | `1` |
"""


def test_row_that_is_wrong_fails(names: dict[str, Any]) -> None:
    for row in rows("| kind | annotation | value | recorded as |", WRONG):
        with pytest.raises((AssertionError, PayloadError)):
            check_kept(row, names)
    with pytest.raises(pytest.fail.Exception):
        check_refused(Row("fine", "int", ("1", "")), names)
    with pytest.raises(AssertionError):
        check_refused(Row("other advice", "Any", ("(1, 2)", "Pass a dict")), names)


def test_path_on_the_page_is_what_is_said(names: dict[str, Any]) -> None:
    order = names["Order"]
    wrong = order(1, None, [order(2, names["Paid"](receipt=7))])
    with pytest.raises(PayloadError, match=r"at order\.lines\[0\]\.outcome\.receipt"):
        json.encode(wrong, order, "argument 'order' of 'ship'")
    payload = json.encode({"id": "seven"}, dict[str, str], "it")
    with pytest.raises(UndecodableError, match=r"at order\.id does not fit"):
        json.decode(payload, order, "argument 'order' of 'ship'")

"""Attributes take the values of their type, as texts and numbers that sort alike."""

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.errors import AttributeTypeError, InvalidOptionError
from durable.search.attributes import decode_attributes, encode_attributes
from durable.search.conditions import Attribute, check_condition, check_kinds
from durable.search.kinds import AttributeKind, give_back, keep_float, keep_one
from durable.search.run_fields import Run
from durable.store.sql.conditions import next_text

CUSTOMER = Attribute("customer", str)
AMOUNT = Attribute("amount", int)
URGENT = Attribute("urgent", bool)
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite)
def test_floats_sort_as_their_numbers_do(one: float, other: float) -> None:
    a, b = keep_float(one, "x"), keep_float(other, "x")

    assert (a < b, a == b) == (one < other, one == other)
    assert give_back(AttributeKind.FLOAT, a) == one
    assert struct.pack("<q", a)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=4), st.text(max_size=4))
def test_a_prefix_is_a_range(prefix: str, text: str) -> None:
    above = next_text(prefix)

    is_in = text >= prefix and (above is None or text < above)
    assert is_in is text.startswith(prefix)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (CUSTOMER, 1),
        (CUSTOMER, "x" * 256),
        (CUSTOMER, "a\0b"),
        (CUSTOMER, "\ud800"),
        (AMOUNT, True),
        (AMOUNT, 2**63),
        (AMOUNT, 1.0),
        (Attribute("rate", float), float("nan")),
        (Attribute("rate", float), 10**400),
        (URGENT, 1),
        (Attribute("due", datetime), datetime(2026, 1, 1)),  # noqa: DTZ001 - the case
        (Attribute("due", datetime), "soon"),
        (Attribute("tags", list[str]), "a"),
        (Attribute("tags", list[str]), ["a", 1]),
        (Attribute("tags", list[str]), ["a"] * 101),
        (Attribute("notes", str, text=True), "x" * 5_000),
    ],
)
def test_a_value_of_another_type_is_refused(
    attribute: Attribute[Any], value: object
) -> None:
    with pytest.raises(InvalidOptionError, match=attribute.name):
        encode_attributes({attribute: value}, "attributes")


def test_values_come_back_as_they_were() -> None:
    values: dict[Attribute[Any], Any] = {
        CUSTOMER: "ann ",
        AMOUNT: -(2**63),
        Attribute("rate", float): 3,
        URGENT: False,
        Attribute("due", datetime): datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC),
        Attribute("tags", list[str]): ["b", "a", "b"],
        Attribute("notes", str, text=True): "As it was.",
    }

    found = decode_attributes(encode_attributes(values, "attributes"))

    assert found == {one.name: value for one, value in values.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Attribute("no-name", str),
        lambda: Attribute("n" * 65, str),
        lambda: Attribute("x", bytes),
        lambda: Attribute("x", int, text=True),
        lambda: encode_attributes({"customer": "a"}, "attributes"),
        lambda: encode_attributes([CUSTOMER], "attributes"),
        lambda: encode_attributes(
            {CUSTOMER: "a", Attribute("customer", str): "b"}, "attributes"
        ),
        lambda: encode_attributes(
            {Attribute(f"a{n}", int): n for n in range(51)}, "attributes"
        ),
        lambda: (CUSTOMER == "a") and (AMOUNT == 1),
        lambda: 1 < AMOUNT < 3,
        lambda: (CUSTOMER == "a") & True,  # type: ignore[operator]  # the case
        lambda: CUSTOMER.in_("ann"),
        lambda: CUSTOMER.in_(map(str, range(201))),
        lambda: URGENT > False,
        lambda: AMOUNT.starts_with("1"),
        lambda: Run.status == "lost",
        lambda: Run.duration > "soon",
        lambda: Run.type.ascending(),
        lambda: check_condition("customer"),
    ],
    ids=[f"case {number}" for number in range(19)],
)
def test_what_means_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOptionError):
        wrong()


def test_a_condition_on_another_type_is_refused() -> None:
    with pytest.raises(AttributeTypeError, match="'amount' is a Int here, and a Bool"):
        check_kinds((CUSTOMER == "a") | ~(AMOUNT == 1), {"amount": "Bool"})
    check_kinds(CUSTOMER == "a", {"customer": "Keyword", "amount": "Bool"})


def test_instants_are_kept_to_the_microsecond() -> None:
    moment = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)

    kept = keep_one(AttributeKind.DATETIME, moment, "x")

    assert give_back(AttributeKind.DATETIME, kept) == moment

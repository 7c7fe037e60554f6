"""The text of a query becomes what Python writes, or says where it fails."""

from datetime import UTC, datetime, timedelta

import pytest

from durable.errors import QuerySyntaxError
from durable.search.conditions import Attribute, Condition
from durable.search.orders import Order
from durable.search.query_text import parse
from durable.search.run_fields import Run

KINDS = {
    "customer": "Keyword",
    "amount": "Int",
    "rate": "Double",
    "urgent": "Bool",
    "due": "Datetime",
    "tags": "KeywordList",
    "notes": "Text",
}
CUSTOMER = Attribute("customer", str)
AMOUNT = Attribute("amount", int)
RATE = Attribute("rate", float)
URGENT = Attribute("urgent", bool)
DUE = Attribute("due", datetime)
TAGS = Attribute("tags", list[str])
NOTES = Attribute("notes", str, text=True)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("customer = 'ann'", CUSTOMER == "ann"),
        ('customer="it\'s"', CUSTOMER == "it's"),
        ("customer = 'it''s'", CUSTOMER == "it's"),
        ("`customer` != 'ann'", CUSTOMER != "ann"),
        ("customer <> ''", CUSTOMER != ""),
        ("amount >= -5", AMOUNT >= -5),
        ("rate < 1.5e3", RATE < 1500.0),
        ("rate = 2", RATE == 2),
        ("urgent = TRUE", URGENT.compare("=", True)),
        ("due > '2026-01-31T12:00:00Z'", DUE > NOON),
        ("due > '2026-01-31T13:00:00+01:00'", DUE > NOON),
        ("amount BETWEEN 1 AND 3", AMOUNT.between(1, 3)),
        ("amount not between 1 and 3", ~AMOUNT.between(1, 3)),
        ("customer IN ('ann', 'bob')", CUSTOMER.in_(["ann", "bob"])),
        ("tags NOT IN ('a')", ~TAGS.in_(["a"])),
        ("customer IS NULL", CUSTOMER.is_null()),
        ("customer is not null", ~CUSTOMER.is_null()),
        ("customer STARTS_WITH 'a'", CUSTOMER.starts_with("a")),
        ("notes = 'Hello World'", NOTES == "hello world"),
        ("ExecutionStatus = 'TimedOut'", Run.status == "timed_out"),
        ("ExecutionStatus = 'Canceled'", Run.status == "cancelled"),
        ("ExecutionTime > '2026-01-31T12:00:00Z'", Run.started > NOON),
        ("ExecutionDuration > '1h30m'", Run.duration > timedelta(minutes=90)),
        (
            "amount = 1 OR amount = 2 AND NOT customer = 'a'",
            (AMOUNT == 1) | ((AMOUNT == 2) & ~(CUSTOMER == "a")),
        ),
        (
            "(amount = 1 OR amount = 2) AND tags = 'x'",
            ((AMOUNT == 1) | (AMOUNT == 2)) & (TAGS == "x"),
        ),
    ],
)
def test_a_text_means_what_python_means(text: str, expected: Condition) -> None:
    assert parse(text, KINDS).where == expected


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", Order()),
        ("ORDER BY StartTime ASC", Order("StartTime", is_descending=False)),
        ("amount = 1 order by CloseTime", Order("CloseTime", is_descending=True)),
    ],
)
def test_an_order_may_follow(text: str, order: Order) -> None:
    assert parse(text, KINDS).order == order


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("customer = ", 12, "it ends, expected a text"),
        ("custmer = 'a'", 1, "Did you mean 'customer'?"),
        ("Schedule = 'a'", 1, "Did you mean 'ScheduleId'?"),
        ("Customer = 'a'", 1, "no run has ever had an attribute 'Customer'"),
        ("amount = 1 AND amount = 'x'", 25, "amount is 'x': give a whole number"),
        ("amount = 1.5", 10, "amount is 1.5"),
        ("amount = 99999999999999999999", 10, "64 bits"),
        ("amount BETWEEN 1 'x'", 18, "expected AND"),
        ("amount BETWEEN 1 AND 'x'", 22, "amount is 'x'"),
        ("customer IN ('a', 1)", 19, "customer is 1: give a text"),
        ("customer IN ()", 14, "expected a text"),
        ("tags > 'a'", 6, "tags has no order"),
        ("urgent > TRUE", 8, "urgent has no order"),
        ("amount STARTS_WITH 'a'", 20, "amount is no text"),
        ("ExecutionStatus = 'Runing'", 19, "did you mean 'running'?"),
        ("ExecutionStatus = 'Paused'", 19, "Paused = true holds for them"),
        ("due > '2026-13-01'", 7, "give an instant"),
        ("due > '2026-01-01T00:00:00'", 7, "with a time zone"),
        ("customer = 'a", 12, "a text that has no end"),
        ("customer ~ 'a'", 10, "found '~'"),
        ("(customer = 'a'", 16, "expected AND, OR or )"),
        ("customer = 'a')", 15, "expected AND, OR, ORDER BY or the end"),
        ("customer = 'a' LIMIT 5", 16, "found 'LIMIT'"),
        ("customer IS 'a'", 13, "expected NULL"),
        ("AND customer = 'a'", 1, "expected the name of an attribute"),
        ("ORDER BY customer", 10, "StartTime or CloseTime"),
        ("notes = '...'", 9, "no word"),
        ("NOT " * 60 + "amount = 1", 201, "nests more than 50 deep"),
    ],
)
def test_a_fault_is_refused_with_its_place(text: str, position: int, said: str) -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        parse(text, KINDS)

    assert said in str(caught.value)
    assert caught.value.position == position
    assert f"at character {position}," in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("customer = 'ann' AND amount = 'x'", "'x'"),
        ("customer = 'ann' AND amount = 1 AND nobody = 3", "nobody = 3"),
        (
            "customer = 'ann' AND # and much that comes after it",
            "# and much that comes af",
        ),
        ("customer = 'ann' AND", "customer = 'ann' AND"),
    ],
)
def test_what_stands_at_the_fault_is_shown(text: str, near: str) -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        parse(text, KINDS)

    assert f"near {near!r}:" in str(caught.value)


def test_a_query_is_bounded() -> None:
    with pytest.raises(QuerySyntaxError, match="16,384"):
        parse("amount = 1 AND " * 2_000 + "amount = 1", KINDS)
    with pytest.raises(QuerySyntaxError, match="100 comparisons"):
        parse(" OR ".join(["amount = 1"] * 101), KINDS)

"""Versions and their ranges: order, membership, and where a text is wrong."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.api.workflows.versions import Version, VersionRange
from durable.errors import InvalidOptionError

ORDERED = [  # as semver.org lists them
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]
NUMBERS = st.tuples(*[st.integers(0, 30)] * 3)


def test_versions_are_ordered_as_semver_says() -> None:
    for left, right in itertools.combinations(ORDERED, 2):
        assert Version(left) < Version(right)
        assert Version(right) > Version(left)
        assert Version(left) != Version(right)
    assert Version("1.0.0+a") == Version("1.0.0+b")
    assert len({Version("1.0.0+a"), Version("1.0.0")}) == 1


@given(NUMBERS, NUMBERS)
def test_order_of_versions_is_that_of_their_numbers(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    one, other = (Version(".".join(map(str, numbers))) for numbers in (left, right))
    assert (one < other) == (left < right)
    assert (one == other) == (left == right)
    assert (one.text in VersionRange(f">={other.text}")) == (left >= right)
    assert (one.text in VersionRange(f"<{other.text}")) == (left < right)
    assert (one.text in VersionRange(f"!={other.text}")) == (left != right)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2,<2", ["1.2.0", "1.99.0", "2.0.0-rc.1"], ["1.1.9", "2.0.0"]),
        (" > 1 , <= 3.1 ", ["1.0.1", "3.1.0"], ["1.0.0", "3.1.1"]),
        ("1.4.0", ["1.4.0", "1.4.0+build"], ["1.4.1"]),
        ("==2,!=2.0.0", [], ["2.0.0"]),
        ("*", ["0.0.1", "any label", "2"], []),
        (">=0", ["0.0.0"], ["any label", "2"]),
    ],
)
def test_range_takes_what_all_of_its_terms_take(
    text: str, inside: list[str], outside: list[str]
) -> None:
    found = VersionRange(text)
    assert [version for version in inside if version not in found] == []
    assert [version for version in outside if version in found] == []


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "the major number"),
        ("2", 1, "'.' and the minor number"),
        ("2.1", 3, "'.' and the patch number"),
        ("2.x.0", 2, "the minor number"),
        ("v2.1.0", 0, "the major number"),
        ("2.01.0", 3, "'.' and the patch number"),
        ("2.1.0-", 6, "a label of a pre-release"),
        ("2.1.0-rc..1", 8, "the end"),
        ("2.1.0 ", 5, "the end"),
        ("2.1.0.4", 5, "the end"),
    ],
)
def test_malformed_version_is_refused_with_the_position_of_the_fault(
    text: str, position: int, expected: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Version(text, "version of workflow 'order'")
    assert f"at position {position} " in caught.value.message
    assert f"where {expected} must be" in caught.value.message
    assert caught.value.message.startswith("version of workflow 'order' is ")


@pytest.mark.parametrize(
    ("text", "position"),
    [("", 0), (">=", 2), (">=1.2;<2", 5), (">=1.2,", 6), ("<<2", 1), ("1.*", 2)],
)
def test_malformed_range_is_refused_with_the_position_of_the_fault(
    text: str, position: int
) -> None:
    with pytest.raises(InvalidOptionError, match=f"at position {position} "):
        VersionRange(text)


@pytest.mark.parametrize("value", [2, 2.1, None, b"2.1.0"])
def test_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidOptionError, match="give text like"):
        Version(value)
    with pytest.raises(InvalidOptionError, match="give text like"):
        VersionRange(value)

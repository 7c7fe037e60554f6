"""What is printed is printable, and JSON stays the same JSON."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.cli.output import is_colored, to_json, users_code_prints_to_stderr
from durable.telling.escaping import escape, escape_json, escape_lines


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("order-42", "order-42"),
        ("Bücher für Ордер 注文", "Bücher für Ордер 注文"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("evil\u202egpj.exe", r"evil\u202egpj.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_spelt_out(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text(alphabet=st.characters(), max_size=30))
def test_whatever_is_escaped_is_printable_on_one_line(text: str) -> None:
    assert escape(text).isprintable()
    assert all(line.isprintable() for line in escape_lines(text))


def test_lines_are_kept_apart_and_escaped() -> None:
    assert escape_lines("a\n\tb\x1b\n") == ["a", r"    b\x1b", ""]


@given(st.recursive(st.text() | st.integers(), st.lists, max_leaves=5))
def test_escaped_json_means_the_same(value: object) -> None:
    escaped = escape_json(json.dumps(value, ensure_ascii=False))

    assert json.loads(escaped) == value
    assert escaped.isprintable()


def test_json_of_a_text_beyond_the_first_plane_uses_both_surrogates() -> None:
    assert to_json("\U000e0001") == r'"\udb40\udc01"'
    assert to_json({"a": [1]}, indent=2) == '{\n  "a": [\n    1\n  ]\n}'


def test_what_users_code_prints_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    with users_code_prints_to_stderr():
        print("hello")
    print("data")

    assert capsys.readouterr() == ("data\n", "hello\n")


@pytest.mark.parametrize(
    ("environment", "colored"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)],
    ids=str,
)
def test_colors_follow_the_environment(
    environment: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert is_colored(sys.stdout) is colored

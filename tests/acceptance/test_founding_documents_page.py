"""The page of what was asked for is drawn from the tests, and leaves no row out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance import founding_rows
from tests.acceptance.founding_rows import (
    ASKED,
    COMMAND,
    PAGE,
    PLANNED,
    SENTENCES,
    find_shown,
    redrawn,
)

MARKED = """
from tests.acceptance.founding_rows import shows

@shows("timeout", "`timeout=`")
async def test_s2_1_1_attempt_is_cut(): ...
@shows("timeout")
def test_s2_1_1_attempt_is_cut_again(): ...
def test_unmarked(): ...
"""


def test_page_says_what_the_tests_say() -> None:
    page = PAGE.read_text("utf-8")
    assert page == redrawn(page), f"`{COMMAND}` draws it anew"


def test_every_row_is_told_in_one_way() -> None:
    shown = [one.key for one in find_shown()]
    told = Counter([*set(shown), *SENTENCES, *PLANNED])
    assert told == Counter(asked.key for asked in ASKED)


def test_what_is_there_is_said_once_for_each_row_and_fits_into_a_table() -> None:
    texts = Counter(one.key for one in find_shown() if one.there)
    assert set(texts) == {one.key for one in find_shown()}
    assert set(texts.values()) == {1}
    assert not [one for one in find_shown() if "|" in one.there or "\n" in one.there]


def test_names_of_tests_say_which_document_asked() -> None:
    where = {asked.key: asked.where for asked in ASKED}
    for one in find_shown():
        assert one.test.startswith("test_")
        document = one.test.split("_")[1].upper()
        assert document in where[one.key], f"{one.test} shows {where[one.key]}"


def test_links_of_the_page_lead_somewhere() -> None:
    page = PAGE.read_text("utf-8")
    targets = founding_rows.LINK.findall(page)
    assert len(targets) > 4
    assert [t for t in targets if not (PAGE.parent / t).exists()] == []


def test_marks_are_found_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_founding_documents_x.py").write_text(MARKED)
    monkeypatch.setattr(founding_rows, "HERE", tmp_path)
    assert [tuple(one) for one in find_shown()] == [
        ("timeout", "`timeout=`", "test_s2_1_1_attempt_is_cut"),
        ("timeout", "", "test_s2_1_1_attempt_is_cut_again"),
    ]


def test_row_that_nothing_tells_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founding_rows, "HERE", tmp_path)
    with pytest.raises(KeyError, match="workflow function"):
        redrawn("")

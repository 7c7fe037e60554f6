"""Plays every transcript in this folder and compares what it prints.

After a change of behaviour: `DURABLE_REWRITE=1 pytest tests/transcripts` writes down
what is printed now. Read the diff, and commit only what you understand.
"""

import os
from pathlib import Path

import pytest

from tests.transcripts import dialogue

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    if os.environ.get("DURABLE_REWRITE"):
        dialogue.rewrite(path)
    assert dialogue.play(path.read_text()) == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 8


def test_difference_is_found() -> None:
    text = TRANSCRIPTS[0].read_text()
    wrong = text.replace("WorkflowExecutionStarted", "SomethingElse", 1)
    assert dialogue.play(wrong) == text

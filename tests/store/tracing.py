"""What SQLite executes."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def traced(session: Any) -> Generator[list[str]]:
    """Gather the texts of all statements of a session meanwhile."""
    texts: list[str] = []
    session._raw.set_trace_callback(texts.append)
    try:
        yield texts
    finally:
        session._raw.set_trace_callback(None)

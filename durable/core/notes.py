"""What workflow code has for an observer: spans, and what it measures.

It is kept until the workflow task is committed, so that it is told once, however often
the code is replayed or driven again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import msgspec

from durable.observer import Attributes, Headers, Note, Span

CURRENT_SPAN: Final[ContextVar[Span | None]] = ContextVar("durable_span", default=None)
"""The innermost span of the workflow code that is running."""


class Notes(msgspec.Struct, eq=False):
    """What the code of one run has for its observer.

    Attributes:
        headers: those of the run's start.
        make_headers: see `WorkerObserver.span_headers`.
        untold: since the last commit, in order.
    """

    run_id: str
    headers: Headers
    make_headers: Callable[..., Headers]
    untold: list[Note] = []
    span_count: int = 0

    def take(self) -> list[Note]:
        """Everything that is untold; it is kept no more."""
        taken, self.untold = self.untold, []
        return taken

    def open_span(
        self, name: str, attributes: Attributes, *, checkpoint: int, now: int
    ) -> Span:
        """Begin a span below the one that is current; its key counts them."""
        self.span_count += 1
        outer = CURRENT_SPAN.get()
        parent = self.headers if outer is None else outer.headers
        key = f"{self.run_id}/{checkpoint}/{self.span_count}"
        return Span(
            name=name,
            key=key,
            parent=parent,
            headers=self.make_headers(run_id=self.run_id, key=key, parent=parent),
            attributes=attributes,
            started_at=now,
        )

    def headers_now(self) -> Headers | None:
        """What travels with what is begun now; None outside of all spans."""
        span = CURRENT_SPAN.get() if self.span_count else None
        return None if span is None else span.headers

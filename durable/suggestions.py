"""What somebody may have meant who wrote a name that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like the one given; None if nothing is like it."""
    if not isinstance(name, str):
        return None
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def ending_with_closest(name: object, known: Iterable[str]) -> str:
    """End a sentence, with the known name that is most like the one given."""
    close = closest(name, known)
    return "." if close is None else f"; did you mean {close!r}?"

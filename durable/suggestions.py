"""What somebody may have meant who wrote a name that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """End a sentence with the known name that is most like the one given.

    Returns:
        Such as `; did you mean 'order-42'?`; an empty text if nothing is like it.
    """
    if not isinstance(name, str):
        return ""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""

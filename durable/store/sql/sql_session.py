"""What a session is by default: it hears nothing, and its commits leave no trace."""

from __future__ import annotations


class SqlSession:
    """Those members of `Session` that only some databases have a use for."""

    packs_rows: bool = False

    @property
    def is_broken(self) -> bool:
        """See `Session`."""
        return False

    @property
    def fate(self) -> object:
        """See `Session`."""
        return None

    @property
    def news_descriptor(self) -> int | None:
        """See `Session`."""
        return None

    @property
    def has_heard(self) -> bool:
        """See `Session`."""
        return False

    def hear(self) -> None:
        """See `Session`."""

"""The one way past the guards: code says why it may do what cannot be replayed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from durable.core.loop.loop import allowed
from durable.errors import InvalidOptionError


@contextmanager
def allow(why: str, /) -> Generator[None]:
    """Let workflow code do within this block what guards would refuse or warn of.

        with durable.allow("only for a metric"):
            took = time.perf_counter() - began

    What is done there is done again on every replay, and may come out otherwise: no
    command of the run, no branch and no result may depend on it. Tasks that are made
    within the block are allowed the same. Outside of a workflow it does nothing.

    Args:
        why: the reason, for whoever reads the code.

    Raises:
        InvalidOptionError: there is no reason.
    """
    if not isinstance(why, str) or not why.strip():
        raise InvalidOptionError(
            "durable.allow() was given no reason.",
            hint='Say why it does no harm: `with durable.allow("only for a metric"):`.',
        )
    before = allowed.get()
    allowed.set(why)
    try:
        yield
    finally:
        # Not by a token: a run is torn down outside of the context that it ran in.
        if allowed.get() is why:
            allowed.set(before)

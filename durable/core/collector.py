"""Keeps the cyclic collector quiet through a burst of work.

Bursts make thousands of objects that live on. The collector would look at all of them
again and again while they are made, and find nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Generator[None, None, None]:
    """Put collection off until the block ends."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()

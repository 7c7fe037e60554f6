"""Keeps the cyclic collector quiet through a burst of work.

Bursts make thousands of objects that live on. The collector would look at all of them
again and again while they are made, and find nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any


def call_uncollected(call: Callable[..., None], *arguments: Any) -> None:
    """Call something, and put collection off until that has ended."""
    if not gc.isenabled():
        call(*arguments)
        return
    gc.disable()
    try:
        call(*arguments)
    finally:
        gc.enable()

"""For the tests of programs that use `durable`.

- `TestEnvironment`: an engine in memory and in virtual time, with mocks.
- `Driver`: one run in the hands of a test, without any engine.
- `replay`, `replay_at_every_prefix`: does today's code fit recorded histories?
- `dump_history`, `load_history`: histories as files.
- `durable.testing.strategies`: random programs, for hypothesis.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable.testing.clock import VirtualClock
    from durable.testing.driver import Driver
    from durable.testing.environment import StalledError, TestEnvironment
    from durable.testing.histories import dump_history, load_history
    from durable.testing.pending import (
        PendingActivity,
        PendingChild,
        PendingDelivery,
    )
    from durable.testing.replaying import (
        Replayed,
        replay,
        replay_at_every_prefix,
    )

__all__ = [
    "Driver",
    "PendingActivity",
    "PendingChild",
    "PendingDelivery",
    "Replayed",
    "StalledError",
    "TestEnvironment",
    "VirtualClock",
    "dump_history",
    "load_history",
    "replay",
    "replay_at_every_prefix",
]

# Imported at first use, as in `durable`: replaying a history takes no engine. No module
# has the name of something in it, or importing one would hide the other.
_HOMES = {
    "clock": ("VirtualClock",),
    "driver": ("Driver",),
    "environment": ("StalledError", "TestEnvironment"),
    "histories": ("dump_history", "load_history"),
    "pending": ("PendingActivity", "PendingChild", "PendingDelivery"),
    "replaying": ("Replayed", "replay", "replay_at_every_prefix"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'durable.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"durable.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""For the tests of programs that use `durable`.

- `TestEnvironment`: an engine in memory and in virtual time, with mocks.
- `Driver`: one run in the hands of a test, without any engine.
- `replay`, `replay_at_every_prefix`: does today's code fit recorded histories?
- `rebuild_state`: what does a history say of its run?
- `dump_history`, `load_history`: histories as files.
- `durable.testing.strategies`: random programs, for hypothesis.
"""

from __future__ import annotations

from durable.lazy_names import attach

# Replaying a history takes no engine.
__getattr__, __dir__, __all__ = attach(__name__)

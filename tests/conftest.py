"""What every test shares: the hypothesis profiles."""

import os
import signal

import pytest
from hypothesis import settings

# Each run draws new examples; the printed blob replays a failing one. A deadline per
# example would measure the machine and not the code.
settings.register_profile("default", derandomize=False, print_blob=True, deadline=None)
# A fresh clone has no database of earlier failures, and leaves none behind.
settings.register_profile(
    "ci", derandomize=False, print_blob=True, deadline=None, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A job in the background ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports it: the contract suites of the testing kit assert, too.
pytest.register_assert_rewrite("durable.testing")

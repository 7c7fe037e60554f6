"""What every test shares: the hypothesis profiles."""

import os

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

# Before anything imports it: the contract suites of the testing kit assert, too.
pytest.register_assert_rewrite("durable.testing")

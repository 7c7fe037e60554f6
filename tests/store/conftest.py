"""Failing assertions of the contract show their values, as those of tests do."""

import pytest

pytest.register_assert_rewrite("durable.testing")

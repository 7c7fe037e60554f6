"""Durable execution for Python: workflows that survive the death of their process.

    from durable import Engine, activity, workflow

`@workflow` and `@activity` turn plain functions into replayable coroutines; an `Engine`
runs them on a database. See the documentation for a tutorial.
"""

from __future__ import annotations

from durable.lazy_names import attach

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach(__name__)

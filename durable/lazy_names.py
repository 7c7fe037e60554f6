"""Public names that are imported at first use (PEP 562).

Importing a package stays light: the database layer alone takes ten times as long as
everything a decorator needs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def attach(
    package: str,
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """A package's `__getattr__`, `__dir__` and `__all__`, by what its stub imports."""
    module = sys.modules[package]
    spec: Any = module.__spec__
    path = f"{module.__path__[0]}/__init__.pyi"
    text: str = spec.loader.get_data(path).decode()  # from a zip file, too
    imports = (part.split() for part in text.replace("(", "").split("\nfrom ")[1:])
    home_of = {words[2]: words[0] for words in imports}
    names = sorted(home_of)

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value: object = getattr(importlib.import_module(home_of[name]), name)
        except (ImportError, AttributeError) as error:
            from durable.namesakes import explain

            explanation = explain(error)
            if explanation is None:
                raise
            raise ImportError(
                explanation, name=package, path=module.__file__
            ) from error
        setattr(module, name, value)
        return value

    return get, lambda: names, names

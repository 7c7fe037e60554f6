"""Finds other packages that are installed under this library's import name.

Python imports whichever stands first on `sys.path`; in one folder the files of both are
mixed, and the one that was installed last has replaced what the other had there. This
module uses nothing of the library, so that it works in such a mixture.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

OURS: Final = "durable-asyncio"
_FOLDER: Final = Path(__file__).resolve().parent
_NAMED_MAX: Final = 3


@functools.cache
def _packages_on(path: tuple[str, ...]) -> list[str]:
    """What else there is under our name; that every package is read takes a while."""
    del path  # what the answer depends on, as long as nothing is installed meanwhile
    # Here, as every command imports this module and next to none comes so far.
    from importlib.metadata import packages_distributions

    return packages_distributions().get(_FOLDER.name, [])


def find_namesakes() -> Iterator[str]:
    """Say of each such package what it is, what it does here, and what to do."""
    from importlib.metadata import distribution

    names = _packages_on(tuple(sys.path))
    for name in sorted(set(names)):
        if name.lower().replace("_", "-") == OURS:
            continue
        found = distribution(name)
        folder = Path(str(found.locate_file(_FOLDER.name))).resolve()
        if folder == _FOLDER:
            files = [str(f) for f in found.files or () if f.parts[0] == _FOLDER.name]
            shown = [*files[:_NAMED_MAX], *(["..."] if len(files) > _NAMED_MAX else [])]
            what = "has put modules of its own among this library's"
            what += f" ({', '.join(shown)})" if shown else ""
        else:
            what = (
                f"has a package {_FOLDER.name!r}, too, at {folder}: programs import the"
                " one that stands first on sys.path"
            )
        yield (
            f"{name} {found.version} {what}; uninstall it, then install {OURS} again:"
            f" pip uninstall {name}; pip install --force-reinstall --no-deps {OURS}"
        )


def explain(error: BaseException) -> str | None:
    """Say that a namesake may be why importing a part of this library failed."""
    if not isinstance(error, ImportError | AttributeError):
        return None
    found = next(find_namesakes(), None)
    if found is None:
        return None
    return f"{OURS} could not be imported ({error}). {found}"

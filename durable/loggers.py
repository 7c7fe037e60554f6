"""Keeps this library's loggers alive through a logging set-up that never names them.

`logging.config.dictConfig` and `fileConfig` disable, unless told otherwise, every
logger that exists by then, so that nothing of this library would be heard because it
was imported first. That is no decision about it: whoever wants less sets a level, a
filter or a handler on `durable`, and all of those are kept.
"""

from __future__ import annotations

import logging
from typing import Final

_ROOT: Final = "durable"
# Nobody names this one, so if it is disabled, then all were that were not named.
_UNNAMED: Final = logging.getLogger(f"{_ROOT}.unnamed")


def revive_loggers() -> None:
    """Enable what a set-up has disabled without naming it."""
    if not _UNNAMED.disabled:
        return
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        is_ours = name == _ROOT or name.startswith(f"{_ROOT}.")
        if is_ours and isinstance(logger, logging.Logger):
            logger.disabled = False

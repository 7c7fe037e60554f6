"""Calls plain functions, in threads and in processes, and tells how they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from durable.api.activities.interruption import Interruption
from durable.api.signature import CallSignature
from durable.core.history.payload import Payload
from durable.errors import ApplicationError


def call_plain(
    interruption: Interruption | None,
    function: Callable[..., Any],
    args: list[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a function in this thread, interrupted as that says."""
    try:
        if interruption is None:
            return function(*args, **kwargs)
        return interruption.run(partial(function, *args, **kwargs))
    except StopIteration as error:
        # A future cannot carry StopIteration; neither can a coroutine (PEP 479).
        raise RuntimeError("activity raised StopIteration") from error
    except (SystemExit, GeneratorExit, KeyboardInterrupt) as error:
        # Ctrl-C reaches the main thread only, so this is the function's own doing.
        raise exit_error(error) from None


def exit_error(error: BaseException) -> ApplicationError:
    """What sys.exit() and its like in an activity mean: that attempt has failed.

    The exception itself would end the process, or whatever workflow awaits it.
    """
    name = type(error).__name__
    failure: ApplicationError
    if isinstance(error, SystemExit):
        code = error.code
        kept = code if code is None or isinstance(code, int | str) else str(code)
        failure = ApplicationError(f"sys.exit({code!r})", kept, type=name)
    else:
        failure = ApplicationError(str(error) or f"raised {name}", type=name)
    return failure.with_traceback(error.__traceback__)


def keep_result(signature: CallSignature, value: object) -> Payload | None:
    """What a function returned that cannot be recorded, as far as it can be kept."""
    try:
        return signature.keep_result(value)
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return None

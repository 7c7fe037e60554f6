"""The interceptors of an engine, in order, by the method that they override."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

from durable import limits
from durable.api.interceptors.interceptor import Interceptor
from durable.errors import InvalidCallError, InvalidOptionError

In = TypeVar("In")
T = TypeVar("T")
_METHODS: Final = tuple(name for name in vars(Interceptor) if not name.startswith("_"))
_OF_WORKFLOWS: Final = (
    *("execute_workflow", "handle_signal", "handle_query", "handle_update"),
    *("start_activity", "start_child_workflow", "signal_external_workflow"),
    "continue_as_new",
)


class Interceptors:
    """Interceptors in order: the first is the outermost.

    Attributes:
        of_workflows: whether any has a say in workflow code.

    Raises:
        InvalidOptionError: one is none.
    """

    def __init__(self, given: Iterable[Interceptor] = ()) -> None:
        self._methods: dict[str, list[Callable[..., Any]]] = {}
        for one in _checked(given):
            for name in _METHODS:
                if getattr(type(one), name) is not getattr(Interceptor, name):
                    self._methods.setdefault(name, []).append(getattr(one, name))
        self.of_workflows = any(name in self._methods for name in _OF_WORKFLOWS)

    def have(self, method: str) -> bool:
        """Whether any overrides this one."""
        return method in self._methods

    def around(self, method: str, end: Callable[[Any], T]) -> Callable[[Any], T]:
        """What passes all of them, and comes to this end."""
        for surrounding in reversed(self._methods.get(method, ())):
            end = _link(surrounding, end)
        return end


def _checked(given: object) -> list[Interceptor]:
    if isinstance(given, Iterable):
        found = [*cast("Iterable[Interceptor]", given)]
        wrong = next((one for one in found if not _is_interceptor(one)), None)
        if wrong is None:
            return found
        given = wrong
    raise InvalidOptionError(
        f"interceptors has {given!r}: give a list of objects whose classes derive from"
        " durable.Interceptor."
    )


def _is_interceptor(one: object) -> bool:
    return isinstance(one, Interceptor)


def _link(
    surrounding: Callable[..., Any], following: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    return lambda input: surrounding(input, following)


def checked_headers(headers: object, where: str) -> dict[str, str]:
    """See that headers can be recorded.

    Raises:
        InvalidCallError: they are no texts, or too many.
    """
    problem = f"{headers!r}, which is no dict"
    if isinstance(headers, dict):
        given = cast("dict[object, object]", headers)
        wrong = [one for pair in given.items() for one in pair if not _is_text(one)]
        problem = f"{wrong[:1]}, which is no text"
        if not wrong:
            texts = cast("dict[str, str]", headers)
            size = sum(len(name.encode() + texts[name].encode()) for name in texts)
            if size <= limits.HEADERS_BYTES_MAX:
                return texts
            problem = f"{size:,} bytes, more than {limits.HEADERS_BYTES_MAX:,}"
    raise InvalidCallError(
        f"The headers {where} have {problem}.",
        hint="An interceptor set them: give texts by name.",
    )


def _is_text(value: object) -> bool:
    """Whether every database keeps it."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def settle(interceptors: Interceptors, method: str, given: In) -> In:
    """Return what is to be done in the end, where interceptors may not wait.

    Raises:
        InvalidCallError: one waits, or does not call `next`.
    """
    if not interceptors.have(method):
        return given
    ends: list[In] = []

    async def take(found: In) -> None:
        ends.append(found)

    call: Any = interceptors.around(method, take)(given)
    problem = "waits"
    try:
        call.send(None)
        call.close()
    except StopIteration:
        if ends:
            return ends[-1]
        problem = "does not call next(input)"
    raise InvalidCallError(
        f"An interceptor {problem} in {method}(), which writes to a transaction of its"
        " caller.",
        hint="Let it set headers there, or raise what refuses the call.",
    )


NO_INTERCEPTORS: Final = Interceptors()

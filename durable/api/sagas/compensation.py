"""What undoes an activity, and with which arguments it is called."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from durable.api.signature import CallSignature, shown
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget
from durable.errors import DefinitionError
from durable.options import ActivityCancellationType

_ABANDON: Final = ActivityCancellationType.ABANDON.value
_WAIT: Final = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED.value


class Undo(NamedTuple):
    """One finished step: how errors call what undoes it, and the call itself."""

    what: str
    call: Callable[[], Awaitable[object]]


class UndoingActivity(Protocol):
    """What a compensation is, as far as this module knows."""

    name: str
    call_signature: CallSignature

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[object]:
        """Schedule it."""
        ...


class Compensation:
    """How one activity is undone by another.

    Args:
        done: the signature of the activity to be undone.
        undo: the activity that undoes it.
        target: the activity to be undone, as workflow code calls it.

    Attributes:
        target: the same, but its outcome is waited for when it is asked to stop.
        is_outcome_wanted: its own options say so: the outcome replaces a cancellation.

    Raises:
        DefinitionError: the two do not fit.
    """

    __slots__ = ("_done", "_result_name", "_undo", "is_outcome_wanted", "target")

    def __init__(
        self, done: CallSignature, undo: UndoingActivity, target: ActivityTarget
    ) -> None:
        self._done = done
        self._undo = undo
        self._result_name = _find_result_name(done, undo.call_signature)
        self.is_outcome_wanted = target.settings.cancellation_type == _WAIT
        self.target = _heard_out(target)

    def of(self, input: Payloads, result: Payload) -> Undo:
        """What undoes the activity that got this input and gave this result.

        Both are decoded when it comes to that, so that nothing which workflow code did
        to the values meanwhile can show.
        """
        return Undo(f"activity {self._undo.name!r}", lambda: self._call(input, result))

    def _call(self, input: Payloads, result: Payload) -> Awaitable[object]:
        done, wanted = self._done, self._undo.call_signature.signature
        args, kwargs = done.unbind(done.decode(input))
        bound = done.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {n: v for n, v in bound.arguments.items() if n in wanted.parameters}
        if self._result_name is not None:
            given[self._result_name] = done.decode_result(result)
        # Not by `bind`, which takes no names: they are those of the signature.
        call = inspect.BoundArguments(
            wanted, {n: given[n] for n in wanted.parameters if n in given}
        )
        return self._undo(*call.args, **call.kwargs)


def _find_result_name(done: CallSignature, undo: CallSignature) -> str | None:
    """The parameter of a compensation that takes the result; None if it wants none.

    Raises:
        DefinitionError: it wants what the activity has not got.
    """
    known = done.signature.parameters
    others = [
        parameter.name
        for parameter in undo.signature.parameters.values()
        if parameter.name not in known
        and parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if len(others) > 1:
        raise _unfit(done, undo, f"it also wants {_listed(others)}")
    hints, result = _hints_of(done), _result_hint_of(done)
    if others and result in (None, NoneType):
        raise _unfit(
            done, undo, f"it also wants {_listed(others)}, but there is no result"
        )
    if others:
        hints[others[0]] = result
    for name, wanted in _hints_of(undo).items():
        if name in hints and _never_fits(hints[name], wanted):
            raise _unfit(
                done,
                undo,
                f"its {name!r} is {_named(wanted)}, and gets {_named(hints[name])}",
            )
    return others[0] if others else None


def _hints_of(signature: CallSignature) -> dict[str, Any]:
    try:
        hints = signature.hints()
    except DefinitionError:  # they name what comes later; whoever calls it will see
        return {}
    names = [
        p.name
        for p in signature.signature.parameters.values()
        if p.kind is not p.VAR_POSITIONAL
    ]
    return dict(zip(names, hints, strict=True))


def _result_hint_of(signature: CallSignature) -> Any:
    try:
        return signature.result_hint()
    except DefinitionError:
        return Any


def _never_fits(given: object, wanted: object) -> bool:
    """Whether no value of one class is one of another; unsure is no."""
    given, wanted = (NoneType if hint is None else hint for hint in (given, wanted))
    if given is Any or wanted is Any:  # which is a class, too
        return False
    if not isinstance(given, type) or not isinstance(wanted, type):
        return False
    if given is int and wanted in (float, complex):
        return False
    try:
        return not issubclass(given, wanted)
    except TypeError:  # a protocol or a generic
        return False


def _unfit(done: CallSignature, undo: CallSignature, why: str) -> DefinitionError:
    return DefinitionError(
        f"{undo.name}{shown(undo.signature)} cannot undo"
        f" {done.name}{shown(done.signature)}: {why}.",
        hint="A compensation takes the activity's result, and any of its parameters by"
        " their names.",
    )


def _listed(names: list[str]) -> str:
    return " and ".join(map(repr, names))


def _named(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) else repr(hint)


def _heard_out(target: ActivityTarget) -> ActivityTarget:
    if target.settings.cancellation_type == _ABANDON:
        return target
    waiting = msgspec.structs.replace(target.settings, cancellation_type=_WAIT)
    return ActivityTarget(
        target.activity_type,
        waiting,
        target.summary,
        target.differing_input,
        is_outcome_kept=True,
    )

"""Arguments to positions and back, by a function's signature.

A history keeps arguments as a list. Keywords are bound to their positions before they
are recorded, trailing defaults are left out, so that a parameter with a default may be
added later without touching old runs.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from durable.api.resources import Resource
from durable.converter import json
from durable.core.history.payload import JSON_PLAIN, Payload, Payloads
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    PayloadError,
    UndecodableError,
)

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


class CallSignature:
    """How a workflow, activity or handler is called, and how its values are typed.

    Args:
        function: the function.
        name: how errors name it.
        skip: first parameters that are no part of a call, such as ("self",).
        takes_resources: whether an engine may fill in some of its parameters.

    Attributes:
        resources: the keys of those, by parameter; they are no part of a call.

    Raises:
        DefinitionError: the signature cannot be recorded as a list of values.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        skip: tuple[str, ...] = (),
        takes_resources: bool = False,
    ) -> None:
        self.function = function
        self.name = name
        signature = _signature_of(function, name, skip)
        self.resources: dict[str, object] = {
            p.name: p.default.key
            for p in signature.parameters.values()
            if isinstance(p.default, Resource)
        }
        if self.resources:
            signature = self._without_resources(signature, takes_resources)
        self.signature = signature
        parameters = list(self.signature.parameters.values())
        self._refuse_unrecordable(parameters)
        self._names = tuple(
            p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL
        )
        self._positional = sum(p.kind in _POSITIONAL for p in parameters)
        self._keyword_only = self._names[self._positional :]
        self._has_rest = any(
            p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters
        )
        self._required = sum(
            p.default is p.empty and p.kind in _POSITIONAL for p in parameters
        )
        self._takes_only_positions = not self._keyword_only
        is_plain = self._takes_only_positions and not self._has_rest
        # How many arguments need no look at them: all there may be; -1 for no number.
        self._exact = self._positional if is_plain else -1
        self._result_label = f"the result of {name!r}"
        self._result_decode: Callable[[msgspec.Raw], Any] | None = None
        self._hints: tuple[Any, ...] | None = None
        self._needs_plans: bool | None = None
        self._rest_hint: Any = Any
        self._is_checked = False
        self._result_hint: Any = Any
        self._labels: tuple[str, ...] = ()
        self._least = sum(
            p.default is p.empty and p.kind is not inspect.Parameter.VAR_POSITIONAL
            for p in parameters
        )

    def _without_resources(
        self, signature: inspect.Signature, takes_resources: bool
    ) -> inspect.Signature:
        """The signature of a call, for which no resource may stand in between."""
        if not takes_resources:
            raise DefinitionError(
                f"{self.name!r} takes {' and '.join(map(repr, self.resources))} as a"
                " resource, but only activities can.",
                hint="Take it as a parameter of an activity, and call that.",
            )
        kept: list[inspect.Parameter] = []
        behind = ""
        for parameter in signature.parameters.values():
            if parameter.name not in self.resources:
                if behind and parameter.kind is not parameter.KEYWORD_ONLY:
                    raise DefinitionError(
                        f"{self.name!r} takes {parameter.name!r} behind the resource"
                        f" {behind!r}.",
                        hint="Put resources last, behind a `*` at best.",
                    )
                kept.append(parameter)
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                raise DefinitionError(
                    f"{self.name!r} takes the resource {parameter.name!r} by position"
                    " only, but resources are given by name.",
                    hint="Put it behind the `/`.",
                )
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                behind = parameter.name
        return signature.replace(parameters=kept)

    def _refuse_unrecordable(self, parameters: list[inspect.Parameter]) -> None:
        kinds = {p.kind: p for p in parameters}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            raise DefinitionError(
                f"{self.name!r} takes **{kinds[inspect.Parameter.VAR_KEYWORD].name},"
                " which has no fixed positions to record.",
                hint="Take a dict parameter instead.",
            )
        if (
            inspect.Parameter.VAR_POSITIONAL in kinds
            and inspect.Parameter.KEYWORD_ONLY in kinds
        ):
            raise DefinitionError(
                f"{self.name!r} takes both *args and keyword-only parameters, so their"
                " positions could not be told apart in a history.",
                hint="Take a list parameter instead of *args.",
            )

    @property
    def takes_anything(self) -> bool:
        """Whether any number of arguments will do."""
        return self._has_rest and self._least == 0

    # --- types ------------------------------------------------------------------------

    def hints(self) -> tuple[Any, ...]:
        """The annotation of each position; `Any` where there is none."""
        if self._hints is None:
            self._resolve()
        assert self._hints is not None  # noqa: S101 - set by _resolve
        return self._hints

    def result_hint(self) -> Any:
        """The annotation of the result; `Any` if there is none."""
        if self._hints is None:
            self._resolve()
        return self._result_hint

    def _resolve(self) -> None:
        """Read the annotations at first use: they may name what comes later."""
        try:
            found = typing.get_type_hints(annotated(self.function))
        except (NameError, TypeError, AttributeError) as error:
            raise DefinitionError(
                f"The annotations of {self.name!r} cannot be resolved:"
                f" {self._unresolved()}{error}.",
                hint="Import the names at run time, not only under TYPE_CHECKING.",
            ) from None
        self._labels = tuple(
            f"argument {parameter!r} of {self.name!r}" for parameter in self._names
        )
        self._result_hint = found.get("return", Any)
        self._hints = tuple(found.get(parameter, Any) for parameter in self._names)
        self._rest_hint = next(
            (
                found.get(p.name, Any)
                for p in self.signature.parameters.values()
                if p.kind is inspect.Parameter.VAR_POSITIONAL
            ),
            Any,
        )

    def _unresolved(self) -> str:
        """Which annotation is meant by the error, as far as that can be told."""
        function = annotated(self.function)
        for name, annotation in getattr(function, "__annotations__", {}).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                typing.get_type_hints(alone, getattr(function, "__globals__", {}))
            except (NameError, TypeError, AttributeError):
                return f"{'the result' if name == 'return' else repr(name)}: "
        return ""

    def hint_at(self, index: int) -> Any:
        """The annotation of a position, `*args` included."""
        hints = self.hints()
        return hints[index] if index < len(hints) else self._rest_hint

    def label_at(self, index: int) -> str:
        """How errors name a position."""
        if index < len(self._labels):
            return self._labels[index]
        return f"argument {index + 1} of {self.name!r}"

    def name_at(self, index: int) -> str | None:
        """The name of a position; None within `*args`."""
        return self._names[index] if index < len(self._names) else None

    def default_at(self, index: int) -> Payload | None:
        """What a call means that leaves a position out; None if it has no default.

        Raises:
            PayloadError: the default cannot be recorded.
        """
        name = self.name_at(index)
        default: Any = name and self.signature.parameters[name].default
        if name is None or default is inspect.Parameter.empty:
            return None
        return json.encode(default, self.hint_at(index), self.label_at(index))

    # --- binding ----------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Put arguments into positions, without trailing defaults.

        Raises:
            InvalidCallError: they do not fit the signature.
        """
        if len(args) == self._exact and not kwargs:  # most calls
            return args
        if (
            not kwargs
            and self._takes_only_positions
            and self._required <= len(args)
            and (self._has_rest or len(args) <= self._positional)
        ):
            return args
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            given = [name for name in kwargs if name in self.resources]
            raise InvalidCallError(
                f"{self.name}{shown(self.signature)} was called wrongly: {error}.",
                hint=f"{given[0]!r} is a resource: the engine gives it."
                if given
                else None,
            ) from None
        values: list[Any] = []
        pending: list[Any] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                values += [*pending, *bound.arguments.get(parameter.name, ())]
                pending = []
            elif parameter.name in bound.arguments:
                values += [*pending, bound.arguments[parameter.name]]
                pending = []
            else:  # a default: kept only if a later position follows
                pending.append(parameter.default)
        return tuple(values)

    def unbind(self, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Turn positions into the arguments of a call."""
        if self._takes_only_positions:
            return values, {}
        positional = values[: self._positional]
        rest = values[self._positional :]
        return positional, dict(zip(self._keyword_only, rest, strict=False))

    # --- payloads ---------------------------------------------------------------------

    def encode(self, values: tuple[Any, ...]) -> Payloads:
        """Turn bound values into payloads.

        Raises:
            PayloadError: a value cannot be recorded as it is.
        """
        hints = self._hints or self.hints()
        if len(values) == 1 and hints:  # most calls
            return (json.encode(values[0], hints[0], self._labels[0]),)
        return self.encode_with_copies(values)[0]

    def encode_with_copies(self, values: tuple[Any, ...]) -> tuple[Payloads, list[Any]]:
        """Turn bound values into payloads, and give what decoding them yields.

        Raises: as `encode`.
        """
        if not values:
            return (), []
        hints = self._hints or self.hints()
        if len(values) == 1 and hints:  # most calls
            payload, copy = json.encode_with_copy(values[0], hints[0], self._labels[0])
            return (payload,), [copy]
        payloads: list[Payload] = []
        copies: list[Any] = []
        for value, hint, label in self._positions(len(values), values):
            payload, copy = json.encode_with_copy(value, hint, label)
            payloads.append(payload)
            copies.append(copy)
        return tuple(payloads), copies

    def encode_again(self, values: tuple[Any, ...]) -> Payloads:
        """Turn bound values into payloads as `encode`, without its checks.

        For replay: what was recorded has passed them.

        Raises:
            PayloadError: a value cannot be encoded at all.
        """
        if self._needs_plans is None:
            hints = (*self.hints(), self._rest_hint)
            self._needs_plans = any(map(json.needs_plan, hints))
        fast = None if self._needs_plans else json.encode_all_again(values)
        if fast is not None:
            return fast
        return tuple(
            [
                json.encode_again(value, hint, label)
                for value, hint, label in self._positions(len(values), values)
            ]
        )

    def _positions(
        self, count: int, items: Iterable[Any]
    ) -> Iterable[tuple[Any, Any, str]]:
        """Each item with the annotation and the label of its position."""
        hints = self._hints or self.hints()
        if count <= len(hints):
            return zip(items, hints, self._labels, strict=False)
        indexes = range(count)
        return zip(
            items, map(self.hint_at, indexes), map(self.label_at, indexes), strict=True
        )

    def decode(self, payloads: Payloads) -> list[Any]:
        """Turn recorded payloads into values.

        Raises:
            UndecodableError: their number or a value does not fit today's signature.
        """
        count = len(payloads)
        if count < self._least or (count > len(self._names) and not self._has_rest):
            least, most = self._least, len(self._names)
            raise UndecodableError(
                f"{count} arguments were recorded for"
                f" {self.name}{shown(self.signature)},"
                f" which takes {least if least == most else f'{least} to {most}'}.",
                hint="Give new parameters a default, and keep old ones.",
            )
        hints = self._hints or self.hints()
        if count == 1 and hints:  # most calls
            return [json.decode(payloads[0], hints[0], self._labels[0])]
        return [
            json.decode(payload, hint, label)
            for payload, hint, label in self._positions(count, payloads)
        ]

    def encode_result(self, value: Any) -> Payload:
        """Turn a result into a payload.

        Raises:
            PayloadError: it cannot be recorded as it is.
        """
        try:
            return json.encode(value, self.result_hint(), self._result_label)
        except PayloadError as error:
            raise type(error)(
                f"{error.message} It is defined at {self.defined_at()}.",
                hint=error.hint,
            ) from None

    def defined_at(self) -> str:
        """File and line of the function, as errors name them."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        if code is None:
            return "an unknown line"
        return f"{code.co_filename}:{code.co_firstlineno}"

    def keep_result(self, value: Any) -> Payload | None:
        """Encode a result that `encode_result` refuses; None if it cannot be kept."""
        try:
            hint = self.result_hint()
        except DefinitionError:
            hint = Any
        return json.keep(value, hint)

    def recover_result(self, kept: Payload) -> Payload:
        """Turn what `keep_result` gave into the payload of today's annotation.

        Raises:
            UndecodableError, PayloadError, DefinitionError: it cannot be read so.
        """
        return json.recover(kept, self.result_hint(), self._result_label)

    def check_annotations(self, what: str = "", *, has_result: bool = True) -> None:
        """See that every annotation means something, and that values can be read by it.

        Args:
            what: how errors name what it belongs to, where its name does not say it.
            has_result: whether the result is recorded.

        Raises:
            DefinitionError: one does not; it is named, with file and line.
        """
        if self._is_checked:
            return
        label = ""
        try:
            hints = (*self.hints(), self._rest_hint)
            for index, hint in enumerate(hints):
                label = f"{self.label_at(index)}: "
                json.check_annotation(hint)
            if has_result:
                label = f"{self._result_label}: "
                json.check_annotation(self._result_hint)
        except DefinitionError as error:
            text = f"{what}{label}"
            raise DefinitionError(
                f"{text[:1].upper()}{text[1:]}{error.message} It is defined at"
                f" {self.defined_at()}.",
                hint=error.hint,
            ) from None
        self._is_checked = True

    def decode_result(self, payload: Payload) -> Any:
        """Turn a recorded result into a value.

        Raises:
            UndecodableError: it does not fit today's annotation.
        """
        decode = self._result_decode
        if decode is None:
            decode = self._result_decode = json.decoder_of(self.result_hint())
        if payload.encoding == JSON_PLAIN:
            try:
                return decode(payload.json)
            except Exception:  # noqa: BLE001, S110 - said properly below
                pass
        return json.decode(payload, self.result_hint(), self._result_label)

    def same_input(self, recorded: Payloads, found: Payloads) -> bool:
        """Whether two lists of arguments hold the same values, read as of today."""
        return self.differing_input(recorded, found) is None

    def differing_input(self, recorded: Payloads, found: Payloads) -> str | None:
        """Name what differs, by position and name and never by value; None if nothing.

        Both are read as of today.
        """
        if recorded == found:
            return None
        if len(recorded) != len(found):
            return "the number of arguments"
        hints = self.hints()
        differing: list[str] = []
        for index, (left, right) in enumerate(zip(recorded, found, strict=True)):
            hint = hints[index : index + 1]
            if not json.same_payloads((left,), (right,), hint, self.label_at(index)):
                name = self.name_at(index)
                differing.append(f"{index + 1}" + (f" ({name!r})" if name else ""))
        if not differing:
            return None
        return f"argument{'s'[: len(differing) - 1]} {' and '.join(differing)}"


def _signature_of(
    function: Callable[..., Any], name: str, skip: tuple[str, ...]
) -> inspect.Signature:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise DefinitionError(
            f"What {name!r} takes cannot be found out: {error}.",
            hint="Wrap it in a def that names its parameters.",
        ) from None
    if not skip:
        return signature
    parameters = list(signature.parameters.values())
    skipped = parameters[: len(skip)]
    if len(skipped) < len(skip) or not all(p.kind in _POSITIONAL for p in skipped):
        raise DefinitionError(
            f"{name!r} does not take {' and '.join(skip)} before its own arguments."
        )
    return signature.replace(parameters=parameters[len(skip) :])


def gives_coroutine(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; wrappers and objects are looked into."""
    try:
        inner: Any = inspect.unwrap(function)
    except ValueError:  # a circle
        inner = function
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(inner)
        or (
            not inspect.isroutine(function)
            and inspect.iscoroutinefunction(type(function).__call__)
        )
    )


class _Default:
    def __repr__(self) -> str:
        return "..."


_DEFAULT: Final = _Default()


def shown(signature: inspect.Signature) -> str:
    """A signature as errors show it: defaults are values, so they are not spelt."""
    return str(
        signature.replace(
            parameters=[
                p if p.default is p.empty else p.replace(default=_DEFAULT)
                for p in signature.parameters.values()
            ]
        )
    )


def annotated(function: Any) -> Any:
    """What carries the annotations of a callable."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return type(function).__call__


def same_parameters(left: Callable[..., Any], right: Callable[..., Any]) -> bool:
    """Whether two functions take the same parameters, annotations included.

    Annotations are compared as written, then by what they mean if that is known yet.
    """
    found = [list(inspect.signature(f).parameters.values()) for f in (left, right)]
    if found[0] == found[1]:
        return True
    bare = [[p.replace(annotation=p.empty) for p in side] for side in found]
    if bare[0] != bare[1]:
        return False
    try:
        hints = [typing.get_type_hints(annotated(f)) for f in (left, right)]
    except (NameError, TypeError, AttributeError):
        return False
    return all(
        hints[0].get(parameter.name, Any) == hints[1].get(parameter.name, Any)
        for parameter in found[0]
    )

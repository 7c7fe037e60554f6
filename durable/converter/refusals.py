"""What may be said of a value that cannot be decoded: types and places, never values.

The texts of decoders quote what they refuse, and the texts of a type's own code may say
anything. Only those parts are passed on that are made of annotations alone.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

_OF_ANNOTATIONS: Final = re.compile(
    r"Expected `[^`]*`"
    r"(?: of length (?:[<>]=? )?\d+| (?:[<>]=?|that's a multiple of) [-+.\de]+"
    r"| matching regex '[^`]*')?"
    r"(?:, got (?:`[a-z |]+`|\d+))?"
    r"|Object missing required field `[^`]*`"
    r"|Invalid (?:RFC3339 encoded [a-z]+|UUID|decimal string|base64 encoded string"
    r"|ISO8601 duration)"
    r"|JSON is malformed: [a-z ',-]+ \(byte \d+\)"
    r"|Input data was truncated"
)
# What follows these quotes the value.
_QUOTING: Final = re.compile(
    r"Invalid enum value|Invalid value|Object contains unknown"
)
_PLACE: Final = re.compile(r" - at (`key` in )?(?:`value` in )?`\$([\w.\[\]]*)`$")
_ENCODING: Final = re.compile(r"Encoding objects of type [\w.]+ is unsupported")


class MisfitError(ValueError):
    """A part of a value does not fit; the text says why, and nothing of the value.

    Attributes:
        place: where in the value it is, such as `.items[2].price`.
        reason: why it does not fit.
        advice: what to do, if that is known better than by whoever catches it.
    """

    def __init__(self, reason: str, place: str = "", advice: str | None = None) -> None:
        """See the class."""
        super().__init__(reason)
        self.reason = reason
        self.place = place
        self.advice = advice


def at(place: str, read: Callable[[Any], Any], data: Any) -> Any:
    """Read a part of a value.

    Raises:
        MisfitError: it does not fit; its place is from the whole's point of view.
    """
    try:
        return read(data)
    except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
        misfit = misfit_of(error)
        raise MisfitError(misfit.reason, place + misfit.place, misfit.advice) from None


def misfit_of(error: BaseException) -> MisfitError:
    """Why and where a value was refused, without the value."""
    if isinstance(error, MisfitError):
        return error
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a type's own code may raise anything
        text = ""
    found = _PLACE.search(text)
    place = (found[2] + ("[a key]" if found[1] else "")) if found else ""
    own = error.__cause__
    if isinstance(own, MisfitError):
        return MisfitError(own.reason, place + own.place, own.advice)
    return MisfitError(_reason(error, text[: found.start()] if found else text), place)


def _reason(error: BaseException, text: str) -> str:
    own = error.__cause__
    if isinstance(error, msgspec.MsgspecError) and own is None:
        if _OF_ANNOTATIONS.fullmatch(text) or _ENCODING.fullmatch(text):
            return text
        quoting = _QUOTING.match(text)
        if quoting:
            what = "field" if quoting[0].endswith("unknown") else ""
            return f"{quoting[0]} {what}".rstrip()
    if isinstance(error, TypeError) and _ENCODING.fullmatch(text):
        return text
    cause = error if own is None else own
    if type(cause) is NotImplementedError:
        return "nothing can be read as that type"
    return f"{type(cause).__name__} was raised{_of_pydantic(cause)}"


def _details_of_pydantic(error: Any) -> list[Any]:
    if not type(error).__module__.startswith("pydantic"):
        return []
    try:
        found: list[Any] = error.errors(
            include_url=False, include_context=False, include_input=False
        )
    except Exception:  # noqa: BLE001 - another class, or another pydantic
        return []
    return found


def _of_pydantic(error: Any) -> str:
    """Which checks of a pydantic model failed."""
    kinds = sorted({str(item["type"]) for item in _details_of_pydantic(error)})
    return f" ({', '.join(kinds)})" if kinds and all(map(_is_kind, kinds)) else ""


def _is_kind(kind: str) -> bool:
    # A model's own code may name its errors as it likes.
    return re.fullmatch(r"[a-z_]{1,60}", kind) is not None


def misfit_of_pydantic(error: Any, model: Any) -> MisfitError | None:
    """What a model has refused first, with its place as far as that is made of fields.

    Keys of dicts are values: a place ends before the first name that is no field.
    """
    found = _details_of_pydantic(error)
    if not found:
        return None
    names: set[str] = set()
    _gather_fields(model, names, set())
    place = ""
    for step in found[0]["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in names:
            place += f".{step}"
        else:
            break
    return MisfitError(f"{type(error).__name__} was raised{_of_pydantic(error)}", place)


def _gather_fields(hint: Any, names: set[str], seen: set[Any]) -> None:
    """The names of the fields of a model, and of the models that it holds."""
    fields: dict[str, Any] = getattr(hint, "__pydantic_fields__", {})
    if isinstance(hint, type) and fields and hint not in seen:
        seen.add(hint)
        for name, field in fields.items():
            names.update({name, str(getattr(field, "alias", None) or name)})
            _gather_fields(field.annotation, names, seen)
    for part in typing.get_args(hint):
        _gather_fields(part, names, seen)


# --- what to do -----------------------------------------------------------------------

HINT_OF_DATA: Final = (
    "Use dataclasses, msgspec Structs, pydantic models or plain types;"
    " docs/reference/types.md has all that may cross. An activity takes a pool or a"
    " client by resource()."
)
HINT_OF_EXACT_TYPE: Final = "Annotate it with its exact type, or pass plain data."
_OF_FUNCTIONS: Final = "Pass a name, and look the function up where it is used."
_OF_SECRETS: Final = (
    "Secrets are not recorded. Pass the name of the secret, and read it in the"
    " activity."
)
_ADVICE: Final[dict[str, str]] = {
    "pydantic.types.SecretStr": _OF_SECRETS,
    "pydantic.types.SecretBytes": _OF_SECRETS,
    "re.Pattern": "Pass the pattern's text, and compile it where it is used.",
    "collections.OrderedDict": "Pass a dict: `dict(value)`.",
    "collections.defaultdict": "Pass a dict: `dict(value)`.",
    "collections.Counter": "Pass a dict: `dict(value)`.",
    "collections.deque": "Pass a list: `list(value)`.",
    "builtins.range": "Pass its bounds, or `list(value)`.",
    "builtins.generator": "Pass a list: `list(value)`.",
    "builtins.bytearray": "Pass bytes: `bytes(value)`.",
    "builtins.memoryview": "Pass bytes: `bytes(value)`.",
    "builtins.coroutine": "Await it, and pass its result.",
    "fractions.Fraction": "Pass its numerator and denominator.",
    "_thread.lock": "Make it where it is used.",
    "_thread.RLock": "Make it where it is used.",
    "builtins.function": _OF_FUNCTIONS,
    "builtins.builtin_function_or_method": _OF_FUNCTIONS,
    "builtins.method": _OF_FUNCTIONS,
    "collections.abc.Callable": _OF_FUNCTIONS,
    "collections.abc.Iterable": "Annotate it as a list.",
    "builtins.type": "Pass a name, and look the class up where it is used.",
    "builtins.module": "Import it where it is used.",
    "builtins.NoneType": "Annotate it as `... | None`.",
    "logging.Logger": "Ask for it where it is used: `logging.getLogger(name)`.",
}


def advice_for(kind: Any) -> str | None:
    """What to do instead of passing a value of a class; None if nothing special."""
    found: Any = typing.get_origin(kind) or kind
    if not isinstance(found, type):
        return None
    kind = found
    for base in found.__mro__:
        advice = _ADVICE.get(f"{base.__module__}.{base.__qualname__}")
        if advice is not None:
            return advice
    if issubclass(found, BaseException):
        return "Raise it, or pass what it says as text."
    if hasattr(kind, "read") or hasattr(kind, "cursor"):
        return "Open it where it is used; pass its path or address."
    return None

"""What may be said of a value that cannot be decoded: types and places, never values.

The texts of decoders quote what they refuse, and the texts of a type's own code may say
anything. Only those parts are passed on that are made of annotations alone.
"""

from __future__ import annotations

import re
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
_PLACE: Final = re.compile(r" - at ((?:`(?:key|value)` in )?`\$[\w.\[\]]*`)$")
_ENCODING: Final = re.compile(r"Encoding objects of type [\w.]+ is unsupported")


def why_refused(error: BaseException) -> str:
    """Why a value was refused, without the value."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a type's own code may raise anything
        text = ""
    found = _PLACE.search(text)
    place = found[0] if found else ""
    own = error.__cause__
    if isinstance(error, msgspec.MsgspecError) and own is None:
        rest = text[: found.start()] if found else text
        if _OF_ANNOTATIONS.fullmatch(rest) or _ENCODING.fullmatch(rest):
            return rest + place
        quoting = _QUOTING.match(rest)
        if quoting:
            what = "field" if quoting[0].endswith("unknown") else ""
            return f"{quoting[0]} {what}".rstrip() + place
    if isinstance(error, TypeError) and _ENCODING.fullmatch(text):
        return text
    cause = error if own is None else own
    return f"{type(cause).__name__} was raised{_of_pydantic(cause)}{place}"


def _of_pydantic(error: Any) -> str:
    """Which checks of a pydantic model failed; where is left out: keys are values."""
    if not type(error).__module__.startswith("pydantic"):
        return ""
    try:
        found = error.errors(
            include_url=False, include_context=False, include_input=False
        )
        kinds = sorted({str(item["type"]) for item in found})
    except Exception:  # noqa: BLE001 - another class, or another pydantic
        return ""
    return f" ({', '.join(kinds)})" if all(map(_is_kind, kinds)) else ""


def _is_kind(kind: str) -> bool:
    # A model's own code may name its errors as it likes.
    return re.fullmatch(r"[a-z_]{1,60}", kind) is not None

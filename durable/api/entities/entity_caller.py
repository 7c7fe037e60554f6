"""Who calls an entity: which entities wait for the call, which keys are held around it.

Both travel with each call, so that a call that could only wait for itself is refused,
and so that the calls of a critical section pass where all others wait.
"""

from __future__ import annotations

import contextvars
from typing import Final

import msgspec

from durable.core.history.payload import JSON_PLAIN, Payload, Payloads
from durable.errors import NotInWorkflowError

_LABEL: Final = "durable.caller"


class Caller(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands behind a call.

    Attributes:
        chain: workflow ids of the entities whose exclusive methods wait for the call,
            outermost first.
        sections: the critical section that holds each key, by workflow id.
    """

    chain: tuple[str, ...] = ()
    sections: dict[str, str] = {}


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    caller: Caller = msgspec.field(name=_LABEL)


NOBODY: Final = Caller()
_decoder: Final = msgspec.json.Decoder(_Envelope)
_caller: Final = contextvars.ContextVar("durable_caller", default=NOBODY)
_key: Final[contextvars.ContextVar[str | None]] = contextvars.ContextVar(
    "durable_entity_key", default=None
)


def current_caller() -> Caller:
    """On whose behalf the running code calls entities."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Call entities on behalf of this caller from now on, in this context."""
    _caller.set(caller)


def entity_key() -> str:
    """The key of the entity whose method is running.

    Raises:
        NotInWorkflowError: no method of an entity is running here.
    """
    key = _key.get()
    if key is None:
        raise NotInWorkflowError(
            "durable.entity_key() was called outside of an entity's method.",
            hint="An object that you made yourself has no key.",
        )
    return key


def set_key(key: str) -> None:
    """Let `entity_key` say so from now on, in this context."""
    _key.set(key)


def with_caller(caller: Caller, input: Payloads) -> Payloads:
    """The arguments of a call, with its caller before them if there is one."""
    if caller == NOBODY:
        return input
    envelope = msgspec.json.encode(_Envelope(caller))
    return (Payload(json=msgspec.Raw(envelope)), *input)


def split_caller(input: Payloads) -> tuple[Caller, Payloads]:
    """Undo `with_caller`; those who call by name and arguments alone are nobody."""
    if not input or input[0].encoding != JSON_PLAIN:
        return NOBODY, input
    first = bytes(input[0].json)
    if _LABEL.encode() not in first[: len(_LABEL) + 8]:
        return NOBODY, input
    try:
        return _decoder.decode(first).caller, input[1:]
    except msgspec.MsgspecError:
        return NOBODY, input

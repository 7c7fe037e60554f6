"""Lets queries and validators look at a run, and refuses whatever they would change.

What asyncio would run later, commands, and attributes of the workflow object are
watched. A change deeper inside of an object cannot be seen.
"""

from __future__ import annotations

import types
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from durable.core.loop.loop import DeterministicLoop
from durable.core.runtime import ContinueAsNew

_NOTHING: Final = object()


@contextmanager
def reading_only(
    loop: DeterministicLoop, instance: object, what: str
) -> Generator[None]:
    """Refuse all changes while a query or a validator runs.

    Raises:
        ReadOnlyError: it tried to change something, even if it caught the refusal.
    """
    fields = _Fields(instance)
    loop.begin_reading(what)
    try:
        try:
            yield
        except ContinueAsNew:
            loop.refuse_change("continue_as_new()")
        finally:
            if fields.restore():
                loop.refuse_change("Setting an attribute of the workflow")
            if loop.refusal is not None:
                raise loop.refusal
    finally:
        loop.end_reading()


class _Fields:
    """The attributes of an object as they were, in its dictionary and its slots."""

    def __init__(self, instance: object) -> None:
        self._instance = instance
        self._members = _members(type(instance))
        self._slots = self._read_slots()
        self._dict: dict[str, Any] | None = getattr(instance, "__dict__", None)
        self._items = dict(self._dict or {})

    def _read_slots(self) -> list[Any]:
        return [_read(member, self._instance) for member in self._members]

    def restore(self) -> bool:
        """Put back what has changed; False if nothing has."""
        has_changed = False
        for member, now, before in zip(
            self._members, self._read_slots(), self._slots, strict=True
        ):
            if now is not before:
                has_changed = True
                if before is _NOTHING:
                    member.__delete__(self._instance)
                else:
                    member.__set__(self._instance, before)
        if self._dict is not None and _differ(self._dict, self._items):
            has_changed = True
            self._dict.clear()
            self._dict.update(self._items)
        return has_changed


def _members(cls: type[object]) -> list[types.MemberDescriptorType]:
    """What the slots of a class and of its bases are read and set by."""
    return [
        member
        for base in cls.__mro__
        for member in vars(base).values()
        if isinstance(member, types.MemberDescriptorType)
    ]


def _read(member: types.MemberDescriptorType, instance: object) -> Any:
    try:
        return member.__get__(instance)
    except AttributeError:
        return _NOTHING


def _differ(after: dict[str, Any], before: dict[str, Any]) -> bool:
    return after.keys() != before.keys() or any(
        after[name] is not before[name] for name in before
    )

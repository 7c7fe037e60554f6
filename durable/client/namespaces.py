"""Namespaces: each keeps the runs of one program apart from all others."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from durable.clock import to_datetime
from durable.errors import (
    InvalidOptionError,
    NamespaceExistsError,
    NamespaceNotFoundError,
)
from durable.options import check_id
from durable.store.queries import ListNamespaces, ReadNamespaces
from durable.store.records import NamespaceRecord, PutNamespace
from durable.suggestions import closest

if TYPE_CHECKING:
    from durable.client.client import Client

DEFAULT: Final = "default"
_DAYS_MAX: Final = 36_500


class NamespaceDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a namespace.

    Attributes:
        created_at: None if nobody has created it: it is there by its runs, and has the
            settings of all that are not.
        retention_days: how many days its closed runs are kept; None for ever.
    """

    name: str
    created_at: datetime | None = None
    retention_days: int | None = None
    description: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def _describe(record: NamespaceRecord) -> NamespaceDescription:
    return NamespaceDescription(
        name=record.namespace,
        created_at=to_datetime(record.created_at),
        retention_days=record.retention_days,
        description=record.description,
    )


def _check(retention_days: object, description: object) -> None:
    is_number = isinstance(retention_days, int) and not isinstance(retention_days, bool)
    if retention_days is not None and not (
        is_number and 1 <= int(str(retention_days)) <= _DAYS_MAX
    ):
        raise InvalidOptionError(
            f"retention_days is {retention_days!r}: give 1 to {_DAYS_MAX:,} days, or"
            " None to keep closed runs for ever."
        )
    if description is not None and (
        not isinstance(description, str) or "\0" in description
    ):
        raise InvalidOptionError(f"description is {description!r}: give a text.")


class Namespaces:
    """The namespaces of a database; `Engine.namespaces`."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client

    async def create(
        self,
        name: str,
        *,
        retention_days: int | None = None,
        description: str | None = None,
    ) -> NamespaceDescription:
        """Create a namespace. Runs may be in it before; they get its settings.

        Args:
            name: as for ids: at most 255 bytes.
            retention_days: how many days its closed runs are kept; None for ever.
            description: what it is for.

        Raises:
            NamespaceExistsError: it was created before.
            InvalidOptionError, InvalidIdError: an argument has a wrong value.
        """
        check_id(name, "the namespace")
        _check(retention_days, description)
        store = self._open_client().store
        record = NamespaceRecord(
            namespace=name,
            created_at=store.now(),
            retention_days=retention_days,
            description=description,
        )
        if not await store.perform(PutNamespace(record=record, is_new=True)):
            raise NamespaceExistsError(
                f"The namespace {name!r} was created before.",
                hint="Change it with update().",
            )
        return _describe(record)

    async def update(
        self,
        name: str,
        *,
        retention_days: int | msgspec.UnsetType | None = msgspec.UNSET,
        description: str | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> NamespaceDescription:
        """Change settings of a namespace that was created; what is left out stays.

        Raises:
            NamespaceNotFoundError: nobody has created it.
            InvalidOptionError: a setting has a wrong value.
        """
        store = self._open_client().store
        given: dict[str, Any] = {
            key: value
            for key, value in (
                ("retention_days", retention_days),
                ("description", description),
            )
            if value is not msgspec.UNSET
        }
        _check(given.get("retention_days"), given.get("description"))
        found = {one.namespace: one for one in await store.read(ReadNamespaces())}
        if name not in found:
            raise self._unknown(name, found, "Create it with create().")
        record = msgspec.structs.replace(found[name], **given)
        await store.perform(PutNamespace(record=record, is_new=False))
        return _describe(record)

    async def list(self) -> builtins.list[NamespaceDescription]:
        """List the namespaces that were created or that have runs, by name."""
        store = self._open_client().store
        found = {
            name: NamespaceDescription(name=name)
            for name in (DEFAULT, *await store.read(ListNamespaces()))
        }
        created = await store.read(ReadNamespaces())
        found |= {record.namespace: _describe(record) for record in created}
        return [found[name] for name in sorted(found)]

    async def describe(self, name: str) -> NamespaceDescription:
        """Describe one namespace.

        Raises:
            NamespaceNotFoundError: nobody has created it, and no run is in it.
        """
        found = {one.name: one for one in await self.list()}
        if name not in found:
            raise self._unknown(name, found)
        return found[name]

    @staticmethod
    def _unknown(
        name: str, known: dict[str, Any], hint: str | None = None
    ) -> NamespaceNotFoundError:
        close = closest(name, known)
        return NamespaceNotFoundError(
            f"There is no namespace {name!r}.",
            hint=hint if close is None else f"Did you mean {close!r}?",
        )

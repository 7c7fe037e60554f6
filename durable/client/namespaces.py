"""Namespaces: each keeps the runs of one program apart from all others."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from typing_extensions import TypedDict, Unpack

from durable.api.activities.settings import turn_settings
from durable.api.workflows.child_options import timeout_of
from durable.client.start_options import defaults_of
from durable.clock import to_datetime
from durable.errors import (
    CorruptHistoryError,
    InvalidOptionError,
    NamespaceExistsError,
    NamespaceNotFoundError,
    StoreError,
)
from durable.options import Duration, check_id, check_option_names
from durable.store.beginnings import NO_DEFAULTS, RunDefaults
from durable.store.queries import ListNamespaces, ReadNamespaces
from durable.store.records import NamespaceRecord, PutNamespace
from durable.suggestions import closest

if TYPE_CHECKING:
    from durable.client.client import Client

DEFAULT: Final = "default"
_DAYS_MAX: Final = 36_500


class NamespaceSettings(TypedDict, total=False):
    """What a namespace may be told; see `Namespaces.create`."""

    retention_days: int | None
    description: str | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    priority: int | None


class NamespaceDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a namespace.

    Attributes:
        created_at: None if nobody has created it: it is there by its runs, and has the
            settings of all that are not.
        retention_days: how many days its closed runs are kept; None for ever.
        run_timeout, execution_timeout, priority: of runs that begin in it and say
            nothing else; None if it says nothing either.
    """

    name: str
    created_at: datetime | None = None
    retention_days: int | None = None
    description: str | None = None
    run_timeout: timedelta | None = None
    execution_timeout: timedelta | None = None
    priority: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def _describe(record: NamespaceRecord) -> NamespaceDescription:
    defaults = defaults_of(record)
    return NamespaceDescription(
        name=record.namespace,
        created_at=to_datetime(record.created_at),
        retention_days=record.retention_days,
        description=record.description,
        run_timeout=_shown(defaults.run_timeout),
        execution_timeout=_shown(defaults.execution_timeout),
        priority=defaults.priority,
    )


def _shown(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=microseconds)


def _changed(record: NamespaceRecord, given: Mapping[str, Any]) -> NamespaceRecord:
    """The same with other settings.

    Raises:
        InvalidInputError: a setting does not exist, or has a wrong value.
    """
    known = NamespaceSettings.__annotations__
    check_option_names(given, known, "setting of a namespace")
    _check(given.get("retention_days"), given.get("description"))
    own = {key: given[key] for key in ("retention_days", "description") if key in given}
    own["defaults"] = _changed_defaults(record, given)
    return msgspec.structs.replace(record, **own)


def _changed_defaults(record: NamespaceRecord, given: Mapping[str, Any]) -> str | None:
    said = {key: given[key] for key in RunDefaults.__struct_fields__ if key in given}
    if not said:
        return record.defaults
    for name in ("run_timeout", "execution_timeout"):
        if name in said:
            said[name] = timeout_of(said[name], f"{name} of a namespace")
    if said.get("priority") is not None:
        turn_settings({"priority": said["priority"]}, "of a namespace")
    try:
        before = defaults_of(record)
    except CorruptHistoryError:
        before = NO_DEFAULTS  # whoever gives others mends them
    defaults = msgspec.structs.replace(before, **said)
    is_none = defaults == NO_DEFAULTS
    return None if is_none else msgspec.json.encode(defaults).decode()


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
        self, name: str, **settings: Unpack[NamespaceSettings]
    ) -> NamespaceDescription:
        """Create a namespace. Runs may be in it before.

        Args:
            name: as for ids: at most 255 bytes.
            **settings: what is left out, or None, is as without the namespace:
                `retention_days`: how many days its closed runs are kept; for ever
                otherwise.
                `description`: what it is for.
                `run_timeout`, `execution_timeout`, `priority`: of runs that begin in
                it from now on, where neither their start nor their workflow says
                something else.

        Raises:
            NamespaceExistsError: it was created before.
            InvalidOptionError, InvalidDurationError, InvalidIdError: an argument has
                a wrong value.
        """
        check_id(name, "the namespace")
        client = self._open_client()
        record = NamespaceRecord(namespace=name, created_at=client.store.now())
        record = _changed(record, settings)
        if not await self._put(client, record, is_new=True):
            raise NamespaceExistsError(
                f"The namespace {name!r} was created before.",
                hint="Change it with update().",
            )
        return _describe(record)

    async def update(
        self, name: str, **settings: Unpack[NamespaceSettings]
    ) -> NamespaceDescription:
        """Change settings of a namespace that was created; what is left out stays.

        None takes one back. What has begun goes on as it began: runs that start
        through this engine heed the change at once, others in a few seconds.

        Raises:
            NamespaceNotFoundError: nobody has created it.
            InvalidOptionError, InvalidDurationError: a setting has a wrong value.
        """
        client = self._open_client()
        _changed(NamespaceRecord(namespace=name, created_at=0), settings)
        read = await client.store.read(ReadNamespaces())
        found = {one.namespace: one for one in read}
        if name not in found:
            raise self._unknown(name, found, "Create it with create().")
        record = _changed(found[name], settings)
        await self._put(client, record, is_new=False)
        return _describe(record)

    @staticmethod
    async def _put(client: Client, record: NamespaceRecord, *, is_new: bool) -> bool:
        is_done = await client.store.perform(PutNamespace(record=record, is_new=is_new))
        client.defaults.forget()
        # Its worker starts children without asking. Whoever starts a run asks again.
        with contextlib.suppress(StoreError):
            await client.defaults.read()
        return bool(is_done)

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
            InvalidIdError: it is no name.
        """
        check_id(name, "the namespace")
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

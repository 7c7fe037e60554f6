"""What callers give as the connection of their transaction, and how it is spoken to.

No driver is known by name: what it calls its placeholders it says itself (PEP 249), in
one of the modules that its connections are made by.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm

from durable.errors import InvalidCallError
from durable.store.callers.steps import Ask, only_value

if TYPE_CHECKING:
    from sqlalchemy.ext import asyncio as sa_asyncio

Nudge: TypeAlias = Callable[[], None]
_NAME: Final = re.compile(r":(\w+)")
_FORMS: Final = (
    "Give a Connection or Session of SQLAlchemy, one of its async forms, or a"
    " connection of a DB-API driver, such as of psycopg, PyMySQL, sqlite3 or Django."
)


class Caller(Protocol):
    """A connection that statements can be given to; raises what its driver raises."""

    def find_connection(self) -> tuple[object, str | None]:
        """What leads to the same place while it is the same, and its dialect."""
        ...

    def ask(self, ask: Ask) -> Any:
        """Carry out a statement."""
        ...

    def tell_commit(self, nudge: Nudge) -> None:
        """Call `nudge` when what was written is committed, or about to be, if it can.

        It may be called for nothing, too.
        """
        ...


# --- SQLAlchemy -----------------------------------------------------------------------


class SqlalchemyCaller:
    """A connection or session of SQLAlchemy."""

    def __init__(self, given: sa.Connection | orm.Session) -> None:
        """Use it; whose transaction it is begins with its first statement, as ever."""
        self._given = given

    def _connect(self) -> sa.Connection:
        given = self._given
        return given if isinstance(given, sa.Connection) else given.connection()

    def find_connection(self) -> tuple[object, str | None]:
        """See `Caller`."""
        connection = self._connect()
        return connection, connection.dialect.name

    def ask(self, ask: Ask) -> Any:
        """See `Caller`."""
        result = self._connect().execute(sa.text(ask.text), ask.values)
        return result.scalar() if ask.has_answer else None

    def tell_commit(self, nudge: Nudge) -> None:
        """See `Caller`."""
        if self._given not in _told:
            name = (
                "commit" if isinstance(self._given, sa.Connection) else "after_commit"
            )
            event.listen(self._given, name, _tell)
            _told[self._given] = set()
        _told[self._given].add(nudge)


# A listener would stay for good, one for each transaction.
_told: Final = weakref.WeakKeyDictionary[object, set[Nudge]]()


def _tell(committed: object) -> None:
    for nudge in _told.get(committed, ()):
        nudge()
    _told[committed] = set()


# --- drivers --------------------------------------------------------------------------


class DriverCaller:
    """A connection of a DB-API driver."""

    def __init__(self, given: Any) -> None:
        """Find out how its statements are written.

        Raises:
            InvalidCallError: its driver does not say.
        """
        self.given = given
        self.style = _find_style(given)

    def find_connection(self) -> tuple[object, str | None]:
        """See `Caller`."""
        return self.given, None

    def ask(self, ask: Ask) -> Any:
        """See `Caller`."""
        with contextlib.closing(self.given.cursor()) as cursor:
            cursor.execute(*fill(ask, self.style))
            return only_value(cursor.fetchone()) if ask.has_answer else None

    def tell_commit(self, nudge: Nudge) -> None:
        """See `Caller`. Django has a way to say it, and drivers have none."""
        on_commit = getattr(self.given, "on_commit", None)
        if callable(on_commit):
            # Not in every mode of transactions; it is found later then.
            with contextlib.suppress(Exception):
                on_commit(nudge)


class AsyncDriverCaller(DriverCaller):
    """The same of a driver whose methods must be awaited, or some of them."""

    async def ask_async(self, ask: Ask) -> Any:
        """Carry out a statement."""
        cursor = await _wait(self.given.cursor())
        try:
            await _wait(cursor.execute(*fill(ask, self.style)))
            if ask.has_answer:
                return only_value(await _wait(cursor.fetchone()))
        finally:
            await _wait(cursor.close())
        return None


async def _wait(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def fill(ask: Ask, style: str) -> tuple[str] | tuple[str, Any]:
    """Return a statement and its values as a driver of that style takes them."""
    names = _NAME.findall(ask.text)
    if not names:
        return (ask.text,)
    if style in ("named", "pyformat"):
        text = ask.text if style == "named" else _NAME.sub(r"%(\1)s", ask.text)
        return text, ask.values
    values: Sequence[Any] = [ask.values[name] for name in names]
    if style == "numeric":
        numbers = iter(range(1, len(names) + 1))
        return _NAME.sub(lambda _: f":{next(numbers)}", ask.text), values
    return _NAME.sub("?" if style == "qmark" else "%s", ask.text), values


def _find_style(given: Any) -> str:
    # A connection of a pool may stand for the driver's.
    for connection in (given, getattr(given, "driver_connection", None)):
        kinds = {*type(connection).__mro__, *_class_of(connection).__mro__}
        for kind in sorted(kinds, key=lambda kind: len(kind.__mro__), reverse=True):
            path = kind.__module__
            if path.partition(".")[0] == "django":
                return "format"  # whatever is underneath
            while path:
                style = getattr(sys.modules.get(path), "paramstyle", None)
                if isinstance(style, str):
                    return style
                path = path.rpartition(".")[0]
    raise InvalidCallError(
        f"within() was given a {type(given).__name__}, whose driver does not say how"
        " its statements are written: it has no paramstyle (PEP 249).",
        hint=_FORMS,
    )


def _class_of(connection: object) -> type[Any]:
    """What it says it is, as proxies do."""
    said: object = getattr(connection, "__class__", None)
    return said if isinstance(said, type) else object


# --- which of them it is --------------------------------------------------------------


def find_caller(given: Any) -> Caller:
    """Return the caller of a connection whose methods need not be awaited.

    Raises:
        InvalidCallError: it is none.
    """
    found = _unscoped(given, orm.scoped_session)
    if isinstance(found, sa.Connection | orm.Session):
        return SqlalchemyCaller(found)
    if not is_driver(found):
        raise no_connection(found)
    return DriverCaller(found)


def _unscoped(given: Any, kind: type[Any]) -> Any:
    """Return the session that a registry of that kind has for who calls, or itself."""
    return given() if isinstance(given, kind) else given


def find_async(
    given: Any,
) -> sa_asyncio.AsyncConnection | sa_asyncio.AsyncSession | AsyncDriverCaller | None:
    """Return a connection whose methods must be awaited; None if they need not be."""
    # Nobody has one who has not imported it.
    if "sqlalchemy.ext.asyncio" in sys.modules:
        from sqlalchemy.ext import asyncio as sa_asyncio

        found = _unscoped(given, sa_asyncio.async_scoped_session)
        if isinstance(found, sa_asyncio.AsyncConnection | sa_asyncio.AsyncSession):
            return found
    if is_driver(given) and inspect.iscoroutinefunction(getattr(given, "commit", None)):
        return AsyncDriverCaller(given)
    return None


def is_driver(given: object) -> bool:
    """Whether it is a connection by PEP 249, or as good as that."""
    names = ("cursor", "commit", "rollback")
    return not isinstance(given, type) and all(
        callable(getattr(given, name, None)) for name in names
    )


def no_connection(given: object) -> InvalidCallError:
    """Build the error of what is no connection."""
    name = type(given).__name__
    hint = _FORMS
    if isinstance(given, sa.Engine):
        hint = f"An engine has no transaction; pass what begin() gives. {_FORMS}"
    elif isinstance(given, orm.sessionmaker):
        hint = f"Call it, and pass the session that it makes. {_FORMS}"
    elif type(given).__module__.partition(".")[0] == "asyncpg":
        hint = f"asyncpg is no DB-API driver: use it by SQLAlchemy. {_FORMS}"
    return InvalidCallError(
        f"within() was given a {name}, which is no connection.", hint=hint
    )

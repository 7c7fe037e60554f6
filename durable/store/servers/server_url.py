"""The URL of a database on a server."""

from __future__ import annotations

from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from durable.errors import InvalidOptionError, NotADatabaseError

_IDENTIFIER_CHARS_MAX: Final = 63


class ServerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where a database is.

    Attributes:
        name: the URL as messages show it; holds no password.
        schema: the schema that the tables are in; None for the default.
        options: what else the driver is given.
    """

    name: str
    host: str | None
    port: int | None
    user: str | None
    password: str | None
    database: str
    schema: str | None = None
    options: dict[str, str] = {}


def parse_server_url(
    url: str, shown: str, *, driver: str, options: frozenset[str], form: str
) -> ServerUrl:
    """Take a URL apart.

    Args:
        url: the URL.
        shown: the same, as messages show it.
        driver: the only driver that may be named behind a plus sign.
        options: what may follow a question mark.
        form: what a right one looks like.

    Raises:
        NotADatabaseError: it names no database, or another driver.
        InvalidOptionError: it has an option that does not exist.
    """
    hint = f"Write {form!r}. What is special in a password is to be percent-encoded."
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise NotADatabaseError(f"{shown!r} is not a URL.", hint=hint) from error
    named = parsed.drivername.partition("+")[2].lower()
    if named not in ("", driver):
        raise NotADatabaseError(
            f"{shown!r} names a driver that is not used here; {driver!r} is.",
            hint=hint,
        )
    if not parsed.database:
        raise NotADatabaseError(f"{shown!r} names no database.", hint=hint)
    given: dict[str, str] = {}
    for name, value in parsed.query.items():
        if name not in options or not isinstance(value, str):
            raise InvalidOptionError(
                f"{shown!r} has the option {name[:20]!r}, which is unknown here or"
                " given twice.",
                hint=f"Known are: {', '.join(sorted(options))}.",
            )
        given[name] = value
    schema = given.pop("schema", None)
    if schema is not None and not 0 < len(schema.encode()) <= _IDENTIFIER_CHARS_MAX:
        raise InvalidOptionError(
            f"{shown!r}: a schema's name has 1 to {_IDENTIFIER_CHARS_MAX} bytes."
        )
    return ServerUrl(
        name=shown.partition("?")[0],
        host=given.pop("host", parsed.host),
        port=parsed.port,
        user=parsed.username,
        password=parsed.password,
        database=parsed.database,
        schema=schema,
        options=given,
    )

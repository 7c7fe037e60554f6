"""What a URL of MariaDB or MySQL may say."""

from __future__ import annotations

from typing import Any, Final

from durable.errors import InvalidOptionError
from durable.store.servers.server_url import ServerUrl, parse_server_url

_FORM: Final = "mysql://user:password@host:3306/database"
_TEXTS: Final = frozenset(
    {"ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password", "unix_socket"}
)
_FLAGS: Final = frozenset({"ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"})
_SECONDS: Final = frozenset({"connect_timeout"})
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}


def parse(url: str, shown: str) -> ServerUrl:
    """Take a URL apart; raises as `parse_server_url` does."""
    options = _TEXTS | _FLAGS | _SECONDS
    parsed = parse_server_url(url, shown, driver="pymysql", options=options, form=_FORM)
    driver_options(parsed)
    return parsed


def driver_options(url: ServerUrl) -> dict[str, Any]:
    """Return what the driver is given.

    Raises:
        InvalidOptionError: an option has a wrong value.
    """
    options: dict[str, Any] = {
        "host": url.host,
        "port": url.port or 0,
        "database": url.database,
        "user": url.user,
        # The driver would encode it otherwise, and not everything.
        "password": (url.password or "").encode(),
    }
    for name, text in url.options.items():
        value: Any = text
        if name in _FLAGS:
            value = _TRUTHS.get(text.lower())
        elif name in _SECONDS:
            value = int(text) if text.isdecimal() and 0 < int(text) < 3_600 else None
        if value is None:
            expected = "'true' or 'false'" if name in _FLAGS else "a number of seconds"
            raise InvalidOptionError(f"{url.name!r}: {name} is to be {expected}.")
        options[name] = value
    return options

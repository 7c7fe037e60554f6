"""What a URL of PostgreSQL may say."""

from __future__ import annotations

from typing import Final

from durable.store.servers.server_url import ServerUrl, parse_server_url

_FORM: Final = "postgresql://user:password@host:5432/database"
# https://www.postgresql.org/docs/current/libpq-connect.html
_OPTION_NAMES: Final = (
    "schema host passfile service sslmode sslrootcert sslcert sslkey "
    "sslpassword sslcrl channel_binding gssencmode krbsrvname "
    "target_session_attrs application_name connect_timeout"
)
_OPTIONS: Final = frozenset(_OPTION_NAMES.split())


def parse(url: str, shown: str) -> ServerUrl:
    """Take a URL apart; raises as `parse_server_url` does."""
    url = "postgresql" + url[len("postgres") :] if url[8:9] != "q" else url
    return parse_server_url(url, shown, driver="psycopg", options=_OPTIONS, form=_FORM)

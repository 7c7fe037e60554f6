"""What every command is told: which database, which namespace, which form of output."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import click

DEFAULT_URL: Final = "sqlite:///durable.db"


def to_url(database: str) -> str:
    """The URL of a database that is given as a URL or as the path of its file."""
    # One letter before a colon is a drive.
    is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", database)
    return database if is_url or not database else f"sqlite:///{database}"


@dataclass
class Session:
    """One call of the command line."""

    database_url: str = DEFAULT_URL
    namespace: str = "default"
    is_namespace_chosen: bool = False
    log_level: str | None = None
    log_format: str = "text"
    config: str | None = None
    is_json: bool = False
    others: list[Session] = field(default_factory=list)
    """Databases that the command was given beside this one."""

    @property
    def chosen_namespace(self) -> str | None:
        """The namespace if somebody named one, for what can look at all of them."""
        return self.namespace if self.is_namespace_chosen else None

    @property
    def is_sqlite(self) -> bool:
        """Whether SQLite keeps the database."""
        return self.database_url.lower().startswith("sqlite:")

    @property
    def is_in_memory(self) -> bool:
        """Whether the database ends with the process."""
        location = self.database_url.partition("?")[0]
        if location.lower().startswith("memory:"):
            return True
        return self.is_sqlite and location.partition("://")[2] in ("", "/:memory:")

    def find_file(self) -> Path | None:
        """The file of an SQLite database, whether it exists or not."""
        if not self.is_sqlite or self.is_in_memory:
            return None
        location = self.database_url.partition("?")[0].partition("://")[2]
        # A URL of another shape is refused, with its reason, once it is connected to.
        return Path(location[1:]) if location.startswith("/") and location[1:] else None

    def refuse_memory(self) -> None:
        """Refuse a database that nobody else could ever see.

        Raises:
            click.UsageError: it is one.
        """
        if self.is_in_memory:
            raise click.UsageError(
                f"{self.database_url!r} lives in one process only, and ends with this"
                " command. Give a file, such as orders.db."
            )

    def secrets(self) -> tuple[str, ...]:
        """Every spelling of a URL's password that could turn up in a text."""
        others = tuple(secret for other in self.others for secret in other.secrets())
        credentials, at, _ = self.database_url.partition("://")[2].rpartition("@")
        password = credentials.partition(":")[2]
        if not at or not password:
            return others
        return (*{password, unquote(password)}, *others)


pass_session: Final = click.make_pass_decorator(Session, ensure=True)

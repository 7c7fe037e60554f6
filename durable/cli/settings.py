"""Where the command line's defaults come from: `durable.toml`, or `[tool.durable]`.

A flag wins over the environment, the environment over the file, the file over what is
built in. Only the file of the current directory is read, or the one that `--config` or
`DURABLE_CONFIG` names. A key that nobody knows is an error: it would be a setting that
has no effect.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Final

import click
import msgspec

DATABASE_URL_FILE: Final = "DURABLE_DATABASE_URL_FILE"

# Each key with the type of its value, and with the command whose option it sets; None
# for an option of `durable` itself.
_KEYS: Final[dict[str, tuple[type | tuple[type, ...], str | None]]] = {
    "database_url": (str, None),
    "namespace": (str, None),
    "log_level": (str, None),
    "log_format": (str, None),
    "queues": (list, "worker"),
    "max_activities": (int, "worker"),
    "max_activity_threads": (int, "worker"),
    "max_activity_processes": (int, "worker"),
    "max_cached_runs": (int, "worker"),
    "resources": (str, "worker"),
    "interceptors": (str, "worker"),
    "drain_timeout": ((str, int, float), "worker"),
    "processes": ((str, int), "worker"),
    "health_port": (int, "worker"),
    "health_host": (str, "worker"),
    "metrics": (bool, "worker"),
}


def read_settings(given: str | None) -> dict[str, Any]:
    """Read the file, and return it in the shape of click's `default_map`.

    Raises:
        click.UsageError: there is no such file, it is no TOML, or a key or value is
            not one that the command line knows.
    """
    found = _find(given)
    if found is None:
        return {}
    path, table = found
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            known = ", ".join(sorted(_KEYS))
            raise click.UsageError(f"{path}: unknown key {key!r}; known are {known}.")
        kind, command = _KEYS[key]
        is_flag = isinstance(value, bool)
        if not isinstance(value, kind) or is_flag is not (kind is bool):
            raise click.UsageError(f"{path}: {key} is {value!r}, of the wrong type.")
        place = defaults if command is None else defaults.setdefault(command, {})
        place[key] = value
    return defaults


def _find(given: str | None) -> tuple[Path, dict[str, Any]] | None:
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise click.UsageError(f"There is no configuration file {given!r}.")
        return path, _table_of(path)
    for name in ("durable.toml", "pyproject.toml"):
        path = Path(name)
        if path.is_file():
            table = _table_of(path)
            if table or name == "durable.toml":
                return path, table
    return None


def _table_of(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}.") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if path.name != "pyproject.toml":
        return document
    try:
        tool = msgspec.convert(document.get("tool", {}), dict[str, Any])
        return msgspec.convert(tool.get("durable", {}), dict[str, Any])
    except msgspec.ValidationError:
        raise click.UsageError(f"{path}: tool.durable is no table.") from None


def read_url_file() -> str | None:
    """The database URL from the file that the environment names, if it names one.

    Raises:
        click.UsageError: the file cannot be read.
    """
    name = os.environ.get(DATABASE_URL_FILE)
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{DATABASE_URL_FILE} names {name!r}, which cannot be read: {error}."
        ) from None

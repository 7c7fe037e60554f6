"""What reaches the screen: data on stdout, everything else on stderr, all escaped.

Ids, messages and values come from a database that others write to. A terminal obeys
control characters, so none of them is printed as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, Final, TextIO

import click
import msgspec

from durable.cli.session import Session
from durable.telling.escaping import escape, escape_json

if TYPE_CHECKING:  # it brings the database layer, and help need not wait for that
    from durable.client.handle import Handle

_PAINT: Final = re.compile("(\x1b\\[(?:[0-2]|3[1-3])m)")


def to_json(value: Any, *, indent: int = 0) -> str:
    """Turn plain data into JSON that is also safe to look at."""
    data = msgspec.json.encode(value)
    if indent:
        data = msgspec.json.format(data, indent=indent)
    return escape_json(data.decode())


def write_line(text: str) -> None:
    """Write one line of data to stdout; escape whatever was not escaped before.

    Only colours may pass, as `durable.cli.timeline` paints them: what they dress was
    escaped, and they change nothing but how a text looks.
    """
    if not is_colored(sys.stdout):
        click.echo(escape(text))
        return
    parts = _PAINT.split(text)
    parts[::2] = [escape(part) for part in parts[::2]]
    click.echo("".join(parts))


def write_lines(lines: Iterable[str]) -> None:
    """Write lines of data to stdout; see `write_line`."""
    for line in lines:
        write_line(line)


def write_json(value: Any) -> None:
    """Write one JSON object, on one line, to stdout."""
    click.echo(to_json(value))


def write_value(value: Any) -> None:
    """Write a result: indented for a reader, on one line for a program."""
    click.echo(to_json(value, indent=2 if _is_terminal(sys.stdout) else 0))


def tell(session: Session, data: dict[str, Any], text: str) -> None:
    """Say what was done: as JSON, or in a line of text."""
    if session.is_json:
        write_json(data)
    else:
        write_line(escape(text))


def ids_of(handle: Handle[Any]) -> dict[str, Any]:
    """Which run is meant, as JSON has it."""
    return {"workflow_id": handle.workflow_id, "run_id": handle.run_id}


def title_of(handle: Handle[Any]) -> str:
    """Which run is meant, in words."""
    return f"{handle.workflow_id} (run {handle.run_id})"


def note(text: str) -> None:
    """Tell a person something that is no data."""
    click.echo(escape(text), err=True)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: closed by who started us


def is_colored(stream: TextIO | None) -> bool:
    """Whether colours are wanted there; see no-color.org and force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream)


def width_of(stream: TextIO | None) -> int | None:
    """How many characters fit on a line; None if that does not matter."""
    return shutil.get_terminal_size().columns if _is_terminal(stream) else None


@contextmanager
def users_code_prints_to_stderr() -> Generator[None]:
    """Keep what workflows, activities and their modules print apart from the data."""
    with redirect_stdout(sys.stderr):
        yield

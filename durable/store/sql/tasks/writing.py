"""The values of tasks as they are written, for whatever text a database has for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from durable.store.deciding.rows import TaskChange
from durable.store.sql.tables import ACTIVITY_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable.store.deciding.rows import TaskRows

_CHANGED: Final = TaskChange.__struct_fields__
NAMES: Final = ("run_id", "scheduled_event_id", *_CHANGED)
"""The columns of `changed`."""
WIDTH: Final = len(NAMES)
UPDATE: Final = (
    "UPDATE durable_activity_tasks SET {changes} FROM {rows}"
    " WHERE durable_activity_tasks.run_id = n.run_id"
    " AND durable_activity_tasks.scheduled_event_id = n.scheduled_event_id"
)
"""For databases that join what they change; `n` are the new values by `NAMES`."""
_fields: Final = msgspec.structs.astuple


def changes(name_of: Callable[[int, str], str]) -> str:
    """Compose what follows SET, of rows whose n-th column `name_of` tells.

    What is NULL there leaves what is in the table; an empty text, or -1, empties it.
    """
    texts: list[str] = []
    for number, name in enumerate(_CHANGED, start=3):
        column = ACTIVITY_TASKS.c[name]
        value = f"coalesce({name_of(number, name)}, {ACTIVITY_TASKS.name}.{name})"
        if column.nullable:
            nothing = "-1" if column.type.python_type is int else "''"
            value = f"nullif({value}, {nothing})"
        texts.append(f"{name} = {value}")
    return ", ".join(texts)


def changed(rows: TaskRows) -> Iterator[tuple[Any, ...]]:
    """Yield the values of tasks that change, in the order of `NAMES`."""
    for key in sorted(rows.changed):
        yield (*key, *_fields(rows.changed[key]))


def inserted(rows: TaskRows) -> Iterator[tuple[Any, ...]]:
    """Yield the values of tasks to insert or replace, in the order of the columns."""
    for key in sorted(rows.put):
        yield _fields(rows.put[key])

"""What a run says of itself to whoever lists runs: attributes and memo."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from durable.api.workflows.child_options import encode_memo
from durable.converter import json
from durable.core.history.payload import NULL, changed
from durable.core.runtime import get_runtime, source_line
from durable.search.attributes import check_count, encode_attributes
from durable.search.conditions import Attribute
from durable.search.kinds import from_payload, kind_of

T = TypeVar("T")


def upsert_attributes(values: Mapping[Attribute[Any], Any]) -> None:
    """Change what this run is found by; the other attributes stay.

        upsert_attributes({customer: "ann", discount: None})

    The change is recorded, and `describe()` and listings show it once this turn is
    committed. The next run of the chain begins with the attributes of this one.

    Args:
        values: by attribute; None takes it away.

    Raises:
        InvalidOptionError: a value is none of its attribute's type, or there are too
            many attributes. If others of the namespace know an attribute by another
            type, the run parks.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.upsert_attributes()")
    changes = encode_attributes(values, "upsert_attributes()", unsets=True)
    check_count(changed(runtime.info().attributes, changes), "upsert_attributes()")
    if changes:
        runtime.upsert_attributes(changes, _source())


def get_attribute(attribute: Attribute[T]) -> T | None:
    """Read an attribute of this run; None if it has none of that name and type.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    values = get_runtime("durable.get_attribute()").info().attributes
    found = values.get(attribute.name)
    if found is None or kind_of(found) is not attribute.kind:
        return None
    return cast("T", from_payload(found))


def upsert_memo(values: Mapping[str, Any]) -> None:
    """Change the memo of this run; its other values stay.

    The change is recorded, and shown where runs are listed. The next run of the chain
    begins with the memo that this one began with, unless it is given another.

    Args:
        values: plain data by name; None takes a value away.

    Raises:
        PayloadError: a value is no plain data.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.upsert_memo()")
    said = {name: value for name, value in values.items() if value is not None}
    changes = {**dict.fromkeys(values, NULL), **encode_memo(said)}
    if changes:
        runtime.upsert_memo(changes, _source())


def memo() -> dict[str, Any]:
    """Read the memo of this run: plain values that it was started with, or has set.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    values = get_runtime("durable.memo()").info().memo
    return {
        name: json.decode(value, Any, f"memo {name!r}")
        for name, value in values.items()
    }


def _source() -> str:
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    return source_line(frame.f_code, frame.f_lasti)

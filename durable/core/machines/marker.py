"""Markers: facts of the library itself, such as which patches a run goes by."""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.commands import RecordMarker
from durable.core.history.events import Attributes
from durable.core.history.payload import Payload
from durable.core.machines.fact import FactEntry

PATCH_MARKER: Final = "core_patch"  # Temporal's name for it


class PatchEntry(FactEntry):
    """The entry of a patch marker."""

    __slots__ = ("patch_id",)

    def __init__(self, patch_id: str, *, deprecated: bool, source: str) -> None:
        data = msgspec.json.encode({"id": patch_id, "deprecated": deprecated})
        details = {"patch": Payload(json=msgspec.Raw(data))}
        super().__init__(RecordMarker(PATCH_MARKER, details, source))
        self.patch_id = patch_id

    def differs(self, event: Attributes) -> str | None:
        """Compare which patch it is; deprecation may come later."""
        found = find_patch(event)
        return None if found and found[0] == self.patch_id else "the patch"


def find_patch(event: Attributes | RecordMarker) -> tuple[str, bool] | None:
    """The id of a patch marker and whether it is deprecated; None for other events."""
    if not isinstance(event, RecordMarker):
        return None
    if event.marker_name != PATCH_MARKER:
        return None
    data = msgspec.json.decode(event.details["patch"].json)
    return data["id"], data["deprecated"]

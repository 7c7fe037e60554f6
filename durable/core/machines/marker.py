"""Markers: facts of the library itself, such as which patches a run goes by."""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.commands import RecordMarker
from durable.core.history.events import Attributes, MarkerRecorded
from durable.core.history.payload import Payload
from durable.core.machines.machine import Entry

PATCH_MARKER: Final = "core_patch"  # Temporal's name for it


class PatchEntry(Entry):
    """The entry of a patch marker."""

    __slots__ = ("_deprecated", "_source", "is_withdrawn", "patch_id")
    event_type = MarkerRecorded

    def __init__(self, patch_id: str, *, deprecated: bool, source: str) -> None:
        self.is_withdrawn = False
        self.patch_id = patch_id
        self._deprecated = deprecated
        self._source = source

    def command(self) -> RecordMarker:
        """The command as data."""
        data = msgspec.json.encode(
            {"id": self.patch_id, "deprecated": self._deprecated}
        )
        return RecordMarker(
            marker_name=PATCH_MARKER,
            details={"patch": Payload(json=msgspec.Raw(data))},
            source=self._source,
        )

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

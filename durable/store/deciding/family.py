"""What the end of a run means to its parent and its children: pure decisions.

Memory and SQL must not differ in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from durable.store.records import MessageKind

if TYPE_CHECKING:
    from durable.store.records import RunRecord

Letter: TypeAlias = tuple[str, str, str, str]
"""run id, request id, kind, data: a message whose receiver is known to be open."""

TERMINATE: Final = "terminate"
REQUEST_CANCEL: Final = "request_cancel"

_REASON: Final = "Its parent closed."


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


TERMINATED_BY_POLICY: Final = _to_json({"reason": _REASON, "identity": ""})
"""Data of the WorkflowExecutionTerminated event of a run whose parent closed."""


def ask_to_stop(child_run_id: str, parent_run_id: str) -> Letter:
    """Build what a child is sent whose policy is `request_cancel`."""
    request_id = f"parent-close:{parent_run_id}"
    data = {"reason": _REASON, "request_id": request_id, "identity": ""}
    return child_run_id, request_id, MessageKind.CANCEL.value, _to_json(data)


def tell_parent(child: RunRecord) -> Letter | None:
    """Build what the parent of a terminated run is sent, whether it is open or not.

    None means that nobody waits for the child: it has no parent, or no event of its
    parent asked for it.
    """
    if child.parent_run_id is None or child.parent_initiated_event_id is None:
        return None
    data = {
        "type": "ChildWorkflowExecutionTerminated",
        "event": {
            "initiated_event_id": child.parent_initiated_event_id,
            "workflow_id": child.workflow_id,
            "run_id": child.run_id,
            "workflow_type": child.workflow_type,
        },
    }
    request_id = f"child:{child.first_run_id}"
    return child.parent_run_id, request_id, MessageKind.CHILD.value, _to_json(data)

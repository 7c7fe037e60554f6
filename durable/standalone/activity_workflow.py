"""`durable.activity`: the workflow of which each standalone activity is a run.

Its arguments are the activity's name and those of the activity. How that is to run is
in the memo, so that the same call under other options asks for the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from durable.api.activities.activity import Activity
from durable.api.workflows.workflow_definition import Workflow, register_workflow
from durable.converter import json
from durable.core.history.commands import ActivitySettings
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget, get_runtime
from durable.errors import WorkflowTaskError

T = TypeVar("T")
STANDALONE: Final = "durable.activity"
"""The name of the workflow."""
HOW: Final = "durable.activity"
"""The memo that says how the activity is to run."""


class How(msgspec.Struct, frozen=True):
    """How an activity is to run: as its event in the history of any run says it."""

    settings: ActivitySettings
    summary: str | None = None

    def to_text(self) -> str:
        """What the memo keeps of it."""
        return msgspec.json.encode(self).decode()


class StandaloneActivity(Workflow[..., Any]):
    """The workflow as what drives runs knows one; its values stay payloads."""

    async def call(self, input: Payloads) -> Payload:
        runtime = get_runtime("A standalone activity")
        how = runtime.info().memo.get(HOW)
        if how is None:
            raise WorkflowTaskError(
                f"A run of {STANDALONE!r} was started without the memo {HOW!r}.",
                hint="Start it by engine.start_activity(...).",
            )
        told = msgspec.json.decode(msgspec.json.decode(how.json, type=str), type=How)
        name = json.decode(input[0], str, "the name of an activity")
        target = ActivityTarget(name, told.settings, told.summary, _differing)
        return await runtime.execute_activity(target, input[1:], None, 0)

    def of(self, activity: Activity[..., Any]) -> StandaloneActivity:
        """The same, with the result of an activity whose code is known."""
        made: Any = self._copy()
        made.call_signature = activity.call_signature
        return made  # type: ignore[no-any-return]  # a copy is of the same class


async def _run(activity_type: str, *arguments: Any) -> Any:
    """Run one activity."""
    raise NotImplementedError


def name_of(input: Payloads) -> str:
    """Which activity a run of the workflow runs."""
    return json.decode(input[0], str, "the name of an activity")  # type: ignore[no-any-return]  # of that type


def without_how(memo: Mapping[str, T]) -> dict[str, T]:
    """What a user has put into the memo of such a run."""
    return {key: value for key, value in memo.items() if key != HOW}


def _differing(recorded: Payloads, found: Payloads) -> str | None:
    """Nothing: both are arguments of the run."""
    return None


standalone: Final = StandaloneActivity(_run, STANDALONE, {})
register_workflow(standalone)

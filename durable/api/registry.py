"""The workflows and activities that a program, or one engine, knows."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from durable.api.activities.activity import Activity, is_activity
from durable.api.activities.activity_method import activity_methods_of
from durable.api.activities.step import Step
from durable.api.definitions import ACTIVITIES, WORKFLOWS, get_definition, is_own
from durable.api.interceptors.chains import NO_INTERCEPTORS, Interceptors
from durable.api.interceptors.workflow_side import InterceptedCode
from durable.api.resources import missing
from durable.api.workflows.versioning import VERSIONS, Versions, enter, find
from durable.api.workflows.workflow_definition import Workflow, workflow_of
from durable.core.history.events import WorkflowExecutionStarted
from durable.errors import DefinitionError, NotRegisteredError


class Registry:
    """The workflows and activities that a program, or one engine, knows."""

    def __init__(
        self,
        workflows: dict[str, Workflow[Any, Any]] | None = None,
        activities: dict[str, Activity[Any, Any]] | None = None,
        versions: Versions | None = None,
    ) -> None:
        self.workflows = {} if workflows is None else workflows
        self.versions: Versions = {} if versions is None else versions
        self.activities = {} if activities is None else activities
        self.fail_on: tuple[type[BaseException], ...] = ()
        self.interceptors = NO_INTERCEPTORS

    def failing_on(self, classes: tuple[type[BaseException], ...]) -> Registry:
        """The same definitions, where these exceptions fail each run, too."""
        failing = Registry(self.workflows, self.activities, self.versions)
        failing.fail_on, failing.interceptors = classes, self.interceptors
        return failing

    def within(self, interceptors: Interceptors) -> Registry:
        """The same definitions, whose runs are within these interceptors."""
        around = self.failing_on(self.fail_on)
        around.interceptors = interceptors
        return around

    def limited_to(self, definitions: Iterable[object]) -> Registry:
        """A registry of these definitions, and of those that these modules hold.

        Activities bring along what compensates for them, classes their activities.

        Raises:
            DefinitionError: something is neither a definition nor a module.
        """
        limited, given = Registry(), cast("object", definitions)
        if not isinstance(given, Iterable):
            raise DefinitionError(
                f"definitions is {given!r}: give a list of workflows, activities and"
                " modules.",
                hint=f"definitions=[{getattr(given, '__name__', '...')}]",
            )
        for item in definitions:
            members = vars(item).values() if inspect.ismodule(item) else (item,)
            found = [limited._add_member(member) for member in members]
            if not any(found):
                raise DefinitionError(
                    f"{item!r} is neither a workflow, nor an activity, nor a module"
                    " that holds one.",
                    hint="Decorate it with @workflow or @activity.",
                )
        return limited

    def with_own(self) -> Registry:
        """Add the library's own workflows, which every engine runs."""
        for name, workflow in WORKFLOWS.items():
            if is_own(name):
                self.workflows.setdefault(name, workflow)
        return self

    def _add_member(self, member: object) -> bool:
        """Add a workflow, an activity, or a class's activities; False if it is none."""
        workflow = workflow_of(member)
        if workflow is not None:
            enter(self.workflows, self.versions, workflow)
        elif is_activity(member):
            if getattr(member, "instance", None) is not None:
                raise DefinitionError(
                    f"The definitions hold {member.name!r} of an object.",
                    hint="Give the method of the class here, and the object by"
                    " resources={TheClass: object}.",
                )
            self._add(member)
        else:
            methods = activity_methods_of(member) if inspect.isclass(member) else ()
            for method in methods:
                self._add(method)
            return bool(methods)
        return True

    def _add(self, activity: Activity[Any, Any]) -> None:
        """Add an activity, and what undoes it: a saga calls that by itself."""
        undoing: Activity[..., Any] | None = activity
        while undoing is not None and undoing.name not in self.activities:
            self.activities[undoing.name] = undoing
            undoing = undoing.compensate

    def get_workflow(self, name: str) -> Workflow[Any, Any]:
        """The workflow of that name.

        Raises:
            NotRegisteredError: there is none.
        """
        found: Workflow[Any, Any] = get_definition(self.workflows, name, "workflow")
        return found.failing_on(self.fail_on) if self.fail_on else found

    def code_of(self, started: WorkflowExecutionStarted) -> Workflow[Any, Any]:
        """The code of a run by its first event, within the interceptors.

        Raises:
            NotRegisteredError: there is none, or none of that version.
        """
        name, version = started.workflow_type, started.version
        found = self.find_workflow(name, version)
        if found is None:
            self.get_workflow(name)
            here = ", ".join(sorted(self.versions.get(name, {}))) or "none"
            raise NotRegisteredError(
                f"No code here goes on with version {version!r} of workflow {name!r};"
                f" here is: {here}.",
                hint="Keep its code beside the new one, under"
                f" @{name}.version({version!r}), or say which versions the new code"
                " is compatible_with.",
            )
        if self.versions is not VERSIONS and found.own_version is not None:
            found = found.beside(self.versions)
        if self.fail_on:
            found = found.failing_on(self.fail_on)
        if self.interceptors.of_workflows and not is_own(name):
            within: Any = InterceptedCode(found, self.interceptors)
            return within  # type: ignore[no-any-return]  # it stands in the workflow's place
        return found

    def find_workflow(
        self, name: str, version: str | None
    ) -> Workflow[Any, Any] | None:
        """The code for runs of a workflow and version, if there is any."""
        found: Workflow[Any, Any] | None = find(
            self.workflows, self.versions, name, version
        )
        return found

    def exact_versions(self) -> tuple[tuple[str, str], ...]:
        """The versions of workflows whose own code is here: name and version."""
        return tuple(
            (name, version)
            for name, known in self.versions.items()
            for version in known
        )

    @property
    def has_ranges(self) -> bool:
        """Whether some code goes on with runs of other versions, too."""
        return any(
            each.release.compatible_with is not None
            for known in self.versions.values()
            for each in known.values()
        )

    def get_activity(self, name: str) -> Activity[Any, Any]:
        """The activity of that name.

        Raises:
            NotRegisteredError: there is none.
        """
        found: Activity[Any, Any] = self.find_activity(name) or get_definition(
            self.activities, name, "activity"
        )
        return found

    def find_activity(self, name: str) -> Activity[Any, Any] | None:
        """What runs activities of that name, if there is anything.

        One that is dynamic runs what no other one is there for.
        """
        return self.activities.get(name) or next(iter(self._dynamic()), None)

    def find_body(self, step: Step) -> Step:
        """What runs a step that the code has handed over."""
        return step

    def _dynamic(self) -> list[Activity[Any, Any]]:
        return [each for each in self.activities.values() if each.runs_as.dynamic]

    def check_annotations(self) -> None:
        """See that values can be recorded by the annotations of all definitions.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by; or more than
                one activity is dynamic.
        """
        dynamic = self._dynamic()
        if len(dynamic) > 1:
            raise DefinitionError(
                "More than one activity is dynamic:"
                f" {' and '.join(repr(each.name) for each in dynamic)}.",
                hint="Let one run all that no other is there for, or give each engine"
                " its own definitions.",
            )
        for activity in list(self.activities.values()):
            activity.call_signature.check_annotations()
        for workflow in list(self.workflows.values()):
            workflow.check_annotations()

    def check_resources(self, given: Mapping[Any, object]) -> None:
        """See that an engine has all resources that activities take.

        Raises:
            ResourceError: it lacks some.
        """
        lacking = [
            (name, parameter, key)
            for name, activity in sorted(self.activities.items())
            for parameter, key in activity.resources.items()
            if key not in given
            # Its transaction is the engine's own, unless it is given another's maker.
            and (not activity.transaction or activity.transaction[0] != parameter)
        ]
        if lacking:
            raise missing(lacking, given)


REGISTRY: Final = Registry(WORKFLOWS, ACTIVITIES, VERSIONS)
"""Everything that was decorated in this program."""

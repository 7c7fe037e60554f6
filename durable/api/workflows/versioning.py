"""Which version of a workflow's code a run goes to.

Versions of one name stand side by side. A run goes to the version that began it; where
that is not there, to the newest that says it is compatible. A run without a version
goes to the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from typing_extensions import TypedDict

from durable.api.signature import CallSignature
from durable.api.workflows.versions import Version, VersionRange
from durable.core.history.payload import Payloads
from durable.errors import (
    DefinitionError,
    InvalidOptionError,
    MigrationError,
    VersionDeprecatedError,
)
from durable.options import Duration

Versions: TypeAlias = dict[str, dict[str, Any]]
"""Workflows by name and by version; those without a version are not in it."""

VERSIONS: Final[Versions] = {}
"""Every decorated workflow of this program that has a version."""

_log: Final = logging.getLogger("durable.definitions")


class VersionOptions(TypedDict, total=False):
    """Options of one version of a workflow, on `version()`.

    Keys:
        compatible_with: versions whose runs this code goes on with, too, where their
            own is not there: like ">=1.2,<2".
        deprecated: the last day on which it may be started: like "2027-01-31".
        run_timeout: the longest one run may take; no code runs when it passes.
        execution_timeout: the longest the whole chain of runs may take.
        task_queue: where it runs; the engine's own queue by default.
        fail_on: exception classes that fail the run although they look like bugs;
            such as `NondeterminismError` and `UndecodableError` of this library.
        park_on: exception classes that park the run although they look like failures.
        checkpoint_every: events after which `durable.checkpoint()` is heeded; 1,000 by
            default.
    """

    compatible_with: str | None
    deprecated: str | date | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    task_queue: str | None
    fail_on: tuple[type[BaseException], ...]
    park_on: tuple[type[BaseException], ...]
    checkpoint_every: int


class WorkflowOptions(VersionOptions, total=False):
    """Options of a workflow, on the decorator.

    Keys:
        version: kept with each run, which goes to code of that version for ever: like
            "2.1.0". Several versions of one name may stand side by side.

    Others are those of `VersionOptions`.
    """

    version: str | None


class Release:
    """What a workflow's code says of its version.

    Args:
        version: as semver has it; None if the workflow has none.
        compatible_with: whose runs this code can go on with, besides its own.
        deprecated: the last day on which it may be started.
        where: what errors call the workflow.

    Raises:
        InvalidOptionError: one is malformed, or the others stand without a version.
    """

    __slots__ = ("compatible_with", "deprecated", "rules", "version")

    def __init__(
        self,
        version: str | None,
        compatible_with: str | None,
        deprecated: str | date | None,
        where: str,
    ) -> None:
        self.version = None
        if version is not None:
            self.version = Version(version, f"version {where}")
        elif compatible_with is not None or deprecated is not None:
            raise InvalidOptionError(
                f"compatible_with or deprecated is given {where}, which has no"
                " version.",
                hint="Give it one: @workflow(version='1.0.0', ...).",
            )
        self.compatible_with = None
        if compatible_with is not None:
            self.compatible_with = VersionRange(
                compatible_with, f"compatible_with {where}"
            )
        self.deprecated = _day(deprecated, where)
        self.rules: list[Rule] = []

    def takes(self, version: str) -> bool:
        """Whether this code can go on with runs of that version."""
        if self.version is not None and self.version.text == version:
            return True
        return self.compatible_with is not None and version in self.compatible_with

    def check_start(self, name: str, now: int) -> None:
        """Let a run begin, with a warning if that will be refused one day.

        Args:
            name: the workflow's name.
            now: microseconds since 1970.

        Raises:
            VersionDeprecatedError: that day has come.
        """
        if self.deprecated is None or self.version is None:
            return
        version, day = self.version.text, self.deprecated.isoformat()
        if datetime.fromtimestamp(now / 1_000_000, UTC).date() > self.deprecated:
            raise VersionDeprecatedError(
                f"Version {version} of workflow {name!r} was to be started until"
                f" {day} and no longer.",
                hint="Start a newer version. Runs that it has go on.",
            )
        _log.warning(
            "Version %s of workflow %r is deprecated: it can be started until %s.",
            version,
            name,
            day,
        )


def _day(value: object, where: str) -> date | None:
    if value is None or type(value) is date:
        return value
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise InvalidOptionError(
        f"deprecated {where} is {value!r}: give a day like '2027-01-31'."
    )


# --- side by side ---------------------------------------------------------------------


def enter(workflows: dict[str, Any], versions: Versions, workflow: Any) -> None:
    """Put a workflow among the others; the newest stands for its name."""
    name, version = workflow.name, workflow.release.version
    if version is None:
        workflows[name] = workflow
        versions.pop(name, None)
        return
    known = versions.setdefault(name, {})
    known[version.text] = workflow
    workflows[name] = newest(known)


def newest(known: dict[str, Any]) -> Any:
    """The one with the highest version."""
    return max(known.values(), key=lambda each: each.release.version)


def find(
    workflows: dict[str, Any], versions: Versions, name: str, version: str | None
) -> Any:
    """The code for a run; None if there is none.

    Args:
        workflows: one workflow for each name.
        versions: those that have versions.
        name: the run's workflow.
        version: the run's version.
    """
    default = workflows.get(name)
    if default is None or version is None or default.own_version == version:
        return default
    known = versions.get(name, {})
    if version in known:
        return known[version]
    fitting = [each for each in known.values() if each.release.takes(version)]
    if fitting:
        return max(fitting, key=lambda each: each.release.version)
    return default if default.release.takes(version) else None


# --- from one version to a newer one --------------------------------------------------


class Rule(NamedTuple):
    """How calls of older versions become calls of a newer one.

    Attributes:
        versions: from which versions.
        to: the newer one.
        function: takes the arguments of the older call, and makes the newer.
        signature: by which those arguments are read.
    """

    versions: VersionRange
    to: Version
    function: Callable[..., Any]
    signature: CallSignature

    def apply(self, name: str, input: Payloads) -> Payloads:
        """Make the input of a call of workflow `name` that of the newer one.

        Raises:
            MigrationError: the rule fails, or makes something else.
        """
        what = f"The rule {self.function.__qualname__}() of workflow {name!r}"
        try:
            args, kwargs = self.signature.unbind(self.signature.decode(input))
            call = self.function(*args, **kwargs)
        except Exception as error:
            raise MigrationError(
                f"{what}, which makes version {self.to.text}, failed:"
                f" {type(error).__name__}: {error}",
                hint="Mend the rule; the run goes on from where it was.",
            ) from error
        made = getattr(call, "definition", None)
        if made is None or (made.name, made.release.version) != (name, self.to):
            raise MigrationError(
                f"{what} returned {call!r} in place of a call of version"
                f" {self.to.text}.",
                hint="Return the call: the newer workflow with its new arguments.",
            )
        call.is_used = True
        newer: Payloads = call.input
        return newer


def find_chain(known: dict[str, Any], version: Version) -> list[Rule]:
    """The rules that lead from a version to the highest they reach; [] if none do.

    Of several ways there the shortest.
    """
    chains: list[list[Rule]] = [
        [rule, *find_chain(known, rule.to)]
        for each in known.values()
        for rule in each.release.rules
        if rule.to > version and version.text in rule.versions
    ]
    nothing: list[Rule] = []
    return max(chains, key=lambda chain: (chain[-1].to, -len(chain)), default=nothing)


def add_rule(
    workflow: Any, versions: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Have a function make calls of older versions those of a workflow.

    Raises:
        DefinitionError: the workflow has no version, or the function no signature that
            can be recorded.
        InvalidOptionError: the range is malformed.
    """
    name, to = workflow.name, workflow.release.version
    if to is None:
        raise DefinitionError(
            f"The workflow {name!r} has no version that runs could move to.",
            hint="Give it one: @workflow(version='2.0.0').",
        )
    found = VersionRange(versions, f"migrates_from of workflow {name!r}")
    signature = CallSignature(function, f"the rule {function.__qualname__}")
    workflow.release.rules.append(Rule(found, to, function, signature))
    return function

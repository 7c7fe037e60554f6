"""Which version of a workflow's code a run goes to.

Versions of one name stand side by side. A run goes to the version that began it; where
that is not there, to the newest that says it is compatible. A run without a version
goes to the newest.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from typing import Any, Final, TypeAlias

from durable.api.workflows.versions import Version, VersionRange
from durable.errors import InvalidOptionError, VersionDeprecatedError

Versions: TypeAlias = dict[str, dict[str, Any]]
"""Workflows by name and by version; those without a version are not in it."""

VERSIONS: Final[Versions] = {}
"""Every decorated workflow of this program that has a version."""

_log: Final = logging.getLogger("durable.definitions")


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

    __slots__ = ("compatible_with", "deprecated", "version")

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

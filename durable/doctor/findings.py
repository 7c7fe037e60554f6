"""What a check of a database can find."""

from __future__ import annotations

import enum

import msgspec

from durable.store.records import RunRecord


class Check(enum.Enum):
    """What is checked; the value is the name that commands and documents use."""

    POSITIONS = "V1"
    ENDS = "V2"
    STATUS = "V3"
    OUTCOMES = "V4"
    ATTEMPTS = "V5"
    TIMES = "V7"
    SUCCESSION = "V8"
    MESSAGES = "V9"
    PAYLOADS = "V10"
    ROWS = "V11"
    WAITING = "V12"
    LOST_WAKE_UP = "V13"
    LEASES = "V14"
    UNIQUE = "V15"
    INTEGRITY = "V18"
    CHECKPOINTS = "V19"
    FAMILY = "V20"
    STUCK = "stuck"
    IN_DOUBT = "in_doubt"
    LOCKED = "locked"
    NO_WORKER = "no_worker"
    OUTBOX = "outbox"
    EXPIRED_LEASE = "expired_lease"
    SQLITE_VERSION = "sqlite_version"
    PACKAGE_CLASH = "package_clash"

    @property
    def is_notice(self) -> bool:
        """Whether it is only advice: the database and its runs are in order."""
        return self is Check.SQLITE_VERSION


class RunKey(msgspec.Struct, frozen=True):
    """Which run a finding is about."""

    workflow_id: str
    run_id: str
    namespace: str = "default"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong; `run` is None if it is about no single run."""

    check: Check
    run: RunKey | None
    message: str


def key_of(record: RunRecord) -> RunKey:
    return RunKey(record.workflow_id, record.run_id, record.namespace)

"""How a run is started: what was said, and what goes for what was not."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

import msgspec
from typing_extensions import TypedDict

from durable import limits
from durable.api.activities.settings import turn_settings
from durable.api.interceptors.chains import checked_headers
from durable.api.interceptors.interceptor import StartWorkflowInput
from durable.api.messages.messages import SignalCall
from durable.api.workflows.child_options import (
    START_OPTIONS,
    refuse_others,
    retry_of,
    timeout_of,
)
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.api.workflows.workflow_definition import workflow_of
from durable.converter import json
from durable.core.history.commands import RetrySettings
from durable.core.history.payload import Payload, Payloads
from durable.errors import (
    CorruptHistoryError,
    DatabaseUnavailableError,
    InvalidCallError,
)
from durable.options import (
    ALLOW_DUPLICATE,
    REJECT_DUPLICATE,
    TERMINATE_EXISTING,
    USE_EXISTING,
    USE_SAME,
    Duration,
    IdConflictPolicy,
    IdReuse,
    IdReusePolicy,
    OnConflict,
    RetryPolicy,
    check_id,
    check_option_names,
    to_conflict_policy,
    to_microseconds,
    to_reuse_policy,
)
from durable.search.attributes import encode_attributes
from durable.search.conditions import Attribute
from durable.store.beginnings import NO_DEFAULTS, RunDefaults
from durable.store.queries import ReadNamespaces
from durable.store.records import NamespaceRecord
from durable.store.store import Store


class UpdateStartOptions(TypedDict, total=False):
    """Options of a start that comes with an update; see `Engine.start`."""

    id_reuse: IdReuse | None
    request_id: str | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    task_queue: str | None
    memo: dict[str, Any] | None
    retry: RetryPolicy | None
    delay: Duration | None
    attributes: Mapping[Attribute[Any], Any] | None
    priority: int | None
    fairness_key: str | None
    fairness_weight: int | None


class StartOptions(UpdateStartOptions, total=False):
    """What a start may be told beside its call; see `Engine.start`."""

    id: str | None
    on_conflict: OnConflict | None
    with_signal: SignalCall | None
    debounce: Duration | None
    debounce_max: Duration | None


_now: Final = time.monotonic
_TURN: Final = ("priority", "fairness_key", "fairness_weight")
_DEBOUNCE: Final = ("debounce", "debounce_max")
_NAMES: Final = StartOptions.__annotations__.keys()


class StartSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one run is started; durations in microseconds."""

    workflow_id: str | None = None
    on_conflict: IdConflictPolicy | None = None
    id_reuse: IdReusePolicy | None = None
    request_id: str | None = None
    run_timeout: int | None = None
    execution_timeout: int | None = None
    task_queue: str | None = None
    memo: dict[str, Any] = {}
    retry: RetrySettings | None = None
    delay: int | None = None
    attributes: dict[str, Payload] = {}
    priority: int | None = None
    fairness_key: str | None = None
    fairness_weight: int | None = None
    debounce: int | None = None
    debounce_max: int | None = None
    first: Any = None
    """A signal's event or an update that the first turn sees, if any."""

    @property
    def conflict_policy(self) -> IdConflictPolicy:
        """What was chosen, or the default."""
        return self.on_conflict or USE_SAME

    @property
    def reuse_policy(self) -> IdReusePolicy:
        """What was chosen, or the default: what else has been said goes before."""
        if self.id_reuse is not None:
            return self.id_reuse
        # An id of our own making was never used. Whoever wants the open run replaced,
        # or some run to have a message, cannot mean one that has closed.
        is_new = (
            self.workflow_id is None
            or self.on_conflict is TERMINATE_EXISTING
            or (self.first is not None and self.on_conflict is USE_EXISTING)
        )
        return ALLOW_DUPLICATE if is_new else REJECT_DUPLICATE


def start_settings(options: StartOptions) -> StartSettings:
    """Check the options of a start; the signal is left to others.

    Raises:
        InvalidIdError, InvalidOptionError, InvalidDurationError: one breaks its rule.
    """
    if not options.keys() <= _NAMES:
        check_option_names(options, _NAMES, "option of a start")
    # Most starts say little, and every run passes here.
    said: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None and name in _SETTINGS:
            setting, read = _SETTINGS[name]
            said[setting] = read(value)
    return StartSettings(**said)


def _turn(value: object, name: str) -> Any:
    return turn_settings({name: value}, "of a start")[name]


_SETTINGS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "id": ("workflow_id", partial(check_id, name="the workflow id")),
    "on_conflict": ("on_conflict", to_conflict_policy),
    "id_reuse": ("id_reuse", to_reuse_policy),
    "request_id": ("request_id", partial(check_id, name="the request id")),
    "run_timeout": ("run_timeout", partial(timeout_of, name="run_timeout")),
    "execution_timeout": (
        "execution_timeout",
        partial(timeout_of, name="execution_timeout"),
    ),
    "task_queue": ("task_queue", partial(check_id, name="the task queue")),
    "memo": ("memo", lambda memo: memo or {}),
    "retry": ("retry", partial(retry_of, where="of a start")),
    "delay": ("delay", partial(to_microseconds, name="delay")),
    "attributes": ("attributes", partial(encode_attributes, where="attributes")),
    **{name: (name, partial(_turn, name=name)) for name in _TURN},
    **{name: (name, partial(to_microseconds, name=name)) for name in _DEBOUNCE},
}
"""What an option of a start becomes, and how it is read."""


_read_defaults: Final = msgspec.json.Decoder(RunDefaults).decode


def defaults_of(record: NamespaceRecord) -> RunDefaults:
    """What a namespace has for the runs that begin in it.

    Raises:
        CorruptHistoryError: no release up to this one wrote such a row.
    """
    if record.defaults is None:
        return NO_DEFAULTS
    try:
        return _read_defaults(record.defaults)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CorruptHistoryError(
            f"Namespace {record.namespace!r} has defaults that cannot be read:"
            f" {error}.",
            hint="A newer release may have written them, or somebody else: give it"
            " others with 'durable namespaces update'.",
        ) from None


class KnownDefaults:
    """What a namespace has for the runs that begin in it, as of a moment ago.

    Whoever starts a run asks first. So many at once share one read, and there is none
    while what is known is new.

    Attributes:
        known: as it was read last.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        self.known = NO_DEFAULTS
        self._store = store
        self._namespace = namespace
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    def is_new(self) -> bool:
        """Whether there is nothing to read now."""
        read_at = self._read_at
        return read_at is not None and _now() < read_at + limits.DEFAULTS_SECONDS

    def forget(self) -> None:
        """They were changed here: what is read from now on counts."""
        self._read_at = self._reading = None

    async def read(self) -> None:
        """Read them, unless they are new; while the database is away, they stay.

        Raises:
            StoreError: the database refused, or they cannot be read.
        """
        if self.is_new():
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        me, began = asyncio.current_task(), _now()
        try:
            found = await self._store.read(ReadNamespaces(self._namespace))
        except DatabaseUnavailableError:
            if self._read_at is None:
                raise
            return  # what waits to be written then says more
        known = defaults_of(found[0]) if found else NO_DEFAULTS
        if self._reading is me:
            self.known, self._read_at = known, began


class WantedRun(msgspec.Struct):
    """A run that is to be started, and how."""

    definition: Workflow[Any, Any] | None
    name: str
    input: Payloads
    how: StartSettings
    now: int
    workflow_id: str
    run_id: str
    headers: dict[str, str] = {}

    def to_intercept(self) -> StartWorkflowInput:
        """The start, as interceptors see it."""
        return StartWorkflowInput(
            workflow_type=self.name,
            workflow_id=self.how.workflow_id,
            input=self.input,
        )

    def as_given(self, given: StartWorkflowInput) -> WantedRun:
        """The start, as interceptors want it.

        Raises:
            InvalidIdError, InvalidCallError: the id or the headers break a rule.
        """
        headers = checked_headers(given.headers, f"of a start of {self.name!r}")
        how, workflow_id = self.how, given.workflow_id
        if workflow_id != how.workflow_id:
            check_id(workflow_id, "the workflow id that an interceptor set")
            how = msgspec.structs.replace(how, workflow_id=workflow_id)
        if how.first is not None and headers:
            first = msgspec.structs.replace(how.first, headers=headers)
            how = msgspec.structs.replace(how, first=first)
        return msgspec.structs.replace(
            self,
            input=given.input,
            how=how,
            workflow_id=workflow_id or self.workflow_id,
            headers={**headers},
        )


def what_to_start(
    call: object, args: tuple[Any, ...]
) -> tuple[Workflow[Any, Any] | None, str, Payloads]:
    """Return the workflow of a call, its name and its arguments.

    Raises:
        InvalidCallError: it is no call.
    """
    if isinstance(call, WorkflowCall):
        if args:
            raise InvalidCallError(
                "Arguments were given beside a workflow call.",
                hint=f"Put them into the call: {call.definition.name}(...).",
            )
        return call.definition, call.definition.name, call.input
    if isinstance(call, str):
        check_id(call, "the workflow's name")
        payloads = tuple(
            json.encode(value, Any, f"argument {index} of {call!r}")
            for index, value in enumerate(args, start=1)
        )
        return None, call, payloads
    workflow = workflow_of(call)
    if workflow is not None:
        raise InvalidCallError(
            f"The workflow {workflow.name!r} was given, not a call of it.",
            hint=f"Call it: {workflow.function.__qualname__}(...).",
        )
    hint = "Give a call of a @workflow function, such as place_order(order)."
    if inspect.iscoroutine(call):
        call.close()  # it would warn that nobody awaited it
    raise InvalidCallError(f"{call!r} is no workflow call.", hint=hint)


def with_call_options(call: object, how: StartSettings) -> StartSettings:
    """Fill in what the call's own options say and the start leaves open."""
    options = getattr(call, "child_options", None)
    if not options or not isinstance(call, WorkflowCall):
        return how
    refuse_others(options, START_OPTIONS, call.definition.name, "an engine's start")
    own = start_settings(cast("StartOptions", options))
    both: dict[str, Any] = {
        name: getattr(how, name) or getattr(own, name)
        for name in StartSettings.__struct_fields__
    }
    both["memo"] = {**own.memo, **how.memo}
    both["attributes"] = {**own.attributes, **how.attributes}
    return StartSettings(**both)

"""`@activity`: a function whose result is recorded, so that it is not run again.

Inside a workflow, awaiting a call schedules the activity and waits for its recorded
outcome. Anywhere else it simply runs the function.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import CodeType
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeGuard,
    TypeVar,
    overload,
)

from typing_extensions import Unpack

from durable.api.activities.activity_context import CURRENT
from durable.api.activities.effects import (
    check_transaction,
    check_verify,
    effect_named,
)
from durable.api.activities.kinds import USUAL, ActivityKind, Verify, check_kind
from durable.api.activities.settings import settings_of
from durable.api.definitions import (
    ACTIVITIES,
    AsyncFunction,
    Unchanging,
    check_function,
    check_name,
    decorate,
    import_definition,
    register,
)
from durable.api.resources import find_resource, name_of, resources_of
from durable.api.sagas.compensation import Compensation
from durable.api.sagas.ledger import find_ledger
from durable.api.signature import CallSignature, shown
from durable.core.history.payload import Payloads
from durable.core.runtime import ActivityTarget, WorkflowRuntime, find_runtime
from durable.errors import DefinitionError, InvalidCallError
from durable.options import (
    ActivityCancellationType,
    ActivityOptions,
    RetryBudget,
    RetryPolicy,
    check_option_names,
    to_label,
)

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_START_TO_CLOSE: Final = 60.0
DEFAULTS: Final = ActivityOptions(
    retry=RetryPolicy(),
    start_to_close_timeout=DEFAULT_START_TO_CLOSE,
    schedule_to_close_timeout=None,
    schedule_to_start_timeout=None,
    heartbeat_timeout=None,
    task_queue=None,
    priority=None,
    fairness_key=None,
    fairness_weight=1,
    cancellation_type=ActivityCancellationType.TRY_CANCEL,
    effect="idempotent",
    at_most_once=False,
    in_doubt="raise",
    local=False,
    match_arguments=True,
    summary=None,
)
_ELSEWHERE: Final = {
    **{
        name: f"It is of the definition: @activity({name}=...)."
        for name in (
            *("name", "compensate", "run_in", "cancel_thread", "auto_heartbeat"),
            *("verify", "dynamic", "retry_budget"),
        )
    },
}
"""What no option of a single call is."""


class Activity(Unchanging, Generic[P, R]):
    """A decorated activity: call it like the function, await the result.

    Attributes:
        compensate: the activity that undoes it, if it was given one.
        resources: the keys of what the engine gives to it, by parameter.
        runs_as: where its function runs, and for what.
        lane: "loop", "thread" or "process": what it needs a place of.
        transaction: the parameter that takes the transaction of its result, and its
            class, if it is of that effect.
    """

    kind: ClassVar[str] = "activity"
    skipped: tuple[str, ...] = ()
    """Its parameters that no call has: the object of a method."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: ActivityOptions,
        compensate: Activity[..., Any] | None = None,
        kind: ActivityKind = USUAL,
    ) -> None:
        self.function = function
        self.origin = function
        self.name = name
        self.is_async = inspect.iscoroutinefunction(function)
        self.runs_as = kind
        self.is_heard = kind.auto_heartbeat
        self.retry_budget = kind.retry_budget
        self.lane = "loop" if self.is_async else kind.run_in
        self.call_signature = CallSignature(
            function, name, skip=self.skipped, takes_resources=True
        )
        self.resources = self.call_signature.resources
        self.transaction = check_transaction(
            *(name, self.resources),
            is_wanted=options.get("effect") == "transaction",
            is_async=self.is_async,
            lane=self.lane,
        )
        self._options = options
        self._target = ActivityTarget(
            name,
            settings_of(name, options, kind),
            to_label(options.get("summary"), f"summary of activity {name!r}"),
            self.call_signature.differing_input
            if options.get("match_arguments", True)
            else _any_input,
        )
        self.compensate = compensate
        self._compensation = (
            None if compensate is None else self._make_compensation(compensate)
        )
        functools.update_wrapper(self, function, updated=())
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, R]:
        """Schedule the activity (inside a workflow) or run it (anywhere else).

        The coroutine raises what the activity raised, once its retries are used up.

        Raises:
            InvalidCallError: the arguments do not fit the signature.
            PayloadError: an argument cannot be recorded as it is.
        """
        runtime = find_runtime()
        if runtime is None:
            return self._run(args, kwargs)
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        code, instruction = frame.f_code, frame.f_lasti
        call = self._schedule(runtime, args, kwargs, code, instruction)
        runtime.note_call(call, self.name, code, instruction)
        return call

    async def _schedule(
        self,
        runtime: WorkflowRuntime,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        code: CodeType,
        instruction: int,
    ) -> R:
        signature = self.call_signature
        values = signature.bind(args, kwargs)
        # Live, a value that would change is refused; what was recorded passed then,
        # unless the history says that something of its turn did not.
        if runtime.trusts_arguments:
            payloads = signature.encode_again(values)
        else:
            try:
                payloads = signature.encode(values)
            except Exception:
                runtime.has_refused = True
                raise
        compensation = self._compensation
        ledger = None if compensation is None else find_ledger()
        if compensation is None or ledger is None:
            payload = await runtime.execute_activity(
                self._target, payloads, code, instruction
            )
        else:
            payload = await ledger.run_step(
                compensation, runtime, payloads, code, instruction
            )
        result: R = signature.decode_result(payload)
        return result

    def _make_compensation(self, compensate: Activity[..., Any]) -> Compensation:
        if compensate._options.get("summary") is None:
            compensate = compensate.options(summary=f"undoes {self.name}")
        return Compensation(self.call_signature, compensate, self._target)

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        function = self.function
        if self.resources:
            function, args, kwargs = self._fill_in(args, kwargs)
        else:
            self.call_signature.bind(args, kwargs)
        result: Any = (
            function(*args, **kwargs)
            if self.is_async
            else await asyncio.to_thread(function, *args, **kwargs)
        )
        # A plain function may give a coroutine: one that wraps an async function.
        return await result if inspect.isawaitable(result) else result  # type: ignore[no-any-return]  # of R, by the function's own annotation

    def _fill_in(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Put the resources that are not passed among the arguments of a plain call.

        Raises:
            InvalidCallError: the arguments do not fit, or there is no engine here.
        """
        whole = inspect.signature(self.function)
        try:
            bound = whole.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidCallError(
                f"{self.name}{shown(whole)} was called wrongly: {error}."
            ) from None
        for parameter, key in self.call_signature.resources.items():
            if parameter not in bound.arguments:
                hint = f"Pass it: {self.name}(..., {parameter}=...)."
                kwargs[parameter] = self._find_here(key, parameter, hint)
        return self.function, args, kwargs

    def _find_here(self, key: object, parameter: str, hint: str) -> object:
        """A resource for a plain call: within an activity, its engine has them."""
        context = CURRENT.get()
        if context is None:
            raise InvalidCallError(
                f"Activity {self.name!r} was called without an engine, and so without"
                f" its resource {name_of(key)}.",
                hint=hint,
            )
        return find_resource(context.resources, key, self.name, parameter)

    def supply(
        self, kwargs: dict[str, Any], resources: Mapping[Any, object]
    ) -> Callable[..., Any]:
        """Put an engine's resources among the arguments; give what takes them.

        Raises:
            ResourceError: the engine was not given one.
        """
        for parameter, key in self.call_signature.resources.items():
            kwargs[parameter] = find_resource(resources, key, self.name, parameter)
        return self.function

    def verify_with(self, resources: Mapping[Any, object]) -> Verify:
        """What finds out what an attempt in doubt has done; takes the arguments.

        Raises:
            DefinitionError: this code has none.
            ResourceError: the engine was not given one that it takes.
        """
        verify = self.runs_as.verify
        if verify is None:
            raise DefinitionError(
                f"Activity {self.name!r} has no verify in the code that runs here.",
                hint="Run code that has it, as when the activity was called.",
            )
        taken = {
            parameter: find_resource(resources, key, self.name, parameter)
            for parameter, key in resources_of(verify).items()
        }
        return functools.partial(verify, **taken) if taken else verify

    def options(self, **options: Unpack[ActivityOptions]) -> Self:
        """The same activity under other options, for this call.

        Raises:
            InvalidOptionError, InvalidDurationError: an option has a wrong value.
        """
        merged = merge_options(self._options, options)
        return type(self)(
            self.function, self.name, merged, self.compensate, self.runs_as
        )

    @property
    def given_options(self) -> ActivityOptions:
        """Its options, as they were written, defaults included."""
        return self._options

    def __repr__(self) -> str:
        return f"<activity {self.name!r}>"

    def __reduce__(self) -> Any:
        """Pickle by registered name and module, with the options of `options()`."""
        known = ACTIVITIES.get(self.name)
        is_registered = known is not None and known._options == self._options
        options = None if is_registered else dict(self._options)
        return find_activity, (self.name, self.origin.__module__, options)


def find_activity(
    name: str, module: str = "__main__", options: Mapping[str, Any] | None = None
) -> Activity[Any, Any]:
    """The activity of that name; how a pickled one is found again.

    Args:
        name: its name.
        module: the module that defines it, imported if the name is not known.
        options: what `Activity.options` is to be given; None for nothing.

    Raises:
        NotRegisteredError: there is none.
    """
    found: Activity[Any, Any] = import_definition(ACTIVITIES, name, module, "activity")
    return found if options is None else found.options(**options)


def _any_input(recorded: Payloads, found: Payloads) -> str | None:
    """Accept any arguments, but not another number of them."""
    return None if len(recorded) == len(found) else "the number of arguments"


def merge_options(base: ActivityOptions, more: Mapping[str, Any]) -> ActivityOptions:
    """Put more options over others.

    Raises:
        InvalidOptionError: one has a name that none has, or two contradict each other.
    """
    check_option_names(more, DEFAULTS, "activity option", _ELSEWHERE)
    found: dict[str, Any] = {**base, **more}
    if "at_most_once" in more:
        found["effect"] = effect_named(more, base.get("effect"))
    elif "effect" in more:
        found["at_most_once"] = more["effect"] == "once"
    merged: ActivityOptions = found  # type: ignore[assignment]  # names were checked above
    return merged


class ActivityDecorator:
    """What `@activity(...)` with options returns, to type checkers.

    Not a `Protocol`, and neither is the next one: where options are of type Any, mypy
    compares the two, and by their members that takes minutes.
    """

    @overload
    def __call__(self, function: AsyncFunction[P, R], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError


class CompensatedDecorator(Generic[P, R_co]):
    """What `@activity(compensate=...)` returns, for a compensation of (R, *P).

    It takes functions of P that give R. If P is empty, the compensation wants the
    result alone, and the parameters are free. A function that gives nothing is checked
    when it is decorated, and not by type checkers.
    """

    @overload
    def __call__(
        self: CompensatedDecorator[P, R], function: AsyncFunction[P, R], /
    ) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: AsyncFunction[Q, None], /) -> Activity[Q, None]: ...
    @overload
    def __call__(
        self: CompensatedDecorator[[], R], function: AsyncFunction[Q, R], /
    ) -> Activity[Q, R]: ...
    @overload
    def __call__(
        self: CompensatedDecorator[P, R], function: Callable[P, R], /
    ) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[Q, None], /) -> Activity[Q, None]: ...
    @overload
    def __call__(
        self: CompensatedDecorator[[], R], function: Callable[Q, R], /
    ) -> Activity[Q, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError


@overload
def activity(function: AsyncFunction[P, R], /) -> Activity[P, R]: ...
@overload
def activity(function: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    compensate: Callable[Concatenate[R, P], Coroutine[None, None, object]],
    name: str | None = None,
    run_in: Literal["thread", "process"] = "thread",
    cancel_thread: bool = True,
    auto_heartbeat: bool = False,
    verify: Verify | None = None,
    retry_budget: RetryBudget | None = None,
    dynamic: Literal[False] = False,
    **options: Unpack[ActivityOptions],
) -> CompensatedDecorator[P, R]: ...
@overload
def activity(
    *,
    compensate: Callable[[], Coroutine[None, None, object]] | None = None,
    name: str | None = None,
    run_in: Literal["thread", "process"] = "thread",
    cancel_thread: bool = True,
    auto_heartbeat: bool = False,
    verify: Verify | None = None,
    retry_budget: RetryBudget | None = None,
    dynamic: bool = False,
    **options: Unpack[ActivityOptions],
) -> ActivityDecorator: ...
def activity(
    function: Any = None,
    /,
    *,
    compensate: Any = None,
    name: str | None = None,
    run_in: Literal["thread", "process"] = "thread",
    cancel_thread: bool = True,
    auto_heartbeat: bool = False,
    verify: Verify | None = None,
    retry_budget: RetryBudget | None = None,
    dynamic: bool = False,
    **options: Unpack[ActivityOptions],
) -> Any:
    """Make a function an activity: its effects happen once its result is recorded.

    Works with and without arguments, on async functions and on plain ones, which run
    in a thread with full context, or in a process of their own.

    Args:
        function: the function.
        compensate: the activity that undoes it; a `Saga` calls it. It takes the result
            and then the same parameters, by the same names; or the result alone; or
            the parameters alone. What it takes first is the result if it is called
            like no parameter.
        name: what histories call it; the function's name by default. Keep it when you
            rename the function while workflows are running.
        run_in: where a plain function runs: "thread", or "process" for what computes.
        cancel_thread: False if nothing may be raised in a plain function that is asked
            to stop: it has to look at `is_activity_cancelled()`.
        auto_heartbeat: True if its worker is to say for it, as long as it lives, that
            it goes on; then `heartbeat()` is for details alone.
        verify: of effect "once": what runs in place of the next attempt after one in
            doubt. It takes the activity's arguments, and resources of its own, may ask
            `activity_info()` for the key, and gives `Done(result)`; or `NotDone()`,
            and the function runs. What it raises means that it does not know yet: it
            is asked again as the retry policy says, and then `in_doubt` counts.
        retry_budget: how many retries of it a worker begins, by its first attempts; one
            for which nothing is left waits.
        dynamic: True if it runs each activity that this worker does not know. It takes
            `*args`; `activity_info().activity_type` says what was called.
        **options: see `ActivityOptions`. Durations are `timedelta`, seconds, or text
            like "30s".

    Raises:
        DefinitionError: the function cannot be an activity, or its name is taken; or
            its compensation is no activity, or does not fit it.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """
    return decorate(
        _define,
        function,
        name=name,
        compensate=compensate,
        options=merge_options(DEFAULTS, options),
        kind=check_kind(
            *(run_in, cancel_thread, dynamic, auto_heartbeat, verify, retry_budget)
        ),
    )


def _define(
    function: Any,
    /,
    *,
    name: str | None,
    compensate: object,
    options: ActivityOptions,
    kind: ActivityKind,
) -> Activity[Any, Any]:
    check_function(function, "activity")
    checked = check_name(function.__name__ if name is None else name, "activity")
    definition: Activity[Any, Any] = Activity(
        function, checked, options, find_undoing(compensate, checked), kind
    )
    check_fit(definition)
    register(ACTIVITIES, definition, "activity")
    return definition


def check_fit(activity: Activity[Any, Any]) -> None:
    """See that a function can run where it is to run, and take what it will be given.

    Raises:
        DefinitionError: it cannot.
    """
    kind, where = activity.runs_as, f"Activity {activity.name!r}"
    check_verify(
        *(kind.verify, activity.given_options.get("effect"), activity.name),
        *(activity.call_signature.signature, activity.skipped),
    )
    if activity.is_async and kind.run_in == "process":
        raise DefinitionError(
            f"{where} is async, but is to run in a process.",
            hint="Make it a plain function: what waits needs no process of its own.",
        )
    if activity.is_async and not kind.cancel_thread:
        raise DefinitionError(
            f"{where} is async, and runs in no thread: cancel_thread means nothing.",
            hint="Put what must not be cancelled into asyncio.shield().",
        )
    if kind.run_in == "process" and activity.resources:
        named = ", ".join(map(repr, activity.resources))
        raise DefinitionError(
            f"{where} is to run in a process, but takes the resource {named}, which"
            " only the engine's own process has.",
            hint="Open what it needs within the function, or run it in a thread.",
        )
    if kind.dynamic and not activity.call_signature.takes_anything:
        raise DefinitionError(
            f"{where} is dynamic, but does not take any arguments that there may be.",
            hint="Write: def run_any(*args: Any) -> Any.",
        )


def find_undoing(compensate: object, name: str) -> Activity[..., Any] | None:
    """What undoes an activity.

    Raises:
        DefinitionError: it is no activity.
    """
    if compensate is None or is_activity(compensate):
        return compensate
    raise DefinitionError(
        f"compensate of activity {name!r} is {compensate!r}, which is no activity.",
        hint="Put @activity on it too: undoing has effects, and they are recorded.",
    )


def is_activity(value: object) -> TypeGuard[Activity[..., Any]]:
    """Whether a value is an activity."""
    return isinstance(value, Activity)

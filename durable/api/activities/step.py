"""`step()`: an activity that is a closure, for code that has no function of a module.

A closure is of one process and one run, so a step runs where its run is owned, and is
never left to others. Whoever takes the run over replays it, and is handed the closure
again by that; until then nothing of the step begins.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine
from types import CodeType
from typing import Any, Final, TypeVar, overload

import msgspec
from typing_extensions import Unpack

from durable.api.activities.activity import (
    DEFAULTS,
    Activity,
    merge_options,
)
from durable.api.activities.kinds import USUAL
from durable.api.activities.settings import settings_of
from durable.api.definitions import check_name
from durable.api.signature import CallSignature, annotated, gives_coroutine
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget, WorkflowRuntime, find_runtime
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.options import ActivityOptions, to_label

T = TypeVar("T")
_NO_KEY: Final = object()
_NOT_OF_STEPS: Final = {
    "verify": "what a closure has done can be asked of nobody once its process is gone",
    "run_in": "its closure is of the process that owns its run",
    "task_queue": "it runs in the process that owns its run",
    **dict.fromkeys(
        ("priority", "fairness_key", "fairness_weight"), "it waits in no queue"
    ),
    "match_arguments": "it has no arguments; leave `key` out to compare nothing",
}


class StepSignature(CallSignature):
    """How a body is called, with nothing, and how its result is typed."""

    def __init__(self, body: Callable[..., Any], name: str, returns: Any) -> None:
        self.function = body
        self.name = name
        self.resources = {}
        self._result_label = f"the result of step {name!r}"
        self._result_decode = None
        self._result_hint = returns
        self._hints = None if returns is None else ()
        self._names = self._labels = ()
        self._rest_hint, self._is_checked = Any, False

    def _resolve(self) -> None:
        what: Any = self.function
        while isinstance(what, functools.partial):
            what = what.func
        if isinstance(what, Activity):
            self._result_hint = what.call_signature.result_hint()
        else:
            try:
                found = typing.get_type_hints(annotated(what))
            except (NameError, TypeError, AttributeError) as error:
                raise DefinitionError(
                    f"The annotation of what step {self.name!r} returns cannot be"
                    f" resolved: {error}.",
                    hint="Name a class of a module there, or give step(returns=...).",
                ) from None
            self._result_hint = found.get("return", Any)
        self._hints = ()

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return args

    def unbind(self, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        return values, {}

    def decode(self, payloads: Payloads) -> list[Any]:
        """What is recorded beside the name is the digest of a key."""
        return []


class Step(Activity[[], Any]):
    """The body of a step, as what runs attempts knows an activity."""

    def __init__(
        self, function: Callable[[], Any], name: str, signature: StepSignature
    ) -> None:
        self.function = self.origin = function
        self.name = name
        self.is_async = gives_coroutine(function)
        self.runs_as = USUAL
        self.is_heard = False
        self.lane = "loop" if self.is_async else "thread"
        self.call_signature = signature
        self.resources = {}
        self.transaction = self.compensate = self.retry_budget = None

    def replaced_by(self, fake: Callable[[], Any]) -> Step:
        """A step that calls something else, and gives its result as this one."""
        return Step(fake, self.name, self.call_signature)  # type: ignore[arg-type]  # set above

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"


@overload
def step(
    name: str,
    body: Callable[[], Awaitable[T]],
    *,
    key: object = ...,
    returns: Any = None,
    **options: Unpack[ActivityOptions],
) -> Coroutine[Any, Any, T]: ...
@overload
def step(
    name: str,
    body: Callable[[], T],
    *,
    key: object = ...,
    returns: Any = None,
    **options: Unpack[ActivityOptions],
) -> Coroutine[Any, Any, T]: ...
def step(
    name: str,
    body: Callable[[], Any],
    *,
    key: object = _NO_KEY,
    returns: Any = None,
    **options: Unpack[ActivityOptions],
) -> Coroutine[Any, Any, Any]:
    """Run a closure and keep its result: an activity without a function of its own.

        answer = await step("ask", lambda: model.ask(prompt), key=prompt, returns=str)

    It is retried, timed, cancelled and shown as activities are, under its name. It runs
    in the process that owns the run, and outside of workflow code: an async body on the
    loop, a plain one in a thread. So it may do what workflow code may not. What it
    changes of the workflow's variables is lost on replay: return it. Called outside of
    a workflow, the body simply runs.

    Args:
        name: what histories, metrics and spans call it; of a few values, as they count
            by it.
        body: a callable without arguments.
        key: what the body depends on, as plain data. A digest of it is recorded, and a
            replay that comes with another one finds the code changed. Without one, only
            the name and the order count.
        returns: what the result is, if the body is not annotated. Without either it is
            plain data: what would come back as something else, such as a dataclass or a
            tuple, is refused once the body has returned, and parks the run.
        **options: see `ActivityOptions`; but no `task_queue`, and no `match_arguments`.

    Raises:
        DefinitionError: the name is none, or an annotation means nothing.
        InvalidCallError: the body takes arguments, or the key is no data.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """
    check_name(name, "step")
    _check_body(name, body)
    signature = StepSignature(body, name, returns)
    made = Step(body, name, signature)
    input = () if key is _NO_KEY else (_digest(name, key),)
    settings, summary = _USUAL, None
    if options:
        merged = _merge(name, options)
        settings = settings_of(name, merged)
        summary = to_label(merged.get("summary"), f"summary of step {name!r}")
        settings = msgspec.structs.replace(settings, is_step=True)
    runtime = find_runtime()
    if runtime is None:
        return made._run((), {})  # pyright: ignore[reportPrivateUsage]  # it is one
    signature.check_annotations()
    target = ActivityTarget(name, settings, summary, _differing_key, body=made)
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    code, instruction = frame.f_code, frame.f_lasti
    call = _schedule(runtime, target, input, signature, code, instruction)
    runtime.note_call(call, name, code, instruction)
    return call


async def _schedule(
    runtime: WorkflowRuntime,
    target: ActivityTarget,
    input: Payloads,
    signature: StepSignature,
    code: CodeType,
    instruction: int,
) -> Any:
    payload = await runtime.execute_activity(target, input, code, instruction)
    return signature.decode_result(payload)


def _check_body(name: str, body: object) -> None:
    if not callable(body):
        raise InvalidCallError(
            f"The body of step {name!r} is a {type(body).__name__}, which cannot be"
            " called.",
            hint="Give a function without arguments: `lambda: fetch(url)`, and not"
            " `fetch(url)`.",
        )
    try:
        inspect.signature(body).bind()
    except TypeError as error:
        raise InvalidCallError(
            f"The body of step {name!r} cannot be called without arguments: {error}.",
            hint="Bind them: `lambda: fetch(url)`, or functools.partial(fetch, url).",
        ) from None
    except ValueError:  # one of C code does not say what it takes
        return


def _merge(name: str, options: ActivityOptions) -> ActivityOptions:
    for wrong, reason in _NOT_OF_STEPS.items():
        if wrong in options:
            raise InvalidOptionError(
                f"{wrong} was given to step {name!r}: {reason}.",
                hint="What is to run elsewhere is an @activity of a module.",
            )
    if options.get("effect") == "transaction":
        raise InvalidOptionError(
            f"effect of step {name!r} is 'transaction': its body takes nothing, and so"
            " no connection.",
            hint="What is committed with its result is an @activity.",
        )
    return merge_options(DEFAULTS, options)


# --- keys -----------------------------------------------------------------------------


def _digest(name: str, key: object) -> Payload:
    try:
        data = msgspec.json.encode(key, enc_hook=_plain, order="deterministic")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidCallError(
            f"The key of step {name!r} is a {type(key).__name__}, which is no plain"
            f" data: {error}.",
            hint="Give what the body depends on as strings, numbers, lists or dicts.",
        ) from None
    text = hashlib.sha256(data).hexdigest()
    return Payload(json=msgspec.Raw(f'"sha256:{text}"'.encode()))


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"there is a {type(value).__name__} in it")
    return dump(mode="json")


def _differing_key(recorded: Payloads, found: Payloads) -> str | None:
    return f"the key (recorded {_shown(recorded)}, now {_shown(found)})"


def _shown(digest: Payloads) -> str:
    return "|".join(bytes(one.json).decode().strip('"') for one in digest) or "none"


_USUAL: Final = msgspec.structs.replace(settings_of("step", DEFAULTS), is_step=True)

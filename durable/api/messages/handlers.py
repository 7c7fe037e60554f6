"""Functions as handlers of signals, queries and updates, and setting them at run time.

A handler gets payloads and gives a payload; here they become the arguments and the
result of a function, typed by its annotations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from durable.api.messages.messages import Signal, checks_handlers
from durable.api.signature import CallSignature, gives_coroutine
from durable.core.history.payload import NULL, Payload, Payloads
from durable.core.runtime import Handler, MessageKind, get_runtime
from durable.errors import DefinitionError, InvalidOptionError
from durable.options import HandlerUnfinishedPolicy, check_id

T = TypeVar("T")
Unfinished: TypeAlias = HandlerUnfinishedPolicy | Literal["warn", "abandon"]
_Function: TypeAlias = Callable[..., Any]
MESSAGE_NAME: Final = "the message's name"
"""How errors call the first parameter of a dynamic handler."""


def unfinished_policy(value: object) -> HandlerUnfinishedPolicy:
    """Read the option `unfinished`.

    Raises:
        InvalidOptionError: it is neither a policy nor the text of one.
    """
    try:
        return HandlerUnfinishedPolicy(value)
    except ValueError:
        raise InvalidOptionError(
            f"unfinished is {value!r}: give a HandlerUnfinishedPolicy, or 'warn' or"
            " 'abandon'."
        ) from None


def make_handler(
    kind: MessageKind,
    function: _Function,
    signature: CallSignature,
    *,
    is_dynamic: bool,
    is_async: bool,
    unfinished: HandlerUnfinishedPolicy,
    validator: _Function | None,
) -> Handler:
    """Make a function a handler.

    Args:
        kind: of which messages.
        function: called with the decoded arguments.
        signature: of the arguments, without the name that a dynamic handler gets.
        is_dynamic: call it with the message's name before the arguments.
        is_async: calling it gives a coroutine.
        unfinished: whether it is missed when the run ends first.
        validator: called with the same arguments before an update is accepted.
    """

    def bind(
        function: _Function, name: str, input: Payloads, *, is_async: bool
    ) -> Callable[[], Any]:
        args, kwargs = signature.unbind(signature.decode(input))
        if is_dynamic:
            args = [name, *args]
        if is_async:
            return functools.partial(function, *args, **kwargs)
        return functools.partial(_call_plain, function, kind, name, args, kwargs)

    def bind_handler(name: str, input: Payloads) -> Callable[[], Any]:
        return bind(function, name, input, is_async=is_async)

    def validate(name: str, input: Payloads) -> None:
        assert validator is not None  # noqa: S101 - see below
        bind(validator, name, input, is_async=False)()

    return Handler(
        bind_handler,
        is_async=is_async,
        encode=_encode_nothing if kind == "signal" else signature.encode_result,
        validate=None if validator is None else validate,
        warns_unfinished=unfinished is HandlerUnfinishedPolicy.WARN,
    )


def _encode_nothing(_: Any) -> Payload:
    return NULL


def _call_plain(
    function: _Function,
    kind: MessageKind,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
) -> Any:
    result: object = function(*args, **kwargs)
    if isinstance(result, Coroutine):
        result.close()
        raise DefinitionError(
            f"The handler of {kind} {name!r} is a plain function, yet it returned a"
            " coroutine, which nobody awaits.",
            hint="Write it as an `async def` that awaits it.",
        )
    return result


# --- at run time ----------------------------------------------------------------------


@overload
def set_signal_handler(
    name: Signal[T],
    handler: Callable[[T], object] | None,
    /,
    *,
    unfinished: Unfinished = ...,
) -> None: ...
@overload
def set_signal_handler(
    name: str | None,
    handler: Callable[..., object] | None,
    /,
    *,
    unfinished: Unfinished = ...,
) -> None: ...
def set_signal_handler(
    name: Signal[Any] | str | None,
    handler: _Function | None,
    /,
    *,
    unfinished: Unfinished = HandlerUnfinishedPolicy.WARN,
) -> None:
    """Let a function handle a signal of the running workflow from now on.

    Signals of that name that came before are handed to it at once, in order. Arguments
    are decoded by its annotations; what does not fit is set aside as a dead letter.

    Args:
        name: the signal's name, or a `Signal`. With None the function handles all
            signals that have no handler, and gets the name as its first argument.
        handler: a plain or async function; its result is ignored. None takes the
            present handler away, and signals are kept again.
        unfinished: whether a run that ends before the handler has logs a warning.

    Raises:
        NotInWorkflowError: called outside of a workflow.
        DefinitionError: the handler is no function, its parameters cannot be bound, or
            an annotation cannot be read by.
    """
    runtime = get_runtime("durable.set_signal_handler()")
    policy = unfinished_policy(unfinished)
    if handler is None or not isinstance(name, Signal):
        plain = name.name if isinstance(name, Signal) else name
        made = _make("signal", plain, handler, policy, None)
        runtime.set_handler("signal", plain, made)
        return
    signal, function = name, _check_callable("signal", name.name, handler)
    signal.check_in_run()
    is_coroutine = gives_coroutine(function)

    def bind(name: str, input: Payloads) -> Callable[[], Any]:
        args = [signal.decode(input)]
        if is_coroutine:
            return functools.partial(function, *args)
        return functools.partial(_call_plain, function, "signal", name, args, {})

    runtime.set_handler(
        "signal",
        signal.name,
        Handler(
            bind,
            is_async=is_coroutine,
            encode=_encode_nothing,
            warns_unfinished=policy is HandlerUnfinishedPolicy.WARN,
        ),
    )


def set_query_handler(
    name: str | None, handler: Callable[..., object] | None, /
) -> None:
    """Let a function answer a query of the running workflow from now on.

    It may change nothing, and is asked again whenever somebody asks: nothing of it is
    recorded. Arguments and answer are typed by its annotations.

    Args:
        name: the query's name. With None the function answers all queries that have no
            handler, and gets the name as its first argument.
        handler: a plain function; None takes the present one away.

    Raises:
        NotInWorkflowError: called outside of a workflow.
        DefinitionError: the handler is no plain function, its parameters cannot be
            bound, or an annotation cannot be read by.
    """
    runtime = get_runtime("durable.set_query_handler()")
    made = _make("query", name, handler, HandlerUnfinishedPolicy.ABANDON, None)
    runtime.set_handler("query", name, made)


def set_update_handler(
    name: str | None,
    handler: Callable[..., object] | None,
    /,
    *,
    validator: Callable[..., object] | None = None,
    unfinished: Unfinished = HandlerUnfinishedPolicy.WARN,
) -> None:
    """Let a function handle an update of the running workflow from now on.

    Updates that came in the same turn before are handed to it too. Arguments and
    result are typed by its annotations.

    Args:
        name: the update's name. With None the function handles all updates that have
            no handler, and gets the name as its first argument.
        handler: a plain or async function; None takes the present one away.
        validator: a plain function that gets the same arguments and may change
            nothing. If it raises, the update is rejected and leaves no trace.
        unfinished: whether a run that ends before the handler has logs a warning.

    Raises:
        NotInWorkflowError: called outside of a workflow.
        DefinitionError: the handler is no function, its parameters cannot be bound, or
            an annotation cannot be read by.
    """
    runtime = get_runtime("durable.set_update_handler()")
    policy = unfinished_policy(unfinished)
    made = _make("update", name, handler, policy, validator)
    runtime.set_handler("update", name, made)


def _make(
    kind: MessageKind,
    name: str | None,
    function: _Function | None,
    unfinished: HandlerUnfinishedPolicy,
    validator: _Function | None,
) -> Handler | None:
    if name is not None:
        check_id(name, f"the {kind}'s name")
    label = f"a handler of every {kind}" if name is None else name
    if validator is not None:
        _check_callable(kind, label, validator)
        if gives_coroutine(validator):
            raise DefinitionError(
                f"The validator of update {label!r} is async.", hint="Write a def."
            )
    if function is None:
        return None
    _check_callable(kind, label, function)
    is_coroutine = gives_coroutine(function)
    if is_coroutine and kind == "query":
        raise DefinitionError(
            f"The handler of query {label!r} is async.",
            hint="A query reads what is there: write a plain def.",
        )
    skip = (MESSAGE_NAME,) if name is None else ()
    signature = CallSignature(function, label, skip=skip)
    if checks_handlers():
        what = f"the handler of {kind} {label!r}: "
        signature.check_annotations(what, has_result=kind != "signal")
        if validator is not None:
            CallSignature(validator, label, skip=skip).check_annotations(
                f"the validator of update {label!r}: ", has_result=False
            )
    return make_handler(
        kind,
        function,
        signature,
        is_dynamic=name is None,
        is_async=is_coroutine,
        unfinished=unfinished,
        validator=validator,
    )


def _check_callable(kind: MessageKind, name: str, function: _Function) -> _Function:
    if not callable(function):
        raise DefinitionError(
            f"The handler of {kind} {name!r} is {function!r}, which is no function."
        )
    return function

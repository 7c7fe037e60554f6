"""Bounded histories: going on as a new run, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard, overload

from durable.api.sagas.ledger import has_steps_to_undo
from durable.api.workflows.child_options import (
    CONTINUE_OPTIONS,
    ChildOptions,
    encode_memo,
    merge,
    refuse_others,
    timeout_of,
)
from durable.api.workflows.workflow_definition import (
    Workflow,
    WorkflowCall,
    find_workflow,
    workflow_of,
)
from durable.core.history.payload import Payloads
from durable.core.loop.cancels import raise_owed
from durable.core.runtime import ContinueAsNew, WorkflowRuntime, get_runtime
from durable.errors import InvalidCallError
from durable.options import Duration, check_id
from durable.search.attributes import encode_attributes
from durable.search.conditions import Attribute


@overload
def continue_as_new(
    call: WorkflowCall[Any],
    /,
    *,
    task_queue: str | None = None,
    run_timeout: Duration | None = None,
    memo: dict[str, Any] | None = None,
    attributes: Mapping[Attribute[Any], Any] | None = None,
) -> NoReturn: ...
@overload
def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn: ...
def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run and go on as a new one of the same workflow id, with a new history.

        continue_as_new(place_order(order, attempt + 1))  # checked by type checkers
        continue_as_new(order, attempt + 1)               # the same workflow again

    Whoever waits for the result gets that of the last run. Signals that nobody has
    received are carried over; one that came while this was decided is seen by this run
    first. Activities and timers end with this run, and open children are treated as at
    any close. It raises a BaseException, so that `except Exception` does not stop it;
    it may be called from handlers too.

    A run keeps its version, unless the call is one of another version's function, or
    `Workflow.migrates_from` says how it moves to a newer one.

    Args:
        *args: a call of a workflow: the one that runs or another; or the arguments of
            the one that runs.
        **kwargs: with a call, the options below; without one, arguments by name.
        task_queue: where the new run runs; where this one does by default.
        run_timeout: the longest it may take; as for this one by default.
        memo: plain values kept with it; those that this run began with by default.
        attributes: what it is found by; as this run is now by default. The options
            may also be those of the call, from `Workflow.options`.

    Raises:
        InvalidCallError: the arguments do not fit the workflow, or the call has
            options that mean nothing here.
        InvalidOptionError, InvalidDurationError, InvalidIdError: an option has a wrong
            value.
        PayloadError: an argument cannot be recorded as it is.
        asyncio.CancelledError: the run was asked to stop, and what it awaited last
            answered that with a result; the next run would not hear of it.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.continue_as_new()")
    raise_owed()
    call = _find_call(args)
    if call is None:
        definition = _running(runtime)
        runtime.continue_as_new(
            ContinueAsNew(definition.name, _encode(definition, args, kwargs))
        )
    given: ChildOptions = merge(call.child_options, kwargs)
    refuse_others(given, CONTINUE_OPTIONS, call.definition.name, "continue_as_new()")
    queue, memo = given.get("task_queue"), given.get("memo")
    said = given.get("attributes")
    if queue is not None:
        check_id(queue, "task_queue of continue_as_new()")
    running, version = _running(runtime), call.definition.own_version
    is_other = call.definition.name == running.name and version != running.own_version
    going = ContinueAsNew(
        call.definition.name,
        call.input,
        version=version if is_other else None,
        task_queue=queue,
        run_timeout=timeout_of(
            given.get("run_timeout"), "run_timeout of continue_as_new()"
        ),
        memo=None if memo is None else encode_memo(memo),
        attributes=None
        if said is None
        else encode_attributes(said, "attributes of continue_as_new()"),
    )
    runtime.continue_as_new(going)


def checkpoint(*args: Any, **kwargs: Any) -> None:
    """Offer to go on from here, should this run ever have to be replayed.

        while True:
            checkpoint(consume(state))  # or checkpoint(state), unchecked
            state = await handle(state, await orders.receive())

    Most calls do nothing. Once the history has grown by the workflow's
    `checkpoint_every` events since the last one, the checkpoint is taken: the workflow
    function (the run method, on a fresh object) is called again with these arguments,
    as if that were its first call, and code after `checkpoint()` does not run. Replay
    begins there from then on. The run stays the same: ids, timeouts and signals that
    nobody has received yet are kept.

    It is taken only where nothing else is under way: no activity, timer, child,
    handler, saga with finished steps, nor task besides the workflow's own. Otherwise
    it is passed over until the next call.

    Args:
        *args: a call of the running workflow, checked by type checkers; or its
            arguments.
        **kwargs: arguments by name.

    Raises:
        InvalidCallError: the arguments do not fit the workflow.
        PayloadError: an argument cannot be recorded as it is.
        NotInWorkflowError: called outside of a workflow.
        WorkflowTaskError: called by another task than the workflow's own.
    """
    runtime = get_runtime("durable.checkpoint()")
    definition = _running(runtime)
    call = _find_call(args)
    if call is None:
        input = _encode(definition, args, kwargs)
    elif call.definition.name != definition.name or kwargs or call.child_options:
        raise InvalidCallError(
            f"checkpoint() got {call!r}{' with options' if call.child_options else ''}"
            f" in a run of workflow {definition.name!r}.",
            hint="Give a plain call of the running workflow, or its arguments.",
        )
    else:
        input = call.input
    if not has_steps_to_undo():
        runtime.checkpoint(input)


def _find_call(args: tuple[Any, ...]) -> WorkflowCall[Any] | None:
    """The call, if that is what was given: it can be nobody's argument."""
    for value in args:
        if _is_call(value):
            value.is_used = True
            if len(args) > 1:
                raise InvalidCallError(
                    "Arguments were given beside a workflow call.",
                    hint=f"Put them into the call: {value.definition.name}(...).",
                )
            return value
    return None


def _is_call(value: object) -> TypeGuard[WorkflowCall[Any]]:
    return isinstance(value, WorkflowCall)


def _running(runtime: WorkflowRuntime) -> Workflow[Any, Any]:
    """The workflow that runs, as its engine knows it."""
    known = workflow_of(getattr(runtime, "code", None))
    return known or find_workflow(runtime.info().workflow_type)


def _encode(
    definition: Workflow[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Payloads:
    signature = definition.call_signature
    return signature.encode(signature.bind(args, kwargs))

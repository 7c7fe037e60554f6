"""What `@entity` makes: a workflow whose runs are the entities, one for each key.

Calls of exclusive methods are updates of the run, which takes one after the other;
shared methods are queries. The state is kept as the payload that it is recorded as, and
every call works on a copy: so a call that fails has changed nothing, readers see no
half-done change, and nothing depends on when a checkpoint was taken.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from typing_extensions import TypedDict

from durable.api.entities.entity_call import HOLD, IS_RUN_OPEN, LET_GO, PATIENT
from durable.api.entities.entity_caller import Caller, set_caller, set_key, split_caller
from durable.api.entities.entity_method import EntityMethod
from durable.api.entities.entity_turns import Section, Turns
from durable.api.messages.handlers import make_handler
from durable.api.signature import CallSignature
from durable.api.workflows.workflow_definition import Workflow, WorkflowOptions
from durable.converter import failures, json
from durable.converter.comparing import same
from durable.core.history.payload import NULL, Failure, Payload, Payloads
from durable.core.runtime import (
    ActivityTarget,
    ContinueAsNew,
    Handler,
    MessageKind,
    WorkflowRuntime,
    get_runtime,
)
from durable.errors import (
    DefinitionError,
    InternalError,
    InvalidCallError,
    NondeterminismError,
    PayloadError,
    ReadOnlyError,
    WorkflowBlockedError,
)
from durable.options import HandlerUnfinishedPolicy

# Events since the newest checkpoint at which a call that would have to wait is turned
# away for a moment, so that the entity comes to rest: only then it can take another.
BUSY_EVENTS: Final = 2_000
# Seconds. The first is the longest that a key stays held by a run that was terminated,
# if somebody waits for it; the last bounds what waiting for a long section costs.
HOLDER_CHECK_FIRST: Final = 60
HOLDER_CHECK_LAST: Final = 3_600

_NO_FAILURES: Final = (InternalError, NondeterminismError, WorkflowBlockedError)
"""What leaves a method, but speaks of the run and not of the call."""


class EntityOptions(TypedDict, total=False):
    """Options of an entity, on the decorator.

    Keys:
        version: a label that is kept with each entity's run.
        task_queue: where it runs; the queue of the engine that calls it first by
            default.
        checkpoint_every: events of its history after which the state is recorded. By
            default that is done whenever a call has ended and no other is under way, so
            that finished calls are never replayed: not even with code that was changed
            meanwhile. A larger number makes calls cheaper, and replays those since.
    """

    version: str | None
    task_queue: str | None
    checkpoint_every: int


class MethodFailed(Exception):
    """Carries what a method raised past the judgement of what is a bug."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class EntityBusy(Exception):
    """Turns a call away for a moment."""


def is_busy(refusal: BaseException | None) -> bool:
    """Whether that is why an update was rejected: it should be sent again soon."""
    name = getattr(refusal, "type", type(refusal).__name__)
    return bool(name == EntityBusy.__name__)


async def _live(
    self: EntityRun, state: object = None, section: Section | None = None
) -> None:
    """Stand for the run's code: what a checkpoint keeps goes in, nothing comes out."""


class EntityWorkflow(Workflow[..., None]):
    """The workflow of an entity.

    Args:
        cls: the class.
        name: the workflow's name.
        options: the options of the decorator.
        methods: its methods, by the names of the class's attributes.
    """

    def __init__(
        self,
        cls: type[Any],
        name: str,
        options: EntityOptions,
        methods: dict[str, EntityMethod],
    ) -> None:
        given: WorkflowOptions = {
            "version": options.get("version"),
            # It lives for years, and its state is what is kept: each version goes on.
            "compatible_with": None if options.get("version") is None else "*",
            "task_queue": options.get("task_queue"),
        }
        if "checkpoint_every" in options:
            given["checkpoint_every"] = options["checkpoint_every"]
        super().__init__(_live, name, given, origin=cls)
        if "checkpoint_every" not in options:
            self.checkpoint_every = 0
        self.attributes = methods
        self.methods = {method.name: method for method in methods.values()}
        self.__doc__ = cls.__doc__
        for method in methods.values():
            self.function = method.function  # where errors find the class
            break

    def message_signatures(
        self, kind: MessageKind
    ) -> dict[str | None, CallSignature] | None:
        """Nothing: a message says who calls, which only an entity's calls do."""
        return None

    # --- the state --------------------------------------------------------------------

    @functools.cached_property
    def _fields(self) -> frozenset[str] | None:
        """The attributes that are the state; None if the class sees to that itself."""
        fields = getattr(self.origin, "__dataclass_fields__", None)
        return None if fields is None else frozenset(fields)

    def new_state(self) -> Payload:
        """The state of a key that nobody has called yet.

        Raises:
            PayloadError: it cannot be recorded.
        """
        return self.encode_state(self.origin())

    def encode_state(self, state: Any) -> Payload:
        """Turn an object into a payload.

        Raises:
            PayloadError: it cannot be recorded as it is, or has attributes that its
                class does not declare.
        """
        if self._fields is not None:
            for name in getattr(state, "__dict__", ()):
                if name not in self._fields:
                    raise PayloadError(
                        f"A method of {self.name!r} has set {name!r}, which is no part"
                        " of the state.",
                        hint="Annotate it in the class, and give it a default.",
                    )
        return json.encode(state, self.origin, f"the state of {self.name!r}")

    def decode_state(self, payload: Payload) -> Any:
        """Turn a recorded state into an object.

        Raises:
            UndecodableError: it does not fit today's class.
        """
        return json.decode(payload, self.origin, f"the state of {self.name!r}")

    def answer(
        self, key: str, state: Payload, method: EntityMethod, input: Payloads
    ) -> Payload:
        """Let a shared method read a state.

        Raises what the method raises.

        Raises:
            ReadOnlyError: it changed the state.
            UndecodableError: the arguments, or the state, do not fit.
            PayloadError: the answer cannot be recorded as it is.
        """
        call = functools.partial(self._answer, key, state, method, input)
        return contextvars.copy_context().run(call)

    def _answer(
        self, key: str, state: Payload, method: EntityMethod, input: Payloads
    ) -> Payload:
        set_key(key)
        signature = method.call_signature
        args, kwargs = signature.unbind(signature.decode(split_caller(input)[1]))
        copy = self.decode_state(state)
        result: object = method.function(copy, *args, **kwargs)
        if inspect.iscoroutine(result):
            result.close()
            raise ReadOnlyError(
                f"The @shared method {method.name!r} of {self.name!r} has returned a"
                " coroutine, which nobody awaits."
            )
        if not self._is_still(copy, state):
            raise ReadOnlyError(
                f"The @shared method {method.name!r} of {self.name!r} has changed the"
                " state.",
                hint="Make it @exclusive.",
            )
        return signature.encode_result(result)

    def _is_still(self, copy: Any, state: Payload) -> bool:
        if json.encode_again(copy, self.origin, "the state") == state:
            return True
        return same(copy, self.decode_state(state))

    # --- as the core sees it ----------------------------------------------------------

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Take up the state and set the handlers."""
        state = input[0] if input else self.new_state()
        self.decode_state(state)  # what today's class cannot read parks the run
        section = None
        if len(input) > 1:
            section = json.decode(input[1], Section, "who holds the key")
        entity = EntityRun(self, runtime, state, section)
        runtime.instance = entity
        for method in self.methods.values():
            kind: MessageKind = "update" if method.is_exclusive else "query"
            runtime.set_handler(kind, method.name, entity.handler_of(method))
        admit = entity.admit_section
        runtime.set_handler("update", HOLD, _control(entity.hold, _HOLD, admit))
        runtime.set_handler("update", LET_GO, _control(entity.let_go, _LET_GO))

    def check_annotations(self) -> None:
        """See that values can be recorded by the annotations of state and methods.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by.
        """
        try:
            json.check_annotation(self.origin)
        except DefinitionError as error:
            first = next(iter(self.methods.values())).call_signature
            raise DefinitionError(
                f"The state of {self.name!r}: {error.message} Its first method is"
                f" defined at {first.defined_at()}.",
                hint=error.hint,
            ) from None
        for method in self.methods.values():
            what = f"@{method.decorator} method {method.name!r} of {self.name!r}: "
            method.call_signature.check_annotations(what)

    async def call(self, input: Payloads) -> Payload:
        """Live until somebody ends the run."""
        runtime = get_runtime("An entity")
        entity: EntityRun = runtime.instance
        await entity.live(runtime)
        return NULL

    def is_bug(self, error: BaseException) -> bool:
        """Say no to what a method raised: only its caller has to do with that."""
        return isinstance(error, Exception) and not isinstance(error, MethodFailed)

    def failure_of(self, error: BaseException) -> Failure:
        """Turn an exception into data."""
        return failures.failure_of(
            error.error if isinstance(error, MethodFailed) else error
        )


def _control(
    function: Callable[..., Any],
    signature: CallSignature,
    validator: Callable[..., None] | None = None,
) -> Handler:
    return make_handler(
        "update",
        function,
        signature,
        is_dynamic=False,
        is_async=True,
        unfinished=HandlerUnfinishedPolicy.ABANDON,
        validator=validator,
    )


def _as_it_is(payload: Payload) -> Payload:
    return payload


class EntityRun:
    """One entity in memory: its state, and whose turn it is."""

    def __init__(
        self,
        definition: EntityWorkflow,
        runtime: WorkflowRuntime,
        state: Payload,
        section: Section | None,
    ) -> None:
        self._definition = definition
        self._workflow_id = runtime.info().workflow_id
        self._key = self._workflow_id.removeprefix(f"{definition.name}:")
        self._state = state
        self._runtime = runtime
        self._begun_at = runtime.info().history_length
        self._turns = Turns(self._on_blocked, section)
        self._has_rested = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._is_in_doubt = False

    async def live(self, runtime: WorkflowRuntime) -> None:
        """Offer a checkpoint whenever a call has ended."""
        try:
            while True:
                await self._has_rested.wait()
                self._has_rested.clear()
                runtime.checkpoint((self._state, *self._held_by()))
        except asyncio.CancelledError:
            await runtime.wait_condition(runtime.all_handlers_finished, None)
            raise

    def _held_by(self) -> Payloads:
        section = self._turns.section
        if section is None:
            return ()
        return (json.encode(section, Section, "who holds the key"),)

    # --- calls ------------------------------------------------------------------------

    def handler_of(self, method: EntityMethod) -> Handler:
        """A method as the core sees it."""
        if not method.is_exclusive:
            bind_shared = functools.partial(self._bind_shared, method)
            return Handler(bind_shared, is_async=False, encode=_as_it_is)
        return Handler(
            functools.partial(self._bind_exclusive, method),
            is_async=True,
            encode=_as_it_is,
            validate=functools.partial(self._admit, method),
        )

    def _admit(self, method: EntityMethod, _: str, input: Payloads) -> None:
        caller, rest = split_caller(input)
        method.call_signature.decode(rest)
        self._refuse_if_busy(caller.sections.get(self._workflow_id))

    def admit_section(self, section: Section) -> None:
        """Refuse a section if this is no time to queue up."""
        self._refuse_if_busy(None)

    def _refuse_if_busy(self, section: str | None) -> None:
        # Whoever holds the key must get through, or it would never come to rest.
        if section is None and self._turns.is_taken:
            events = self._runtime.info().history_length - self._begun_at
            if events > BUSY_EVENTS:
                raise EntityBusy("It is called without a pause; it takes calls soon.")

    def _bind_shared(
        self, method: EntityMethod, _: str, input: Payloads
    ) -> Callable[[], Payload]:
        answer = self._definition.answer
        return lambda: answer(self._key, self._state, method, input)

    def _bind_exclusive(
        self, method: EntityMethod, _: str, input: Payloads
    ) -> Callable[[], Any]:
        caller, rest = split_caller(input)
        signature = method.call_signature
        args, kwargs = signature.unbind(signature.decode(rest))
        return functools.partial(self._in_turn, method, args, kwargs, caller)

    async def _in_turn(
        self,
        method: EntityMethod,
        args: list[Any],
        kwargs: dict[str, Any],
        caller: Caller,
    ) -> Payload:
        await self._turns.begin(caller.sections.get(self._workflow_id))
        try:
            set_key(self._key)
            set_caller(Caller((*caller.chain, self._workflow_id), caller.sections))
            return await self._run(method, args, kwargs)
        except _NO_FAILURES:
            raise
        except ContinueAsNew:
            raise MethodFailed(
                InvalidCallError("An entity cannot continue as another run.")
            ) from None
        except Exception as error:
            raise MethodFailed(error) from error
        finally:
            self._turns.end()
            self._has_rested.set()

    async def _run(
        self, method: EntityMethod, args: list[Any], kwargs: dict[str, Any]
    ) -> Payload:
        copy = self._definition.decode_state(self._state)
        result = method.function(copy, *args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        answer = method.call_signature.encode_result(result)
        self._state = self._definition.encode_state(copy)
        return answer

    # --- critical sections ------------------------------------------------------------

    async def hold(self, section: Section) -> bool:
        """Let a section hold the key, once it is its turn; say whether it does."""
        return await self._turns.hold(section)

    async def let_go(self, section_id: str) -> None:
        """End a section, or withdraw its request."""
        held = self._turns.section
        if held is not None and held.id == section_id:
            self._stop_watch()
        self._turns.let_go(section_id)
        self._has_rested.set()

    def _on_blocked(self) -> None:
        """Something waits for a section: see to it that its run is still there."""
        section = self._turns.section
        if section is not None and self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(
                self._watch_holder(section), context=contextvars.Context()
            )

    def _stop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    async def _watch_holder(self, section: Section) -> None:
        runtime = get_runtime("An entity")
        # What ended one run may have ended those that waited for it, too.
        is_due, self._is_in_doubt = self._is_in_doubt, False
        delay = HOLDER_CHECK_FIRST
        while not is_due or await _is_open(runtime, section):
            await runtime.sleep(delay * 1_000_000, "a key is held", lambda: "")
            is_due, delay = True, min(2 * delay, HOLDER_CHECK_LAST)
        self._watch, self._is_in_doubt = None, True
        self._turns.let_go(section.id)
        self._has_rested.set()


# Once for all: looking into a function costs more than a call of it.
_HOLD: Final = CallSignature(EntityRun.hold, HOLD, skip=("self",))
_LET_GO: Final = CallSignature(EntityRun.let_go, LET_GO, skip=("self",))


async def _is_open(runtime: WorkflowRuntime, section: Section) -> bool:
    """Ask whether the run that holds a key is still open."""
    answer = await runtime.execute_activity(
        ActivityTarget(IS_RUN_OPEN, PATIENT, "a key is held", _differing),
        (
            json.encode(section.workflow_id, str, "the workflow id"),
            json.encode(section.run_id, str, "the run id"),
        ),
        None,
        0,
    )
    return bool(json.decode(answer, bool, "whether a run is open"))


def _differing(recorded: Payloads, found: Payloads) -> str | None:
    return None if recorded == found else "the arguments"

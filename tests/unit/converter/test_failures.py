"""Failures never fail: whatever is wrong with an exception, it is recorded, bounded."""

import asyncio
import builtins
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import ApplicationError, activity, errors, limits, register_exception
from durable.converter.failures import (
    BUGS,
    ExceptionClasses,
    exception_of,
    failure_of,
    is_bug,
    is_of_child,
)
from durable.core.history.payload import Failure
from durable.errors import (
    ActivityError,
    ActivityTimeoutError,
    ChildWorkflowError,
    CompensationFailed,
    OutcomeUnknown,
    RemoteError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)


class Declined(Exception):
    pass


class Detailed(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class NoRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class Slotted(Exception):
    __slots__ = ("code",)


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


@activity(name="failures.here", retry=None)
async def here() -> None:
    """Makes this module's exceptions visible."""


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever was given
        return caught


def stored(error: BaseException) -> Failure:
    """What an exception is after it was written and read."""
    failure = failure_of(raised(error))
    return msgspec.json.decode(msgspec.json.encode(failure), type=Failure)


def back(error: BaseException) -> BaseException:
    return exception_of(stored(error))


# --- the failure of the failure (A12) -------------------------------------------------


def test_str_that_raises_is_said_so() -> None:
    failure = stored(NoText("x"))
    assert failure.message == "<no text: __str__ raised RuntimeError>"
    assert failure.type == "NoText"
    assert isinstance(back(NoText("x")), NoText)


def test_repr_that_raises_and_pickling_that_fails_do_not_matter() -> None:
    assert isinstance(back(NoRepr("x")), NoRepr)
    assert isinstance(back(Unpicklable("x")), Unpicklable)


def test_huge_message_is_cut_and_says_by_how_much() -> None:
    failure = stored(ValueError("x" * 50_000_000))
    assert len(failure.message) < limits.FAILURE_MESSAGE_CHARS_MAX + 100
    assert (
        f"({50_000_000 - limits.FAILURE_MESSAGE_CHARS_MAX:,} more)" in failure.message
    )
    assert len(msgspec.json.encode(failure)) < 200_000


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "x\x00y", "\x1b[31m", "🙂"])
def test_any_text_becomes_something_that_databases_keep(text: str) -> None:
    failure = stored(ValueError(text))
    failure.message.encode()
    assert failure.message


def test_cause_chain_is_kept_and_bounded() -> None:
    error: Exception = ValueError(0)
    for number in range(1, 200):
        outer = Declined(number)
        outer.__cause__ = error
        error = outer
    failure: Failure | None = stored(error)
    depth = 0
    while failure is not None:
        failure = failure.cause
        depth += 1
    assert depth == limits.FAILURE_DEPTH_MAX + 1


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cyclic_causes_end(length: int) -> None:
    errors = [Declined(number) for number in range(length)]
    for number, error in enumerate(errors):
        error.__cause__ = errors[(number + 1) % length]
    failure: Failure | None = failure_of(errors[0])
    depth = 0
    while failure is not None:
        failure, depth = failure.cause, depth + 1
    assert depth == length


def test_cyclic_group_ends() -> None:
    inner = Declined("x")
    group = ExceptionGroup("g", [inner])
    inner.__cause__ = group
    assert failure_of(group).group[0].type == "Declined"


def test_context_is_kept_unless_suppressed() -> None:
    def fail(*, suppress: bool) -> None:
        try:
            raise ValueError("first")
        except ValueError:
            if suppress:
                raise Declined("second") from None
            raise Declined("second")  # noqa: B904 - the case under test

    for suppress in (True, False):
        with pytest.raises(Declined) as caught:
            fail(suppress=suppress)
        cause = failure_of(caught.value).cause
        assert (cause is None) is suppress


def test_groups_are_kept_and_bounded() -> None:
    group = ExceptionGroup(
        "many", [ValueError(1), ExceptionGroup("inner", [Declined("x")])]
    )
    error = back(group)
    assert isinstance(error, ExceptionGroup)
    assert error.message == "many"
    assert isinstance(error.exceptions[1].exceptions[0], Declined)
    many = stored(ExceptionGroup("many", [ValueError(n) for n in range(5_000)]))
    assert len(many.group) == limits.FAILURE_GROUP_MAX


def test_deep_groups_are_bounded() -> None:
    error: Exception = ValueError(0)
    for _ in range(300):
        error = ExceptionGroup("g", [error])
    exception_of(
        msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure)
    )


def test_group_of_base_exceptions_comes_back() -> None:
    error = back(BaseExceptionGroup("g", [asyncio.CancelledError(), ValueError(1)]))
    assert type(error) is BaseExceptionGroup


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("all")]
)
def test_what_ends_a_program_is_never_rebuilt(error: BaseException) -> None:
    """Or a row that names it would end every worker that reads it."""
    again = back(error)
    assert isinstance(again, RemoteError)
    assert again.type == type(error).__name__
    assert str(error) in str(again)


@pytest.mark.parametrize(
    "error",
    [
        StopAsyncIteration(),
        MemoryError(),
        RecursionError("deep"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        OSError(2, "No such file", "name"),
        KeyError("key"),
        SyntaxError("bad", ("file", 1, 2, "text")),
        ImportError("no", name="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_builtin_exception_is_rebuilt_with_its_class(error: BaseException) -> None:
    again = back(error)
    assert type(again) is type(error)
    assert stored(again).message == stored(error).message


def test_cancelled_error_is_a_failure_of_its_own_kind() -> None:
    failure = stored(asyncio.CancelledError("stop"))
    assert (failure.kind, failure.message) == ("cancelled", "stop")
    assert isinstance(exception_of(failure), asyncio.CancelledError)


def test_notes_are_kept_and_bounded() -> None:
    error = Declined("x")
    for number in range(100):
        error.add_note(f"note {number}")
    assert stored(error).notes == tuple(
        f"note {number}" for number in range(limits.FAILURE_NOTES_MAX)
    )
    assert back(error).__notes__[0] == "note 0"


def test_broken_notes_are_left_out() -> None:
    error = Declined("x")
    error.__notes__ = 5  # type: ignore[assignment]  # the fault under test
    assert stored(error).notes == ()


def test_attachments_that_are_no_data_are_left_out() -> None:
    error = Declined(object(), "text")
    error.handle = open  # type: ignore[attr-defined]  # the fault under test
    error.code = 5  # type: ignore[attr-defined]  # data beside it
    failure = stored(error)
    assert failure.arguments is None
    assert failure.state is not None
    assert bytes(failure.state.json) == b'{"code":5}'


def test_traceback_is_text_and_bounded() -> None:
    def deep(number: int) -> None:
        if number == 0:
            raise Declined("deep")
        deep(number - 1)

    try:
        deep(200)
    except Declined as error:
        failure = failure_of(error)
    assert "in deep" in failure.stack_trace
    assert failure.stack_trace.count("File ") <= limits.FAILURE_FRAMES_MAX
    assert stored(Declined("never raised")).stack_trace


@given(st.text(), st.lists(st.integers() | st.text(), max_size=3))
def test_any_message_and_arguments_make_a_failure(text: str, args: list[Any]) -> None:
    failure = failure_of(Declined(text, *args))
    msgspec.json.encode(failure)
    assert isinstance(exception_of(failure), Declined)


# --- what comes back ------------------------------------------------------------------


def test_known_class_is_rebuilt_without_its_constructor() -> None:
    again = back(Detailed(5, reason="because"))
    assert isinstance(again, Detailed)
    assert (again.code, again.reason, again.args) == (5, "because", (5, "because"))


def test_unknown_class_is_a_remote_error_and_nothing_is_imported() -> None:
    failure = Failure(message="boom", type="Popen", module="subprocess")
    error = exception_of(failure)
    assert isinstance(error, RemoteError)
    assert (error.type, str(error)) == ("Popen", "Popen: boom")
    gone = Failure(message="boom", type="X", module="no.such.module")
    assert isinstance(exception_of(gone), RemoteError)


@pytest.mark.parametrize(
    "name", ["print", "object", "type", "exec", "int", "__import__"]
)
def test_names_that_are_no_exceptions_are_never_used(name: str) -> None:
    failure = Failure(message="x", type=name, module=builtins.__name__)
    assert isinstance(exception_of(failure), RemoteError)


def test_registered_class_is_rebuilt() -> None:
    class Hidden(Exception):
        pass

    assert isinstance(back(Hidden("x")), RemoteError)
    register_exception(Hidden)
    assert isinstance(exception_of(stored(Hidden("x"))), (Hidden, RemoteError))


def test_classes_are_found_by_module_and_name() -> None:
    classes = ExceptionClasses()
    assert classes.find(__name__, "Declined") is None
    classes.add_scope({"Declined": Declined, "other": 5})
    assert classes.find(Declined.__module__, "Declined") is Declined
    assert classes.find("elsewhere", "Declined") is None
    assert classes.find("builtins", "ValueError") is ValueError


def test_recorded_failure_is_kept_when_raised_again() -> None:
    failure = stored(Declined("x"))
    assert failure_of(exception_of(failure)) is failure


def test_failures_that_cannot_be_rebuilt_are_remote_errors() -> None:
    broken = Failure(
        message="x",
        type="UnicodeDecodeError",
        module="builtins",
        arguments=None,
    )
    assert isinstance(exception_of(broken), (RemoteError, UnicodeDecodeError))


def test_application_error_keeps_what_its_raiser_chose() -> None:
    error = back(
        ApplicationError(
            "no",
            {"code": 1},
            [2],
            type="Declined",
            non_retryable=True,
            next_retry_delay="30s",
        )
    )
    assert isinstance(error, ApplicationError)
    assert (error.message, error.type, error.non_retryable) == ("no", "Declined", True)
    assert error.details == ({"code": 1}, [2])
    assert error.next_retry_delay == 30
    assert stored(error).next_retry_delay == 30_000_000


def test_bases_are_recorded_for_retry_policies() -> None:
    class Local(Declined, LookupError):
        pass

    assert stored(Local("x")).bases == ("Declined", "LookupError")


# --- an activity's failure ------------------------------------------------------------


def activity_failure(
    cause: Failure, retry_state: str = "maximum_attempts_reached"
) -> Failure:
    return Failure(
        message="Activity 'charge' failed.",
        kind="activity",
        cause=cause,
        activity_type="charge",
        activity_id="7",
        attempt=3,
        retry_state=retry_state,
    )


def test_activity_failure_is_the_exception_that_it_raised() -> None:
    error = exception_of(activity_failure(stored(Declined("no funds"))))
    assert isinstance(error, Declined)
    assert str(error) == "no funds"
    (note,) = error.__notes__
    assert "'charge' (id 7), attempt 3" in note


@pytest.mark.parametrize(
    ("cause", "cls"),
    [
        (Failure(message="x", type="Gone", module="gone"), ActivityError),
        (
            Failure(message="x", kind="timeout", timeout_type="start_to_close"),
            ActivityTimeoutError,
        ),
        (Failure(message="x", kind="outcome_unknown"), OutcomeUnknown),
    ],
)
def test_activity_failure_without_a_known_class(
    cause: Failure, cls: type[ActivityError]
) -> None:
    error = exception_of(activity_failure(cause))
    assert type(error) is cls
    assert isinstance(error, ActivityError)
    assert (error.activity_type, error.activity_id, error.attempt) == ("charge", "7", 3)
    assert error.retry_state == "maximum_attempts_reached"
    assert error.__cause__ is not None


# --- a child's failure ----------------------------------------------------------------


def child_failure(cause: Failure | None) -> Failure:
    return Failure(
        message="Child workflow 'order-1' (place_order) failed.",
        kind="child_workflow",
        cause=cause,
        workflow_type="place_order",
        workflow_id="order-1",
        run_id="run-1",
    )


def test_failure_of_a_child_is_the_exception_that_it_raised() -> None:
    error = exception_of(child_failure(stored(Declined("no funds"))))
    assert isinstance(error, Declined)
    assert str(error) == "no funds"
    assert error.__notes__ == ["raised by child workflow 'place_order' (id 'order-1')"]


def test_failure_that_came_a_long_way_names_every_station() -> None:
    there = activity_failure(stored(Declined("no funds")))
    grandchild = msgspec.structs.replace(child_failure(there), workflow_id="inner")
    error = exception_of(child_failure(grandchild))
    assert isinstance(error, Declined)
    assert [note.partition(",")[0] for note in error.__notes__] == [
        "raised by activity 'charge' (id 7)",
        "raised by child workflow 'place_order' (id 'inner')",
        "raised by child workflow 'place_order' (id 'order-1')",
    ]
    assert failure_of(error).cause is grandchild


@pytest.mark.parametrize(
    ("cause", "cls", "said"),
    [
        (None, ChildWorkflowError, "failed"),
        (
            Failure(message="boom", type="Gone", module="gone"),
            ChildWorkflowError,
            "Gone: boom",
        ),
        (Failure(message="enough", kind="terminated"), WorkflowTerminatedError, "eno"),
        (Failure(kind="terminated"), WorkflowTerminatedError, "no reason"),
        (
            Failure(kind="timeout", timeout_type="run"),
            WorkflowTimedOutError,
            "run_timeout",
        ),
        (
            Failure(kind="timeout", timeout_type="execution"),
            WorkflowTimedOutError,
            "execution_timeout",
        ),
    ],
)
def test_child_without_a_known_class(
    cause: Failure | None, cls: type[Any], said: str
) -> None:
    error: Any = exception_of(child_failure(cause))
    assert type(error) is cls
    assert "Child workflow 'place_order' (id 'order-1')" in str(error)
    assert said in str(error)
    assert (error.workflow_id, error.run_id) == ("order-1", "run-1")
    assert is_of_child(error)
    if cls is ChildWorkflowError:
        assert error.workflow_type == "place_order"
        assert (error.__cause__ is None) is (cause is None)
    assert isinstance(error, TimeoutError) is (cls is WorkflowTimedOutError)


def test_cancelled_child_is_a_cancelled_error() -> None:
    error = exception_of(child_failure(Failure(message="x", kind="cancelled")))
    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize(
    "inner",
    [
        Failure(kind="timeout", timeout_type="start_to_close"),
        Failure(kind="outcome_unknown"),
        Failure(message="boom", type="Gone", module="gone"),
    ],
)
def test_error_of_the_childs_activity_keeps_its_class(inner: Failure) -> None:
    there = activity_failure(inner)
    error = exception_of(child_failure(there))
    assert type(error) is type(exception_of(there))
    assert isinstance(error, ActivityError)
    assert "'order-1'" in error.__notes__[-1]


def test_failure_of_a_child_that_is_raised_on_is_recorded_as_it_came() -> None:
    for cause in (
        stored(Declined("x")),
        stored(TypeError("x")),
        Failure(message="boom", type="Gone", module="gone"),
        Failure(kind="terminated"),
        Failure(kind="cancelled"),
    ):
        failure = child_failure(cause)
        error = exception_of(failure)
        assert failure_of(error) is failure
        assert is_of_child(error)
        assert not is_bug(error)
        group = BaseExceptionGroup("g", [ValueError(), error])
        assert failure_of(group).group[1] is failure
    assert not is_of_child(exception_of(activity_failure(stored(Declined("x")))))
    assert not is_of_child(Declined("x"))


# --- errors of this library -----------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        WorkflowAlreadyStartedError("taken", workflow_id="w", run_id="r"),
        WorkflowAlreadyStartedError("taken", hint="wait", workflow_id="w", run_id="r"),
        WorkflowNotFoundError("gone"),
        WorkflowClosedError("closed", hint="start it again"),
    ],
    ids=repr,
)
def test_errors_about_other_runs_are_failures_that_come_back(
    error: errors.DurableError,
) -> None:
    again = back(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again).items() >= vars(error).items()
    assert not is_bug(error)


def test_failed_compensation_keeps_the_errors_of_all_steps() -> None:
    first = ValueError("at first")
    error = CompensationFailed(
        "two steps were not undone", errors=(Declined("a"), OSError(5, "b"))
    )
    error.__cause__ = first
    again = back(error)
    assert isinstance(again, CompensationFailed)
    assert again.message == "two steps were not undone"
    assert [type(e) for e in again.errors] == [Declined, OSError]
    assert [str(e) for e in again.errors] == ["a", "[Errno 5] b"]
    assert isinstance(again.__cause__, ValueError)
    assert back(CompensationFailed("none")).errors == ()  # type: ignore[attr-defined]  # of that class
    many = CompensationFailed("x", errors=(first,) * 500)
    assert len(stored(many).group) == limits.FAILURE_GROUP_MAX


def test_failed_compensation_of_failed_compensations_is_bounded() -> None:
    error: Exception = ValueError("x")
    for _ in range(100):
        error = CompensationFailed("x", errors=(error,))
    exception_of(stored(error))


# --- bugs -----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BUGS)
def test_bugs_park(cls: type[Exception]) -> None:
    error = cls.__new__(cls)
    assert is_bug(error)
    assert is_bug(ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [error])]))
    assert not is_bug(error, fail_on=(cls,))


@pytest.mark.parametrize("cls", [errors.PayloadError, errors.PayloadTooLargeError])
def test_values_that_cannot_be_recorded_park_but_where_they_once_failed(
    cls: type[Exception],
) -> None:
    error = cls.__new__(cls)
    assert is_bug(error)
    assert not is_bug(error, is_replaying=True)
    assert not is_bug(error, fail_on=(cls,))


@pytest.mark.parametrize("cls", [ValueError, OSError, TimeoutError])
def test_errors_fail(cls: type[Exception]) -> None:
    error = cls.__new__(cls)
    assert not is_bug(error)
    assert is_bug(error, park_on=(cls,))


def test_recorded_failures_are_never_bugs() -> None:
    assert is_bug(TypeError("here"))
    assert not is_bug(exception_of(activity_failure(stored(TypeError("there")))))

"""Arguments to positions and back: as `inspect.signature` binds them."""

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.api.signature import CallSignature
from durable.core.history.payload import Payloads
from durable.errors import InvalidCallError, PayloadError, UndecodableError


def nothing() -> None: ...


def required(a: int, b: int) -> None: ...


def defaults(a: int, b: int = 10, c: int = 20) -> None: ...


def positional(a: int, b: int = 10, /, c: int = 20) -> None: ...


def keyword(a: int, *, b: int, c: int = 20) -> None: ...


def keywords_only(*, a: int = 1, b: int = 2) -> None: ...


def rest(a: int, b: int = 10, *more: int) -> None: ...


FUNCTIONS = [nothing, required, defaults, positional, keyword, keywords_only, rest]
calls = st.tuples(
    st.lists(st.integers(0, 99), max_size=5).map(tuple),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 99)),
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_binding_agrees_with_inspect(function: Any) -> None:
    signature = CallSignature(function, function.__name__)
    plain = inspect.signature(function)

    @given(calls)
    def check(call: tuple[tuple[int, ...], dict[str, int]]) -> None:
        args, kwargs = call
        try:
            bound = plain.bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(InvalidCallError, match=function.__name__):
                signature.bind(args, kwargs)
            return
        bound.apply_defaults()
        values = signature.bind(args, kwargs)
        again_args, again_kwargs = signature.unbind(list(values))
        again = plain.bind(*again_args, **again_kwargs)
        again.apply_defaults()
        assert again.arguments == bound.arguments

    check()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_recorded_arguments_come_back_as_they_were_given(function: Any) -> None:
    signature = CallSignature(function, function.__name__)

    @given(calls)
    def check(call: tuple[tuple[int, ...], dict[str, int]]) -> None:
        try:
            values = signature.bind(*call)
        except InvalidCallError:
            return
        payloads = signature.encode(values)
        assert tuple(signature.decode(payloads)) == values
        assert signature.encode_again(values) == payloads
        again, copies = signature.encode_with_copies(values)
        assert (again, tuple(copies)) == (payloads, values)
        assert signature.same_input(payloads, signature.encode(values))

    check()


def test_trailing_defaults_are_left_out_and_inner_ones_written() -> None:
    signature = CallSignature(defaults, "defaults")
    assert signature.bind((1,), {}) == (1,)
    assert signature.bind((1,), {"c": 5}) == (1, 10, 5)
    assert signature.bind((1, 10, 20), {}) == (1, 10, 20)


def test_keyword_and_position_are_recorded_alike() -> None:
    signature = CallSignature(required, "required")
    assert signature.bind((1, 2), {}) == signature.bind((), {"b": 2, "a": 1})


def test_parameter_with_a_default_may_be_added_later() -> None:
    def before(a: int) -> None: ...

    def after(a: int, b: int = 5) -> None: ...

    recorded = CallSignature(before, "f").encode((1,))
    signature = CallSignature(after, "f")
    assert signature.decode(recorded) == [1]
    assert signature.same_input(recorded, signature.encode(signature.bind((1,), {})))


def test_wrong_number_of_recorded_arguments_is_undecodable() -> None:
    recorded = CallSignature(required, "f").encode((1, 2))
    with pytest.raises(UndecodableError, match="2 arguments were recorded"):
        CallSignature(nothing, "f").decode(recorded)
    with pytest.raises(UndecodableError, match="takes 2"):
        CallSignature(required, "f").decode(recorded[:1])
    with pytest.raises(UndecodableError, match="takes 2 to 3"):
        CallSignature(keyword, "f").decode(recorded[:1])


def test_changed_type_is_undecodable_by_name() -> None:
    def before(a: str) -> None: ...

    recorded = CallSignature(before, "f").encode(("x",))
    with pytest.raises(UndecodableError, match="Argument 'a' of 'f' was recorded"):
        CallSignature(required, "f").decode((*recorded, *recorded))


def test_bad_argument_is_named_and_nothing_is_recorded() -> None:
    signature = CallSignature(defaults, "charge")
    with pytest.raises(PayloadError, match="Argument 'b' of 'charge'"):
        signature.encode((1, object()))
    with pytest.raises(PayloadError, match="Argument 4 of 'rest'"):
        CallSignature(rest, "rest").encode((1, 2, 3, "x"))


def test_arguments_without_annotation_are_plain_data() -> None:
    def untyped(a, b=None):  # type: ignore[no-untyped-def]  # the case under test
        ...

    signature = CallSignature(untyped, "untyped")
    assert signature.decode(signature.encode(({"x": [1]}, None))) == [{"x": [1]}, None]
    with pytest.raises(PayloadError, match="a tuple"):
        signature.encode(((1, 2),))


def test_same_input_reads_values_and_not_bytes() -> None:
    def takes(items: set[str], more: dict[str, int]) -> None: ...

    signature = CallSignature(takes, "takes")
    words = [str(number) for number in range(50)]
    first = signature.encode((set(words), {"a": 1, "b": 2}))
    second = signature.encode((set(reversed(words)), {"b": 2, "a": 1}))
    assert signature.same_input(first, second)
    third = signature.encode((set(words[1:]), {"a": 1, "b": 2}))
    assert not signature.same_input(first, third)
    assert not signature.same_input(first, first[:1])


def test_arguments_that_differ_are_named_by_position_and_name_and_never_shown() -> None:
    def pay(cents: int, to: str, *notes: str) -> None: ...

    signature = CallSignature(pay, "pay")

    def encode(*values: Any) -> Payloads:
        return signature.encode(signature.bind(values, {}))

    before = encode(5, "anna", "soon")
    assert signature.differing_input(before, encode(5, "anna", "soon")) is None
    assert (
        signature.differing_input(before, encode(5, "berta", "soon"))
        == "argument 2 ('to')"
    )
    assert (
        signature.differing_input(before, encode(6, "anna", "late"))
        == "arguments 1 ('cents') and 3"
    )
    assert signature.differing_input(before, encode(5, "anna")) == (
        "the number of arguments"
    )

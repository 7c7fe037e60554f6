"""Run ids: UUIDs of version 7 that grow."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from durable.core.history.ids import RunIds

instants = st.integers(0, 2**48 * 1_000 - 1)
entropies = st.integers(0, 2**128)


@given(instants, entropies)
def test_id_is_a_uuid_of_version_7_with_its_time(now: int, entropy: int) -> None:
    text = RunIds().make(now, entropy)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now // 1_000


@given(st.lists(st.tuples(instants, entropies), min_size=2, max_size=30))
def test_ids_of_one_process_grow_even_if_the_clock_does_not(
    draws: list[tuple[int, int]],
) -> None:
    ids = RunIds()
    made = [ids.make(now, entropy) for now, entropy in draws]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@given(instants, entropies, entropies)
def test_ids_of_one_millisecond_differ_by_their_entropy(
    now: int, first: int, second: int
) -> None:
    same = first % 2**73 == second % 2**73
    assert (RunIds().make(now, first) == RunIds().make(now, second)) is same

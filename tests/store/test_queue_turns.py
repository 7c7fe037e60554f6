"""What a claim may take of a configured queue, whatever its rate and its keys are."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable.store.deciding.queue_turns import Head, begin_turn, configure, end_turn
from durable.store.queues import QueueRecord
from tests.sizes import examples

NOW = 1_800_000_000_000_000
replace = msgspec.structs.replace


def make_queue(count: int, per: int, burst: int | None = None) -> QueueRecord:
    return QueueRecord(
        namespace="n", name="q", rate_count=count, rate_per=per, rate_burst=burst
    )


def claim(record: QueueRecord, wanted: int, now: int) -> tuple[QueueRecord, int]:
    turn = begin_turn(record, (), "w", wanted, now)
    assert (turn.next_at is None) == (turn.room > 0)
    taken = turn.room
    return end_turn(turn, taken, now), taken


RATES = st.tuples(
    st.integers(1, 60),
    st.integers(100, 5_000_000),
    st.none() | st.integers(1, 30),
)


@settings(max_examples=examples(500))
@given(
    RATES,
    st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(1, 50)), max_size=60),
)
@example((10, 1_000_000, None), [(36_000, 1)] * 60)
def test_no_window_has_more_than_the_rate_allows(
    rate: tuple[int, int, int | None], claims: list[tuple[int, int]]
) -> None:
    record, now = make_queue(*rate), NOW
    count, per, burst = rate
    instants: list[int] = []
    for later, wanted in claims:
        now += later
        record, taken = claim(record, wanted, now)
        instants += [now] * taken
    for earlier, later in zip(instants, instants[count:], strict=False):
        assert later - earlier >= per
    if burst is not None:
        spacing = per / count
        for start, earlier in enumerate(instants):
            for more, later in enumerate(instants[start + burst :], start=1):
                assert later - earlier >= more * spacing


@settings(max_examples=examples(300))
@given(RATES)
@example((1, 100, None))
@example((10, 1_000_000, 1))
def test_rate_is_used_up_by_who_comes_when_he_is_told_to(
    rate: tuple[int, int, int | None],
) -> None:
    record, now = make_queue(*rate), NOW
    count, per, _ = rate
    total = 0
    while total < count * 20:
        turn = begin_turn(record, (), "w", 1_000, now)
        if turn.room:
            total += turn.room
            record = end_turn(turn, turn.room, now)
        else:
            assert turn.next_at is not None
            assert turn.next_at > now
            now = turn.next_at
    # Microseconds are whole, and a worker gathers tokens for a moment.
    assert (now - NOW) * 0.95 <= per * 20 + 40 * 25 + 20_000


def test_clock_that_is_behind_counts_what_others_have_begun() -> None:
    record, taken = claim(make_queue(5, 1_000_000), 3, NOW + 500_000)
    assert taken == 3
    record, taken = claim(record, 9, NOW)
    assert taken == 2
    assert claim(record, 9, NOW + 900_000)[1] == 0
    # What the one that is ahead has begun counts for as long as by its own clock.
    assert claim(record, 9, NOW + 1_100_000)[1] == 2


def test_other_limits_leave_what_claims_have_left() -> None:
    record, _ = claim(make_queue(5, 1_000_000, 5), 5, NOW)
    record = replace(record, last_key="k", key_credit=3)
    other = configure(replace(make_queue(6, 1_000_000, 1), version=2), record, NOW)
    assert (other.last_key, other.key_credit, other.version) == ("k", 3, 2)
    assert other.rate_log == record.rate_log
    assert other.rate_at < record.rate_at
    assert configure(make_queue(5, 9_000_000), record, NOW).rate_log is None


KEYS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 60), st.integers(1, 4))
)


@settings(max_examples=examples(300))
@given(KEYS, st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_each_key_has_its_turn(
    waiting: dict[str, tuple[int, int]], rooms: list[int]
) -> None:
    record = QueueRecord(namespace="n", name="q")
    left = {key: count for key, (count, _) in waiting.items()}
    weights = {key: weight for key, (_, weight) in waiting.items()}
    order: list[str] = []
    turn_of = 0
    while any(left.values()):
        turn = begin_turn(record, (), "w", rooms[turn_of % len(rooms)], NOW)
        turn_of += 1
        heads = [Head(key, "t", NOW, weights[key]) for key in left if left[key]]
        found: Counter[str] = Counter()
        for key, kinds, share in turn.shares(heads):
            assert kinds == ["t"]
            taken = min(share, left[key])
            left[key] -= taken
            found[key] += taken
            turn.took(key, taken)
        order += found.elements()
        record = end_turn(turn, found.total(), NOW)
    assert Counter(order) == {key: count for key, (count, _) in waiting.items()}
    # Between two of a key there is a turn of each other one, and what a claim adds.
    most = 2 * (sum(weights.values()) + max(rooms))
    for key in waiting:
        places = [0, *(n + 1 for n, one in enumerate(order) if one == key)]
        assert all(later - earlier <= most for earlier, later in pairwise(places))

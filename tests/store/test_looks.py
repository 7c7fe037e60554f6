"""What is remembered of full looks, and how often they are spared: no database."""

from __future__ import annotations

from durable import limits
from durable.store.looks import Look, Looks, Place, pause_after

NOW = 50_000_000
RECENT = Place(NOW - 2_000_000)


def make_looks() -> Looks:
    looks = Looks(lambda: NOW)
    looks.monotonic = lambda: 0.0
    looks.pause_after = lambda _, __: 1.0
    return looks


def recall(looks: Looks, what: str = "queue") -> Look:
    look = looks.recall(what)
    assert look is not None
    return look


def test_full_looks_are_spared_only_if_they_step_over_much() -> None:
    assert pause_after(1_999, 5.0) == 0.0
    assert pause_after(2_000, 0.004) == 0.2
    assert pause_after(10_000_000, 5.0) == limits.LEASE_SECONDS


def test_look_that_cost_nothing_is_followed_by_a_full_one() -> None:
    looks = make_looks()
    looks.pause_after = pause_after
    looks.remember("queue", {"a": Place(1)}, looks.begin(), walked=10)

    assert looks.recall("queue") is None


def test_look_is_over_after_its_pause() -> None:
    looks = make_looks()
    looks.remember("queue", {"a": Place(1)}, looks.begin(), walked=0)

    assert recall(looks).places == {"a": Place(1)}
    assert looks.recall("other") is None
    looks.monotonic = lambda: 1.0
    assert looks.recall("queue") is None


def test_what_may_come_late_is_looked_for() -> None:
    looks = make_looks()
    found = {"old": Place(7, "r", 2), "new": Place(NOW, "r", 2)}
    looks.remember("queue", found, looks.begin(), walked=0)

    assert recall(looks).places == {"old": Place(7, "r", 2), "new": RECENT}


def test_part_that_has_nothing_any_more_is_remembered() -> None:
    looks = make_looks()
    looks.remember("queue", {"a": Place(7), "b": Place(8)}, looks.begin(), walked=0)
    looks.remember("queue", {"a": Place(9)}, looks.begin(), walked=0)

    assert recall(looks).places == {"a": Place(9), "b": RECENT}


def test_place_never_goes_back() -> None:
    looks = make_looks()
    looks.remember("queue", {"a": Place(7)}, looks.begin(), walked=0)
    look = recall(looks)
    look.advance("a", Place(9))
    look.advance("a", Place(8, "late"))

    assert recall(looks).places == {"a": Place(9)}


def test_what_comes_after_a_full_look_changes_nothing_of_it() -> None:
    looks = make_looks()
    looks.remember("queue", {"a": Place(7)}, looks.begin(), walked=0)
    late = recall(looks)
    looks.remember("queue", {"a": Place(3)}, looks.begin(), walked=0)
    late.advance("a", Place(9))

    assert recall(looks).places == {"a": Place(3)}


def test_so_many_parts_are_remembered_and_no_more() -> None:
    looks = make_looks()
    for first in (0, 60):
        found = {str(n): Place(n) for n in range(first, first + 60)}
        looks.remember("queue", found, looks.begin(), walked=0)
    assert len(recall(looks).places) == 100
    looks.remember(
        "queue", {str(n): Place(n) for n in range(101)}, looks.begin(), walked=0
    )
    assert looks.recall("queue") is None


def test_so_many_queues_are_remembered_and_no_more() -> None:
    looks = make_looks()
    for number in range(1_000):
        looks.remember(f"q{number}", {"a": Place(1)}, looks.begin(), walked=0)

    kept = [n for n in range(1_000) if looks.recall(f"q{n}") is not None]
    assert 999 in kept
    assert len(kept) <= 200

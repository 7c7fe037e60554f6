"""What a server refuses for others' sake is repeated as a whole, and nothing besides.

Users have met work that was done and then done once more, hours later, because the
transaction that was to record it had been refused for a deadlock or a serialization
failure; and elsewhere one that was repeated within the transaction that had failed.

Here each group is refused once at each of its trips, by the server itself: at its
commit after all of it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable.store.records import ParkRun, RecordAttempts, TaskState
from durable.testing.contract.rows import (
    START,
    make_attempt,
    make_closing,
    make_commit,
    make_message,
    make_start,
    make_termination,
)
from tests.store import test_interleavings, test_interleavings_of_tasks
from tests.store.refusing import CODES, refusing
from tests.store.stage import Scene, Stage, owned
from tests.store.test_interleavings_of_tasks import (
    claim,
    completion,
    run_with,
    settling,
    task,
)

pytestmark = pytest.mark.slow

SCENES = [*test_interleavings.SCENES, *test_interleavings_of_tasks.SCENES]


def all_that_records(p: str) -> Scene:
    """Each write that tells what has come of something, in one group."""
    first, second = task(p, 2), task(p, 3, state=TaskState.EXTERNAL)
    others = [owned(p, name) for name in ("closes", "attempts", "parks", "ends")]
    recording = RecordAttempts(
        run_id=p + "attempts",
        attempts=(make_attempt(p + "attempts", 1),),
        is_active=True,
        wake_at=START,
    )
    letter = make_message(p + "parks", p + "letter")
    one = [
        make_start(p + "started"),
        make_commit(p + "r", messages=(letter,), starts=(make_start(p + "child"),)),
        make_closing(p + "closes"),
        recording,
        settling(p, 2),
        completion(p, 3),
        ParkRun(run_id=p + "parks", stuck="{}"),
        make_termination(p + "ends"),
    ]
    before = [run_with(p, first, second), *others, claim(p, 1)]
    return Scene((before, []), one, [make_message(p + "r", p + "later")])


class OrderlyStage(Stage):
    """Plays the groups of scenes one after the other."""

    def play_in_order(self, make_scene: Callable[[str], Scene], *refused: Any) -> Any:
        """Answer what has become of both and of the rows, and how many were refused."""
        p, scene, done = self.set(make_scene)
        with refusing(*refused) as count:
            outcomes = [self._carry_out(0, scene.one), self._carry_out(1, scene.other)]
        attempts = "SELECT attempt, state FROM durable_attempts WHERE run_id LIKE"
        left = self.execute(f"{attempts} '{p}%%' ORDER BY run_id, attempt")
        return (self.look(p, scene, done, outcomes), left), count()


@pytest.fixture(scope="module", params=["postgres_server", "mariadb_server"])
def stage(request: pytest.FixtureRequest) -> Iterator[tuple[OrderlyStage, Any]]:
    server = request.getfixturevalue(request.param)
    url = server.create_database()
    stage = OrderlyStage(url)
    yield stage, CODES[url.partition("://")[0]]
    stage.close()
    server.drop_database(url)


def test_whatever_is_recorded_is_recorded_once_though_it_is_refused(
    stage: tuple[OrderlyStage, tuple[str, ...]],
) -> None:
    check_scene(stage, all_that_records)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("make_scene", SCENES, ids=lambda scene: scene.__name__)
def test_group_that_is_refused_at_any_trip_ends_as_if_it_had_not_been(
    stage: tuple[OrderlyStage, tuple[str, ...]], make_scene: Callable[[str], Scene]
) -> None:
    check_scene(stage, make_scene)


def check_scene(
    stage: tuple[OrderlyStage, tuple[str, ...]], make_scene: Callable[[str], Scene]
) -> None:
    played, codes = stage
    expected = played.play_in_order(make_scene, codes[0], lambda _: False)[0]
    for code in codes:
        number, refused = 0, 1
        while refused:
            number += 1
            found, refused = played.play_in_order(make_scene, code, number.__eq__)
            assert found == expected, f"{code} at trip {number}"
        assert number > 2, "no commit was refused"

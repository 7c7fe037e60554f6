"""Races that were lost once, each in the order that it takes."""

from collections.abc import Iterator

import pytest

from tests.properties.family_checks import check_families
from tests.properties.race_checks import check_world
from tests.properties.race_world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.abandon()


def finish(world: World) -> None:
    """Bring everything to its end, and check it."""
    world.calm()
    check_families(check_world(world, is_faulty=False))
    while world.open_runs():
        world.end_runs()
        world.calm()
    check_families(check_world(world, is_faulty=False))


def read_mail(world: World) -> None:
    """Let reads through, and nothing else."""
    for _ in range(10):
        world.move("read")
        world.move("hand")


def test_how_a_child_ended_comes_by_mail_before_its_worker_hears_of_it(
    world: World,
) -> None:
    world.start("a", is_home=True, is_stubborn=False)
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.send("a", is_home=True, do="act")
    world.flow()
    world.send("kid", is_home=True, do="finish")
    read_mail(world)
    world.move("apply")  # the child is closed, and its parent has mail
    world.stage.finish(0)
    world.settle()  # the parent's next turn is on its way
    world.send("a", is_home=False)
    read_mail(world)
    finish(world)

"""Patch markers at every cut; what they mean is told in test_semantics.py, row 25."""

import asyncio

import pytest

from durable import NondeterminismError, activity, deprecate_patch, patched, workflow
from durable.core.history.events import MarkerRecorded
from durable.core.history.payload import Payload
from durable.core.machines.marker import find_patch
from durable.testing.driver import Driver


@activity(name="marker machine.look", retry=None)
async def look(value: int = 0) -> int:
    return value


@workflow(name="marker machine.patching")
async def patching() -> int:
    return await look(1 if patched("change") else 0)


def test_marker_names_the_patch_and_the_line() -> None:
    driver = Driver(patching())
    driver.start()
    event = driver.history[1].attributes
    assert isinstance(event, MarkerRecorded)
    assert event.marker_name == "core_patch"
    assert find_patch(event) == ("change", False)
    assert event.source.startswith(__file__)


@pytest.mark.parametrize("crash", [False, True])
def test_replayed_marker_keeps_the_way(crash: bool) -> None:
    driver = Driver(patching())
    driver.start()
    if crash:
        driver.crash()
    driver.complete(3, 7)
    assert driver.result() == 7


def test_marker_that_the_code_lacks_is_a_mismatch() -> None:
    is_edited = False

    @workflow
    async def editing() -> int:
        if not is_edited:
            patched("change")
        return await look()

    driver = Driver(editing())
    driver.start()
    is_edited = True
    driver.crash()
    with pytest.raises(NondeterminismError) as caught:
        driver.replay()
    assert caught.value.event_id == 2
    assert caught.value.recorded is not None
    assert caught.value.recorded.startswith("MarkerRecorded('change')")


def test_marker_of_another_patch_is_a_mismatch() -> None:
    """The code asks for a patch that is recorded, but later than it now asks."""
    order = ["a", "b"]

    @workflow
    async def editing() -> None:
        for patch in order:
            patched(patch)

    driver = Driver(editing())
    driver.start()
    driver.crash()
    order.reverse()
    with pytest.raises(NondeterminismError, match="the patch differs"):
        driver.replay()


@pytest.mark.parametrize("count", [1, 3])
def test_deprecated_markers_may_all_be_missing(count: int) -> None:
    names = [f"patch {number}" for number in range(count)]

    @workflow
    async def deprecating() -> int:
        for name in names:
            deprecate_patch(name)
        return await look()

    driver = Driver(deprecating())
    driver.start()
    names.clear()
    driver.crash()
    driver.complete(count + 2, 5)
    assert driver.result() == 5


def test_deprecated_marker_that_is_alone_in_its_turn_may_be_missing() -> None:
    is_edited = False

    @workflow
    async def deprecating() -> int:
        second = asyncio.ensure_future(look(2))
        first = await look(1)
        if not is_edited:
            deprecate_patch("change")
        return first + await second

    driver = Driver(deprecating())
    driver.start()
    driver.complete(2, 5)
    assert isinstance(driver.history[-1].attributes, MarkerRecorded)
    is_edited = True
    driver.crash()
    driver.complete(driver.pending[0], 6)
    assert driver.result() == 11


def test_deprecated_marker_matches_a_call_of_either_kind() -> None:
    call = deprecate_patch

    @workflow
    async def changing() -> int:
        call("change")
        return await look()

    driver = Driver(changing())
    driver.start()
    call = patched  # type: ignore[assignment]  # a rollback of the deploy
    driver.crash()
    driver.complete(3, 5)
    assert driver.result() == 5


def test_other_markers_are_no_patches() -> None:
    assert find_patch(MarkerRecorded("other", {"patch": Payload()})) is None

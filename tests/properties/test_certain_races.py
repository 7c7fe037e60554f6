"""Races that were lost once, each in the order that it takes."""

import itertools
from collections.abc import Iterator

import pytest

from durable.store.records import ReapWorkers
from tests.properties.family_checks import check_families
from tests.properties.gated_store import MOVES
from tests.properties.race_checks import Chain, check_rows, check_world
from tests.properties.race_world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.abandon()


def finish(world: World, *, is_faulty: bool = False) -> dict[str, list[Chain]]:
    """Bring everything to its end, and check it."""
    world.calm()
    check_families(check_world(world, is_faulty=is_faulty))
    while world.open_runs():
        world.end_runs()
        world.calm()
    chains = check_world(world, is_faulty=is_faulty)
    check_families(chains)
    return chains


def test_how_a_child_ended_comes_by_mail_before_its_worker_hears_of_it(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.send("a", is_home=True, do="act")
    world.flow()
    world.send("kid", is_home=True, do="finish")
    world.let_reads_through()
    world.move("apply")  # the child is closed, and its parent has mail
    world.stage.finish(0)
    world.settle()  # the parent's next turn is on its way
    world.send("a", is_home=False)
    world.let_reads_through()
    finish(world)


def test_a_commit_took_place_though_its_answer_was_lost(world: World) -> None:
    """Its inputs are recorded, and must not be recorded again."""
    world.start("a", is_home=True)
    world.flow()
    world.gate.fail_next("lost")
    sent = world.send("a", is_home=True, do="act")
    asked = world.update("ask", "a", is_home=True, number=100)
    world.flow()
    assert sent.is_acknowledged
    assert asked.is_acknowledged
    finish(world, is_faulty=True)


@pytest.mark.parametrize("gates", range(8))
def test_an_update_was_answered_though_that_answer_was_lost(
    world: World, gates: int
) -> None:
    """Whichever commit it is that took place, the sender hears of the outcome."""
    world.start("a", is_home=True)
    world.flow()
    asked = world.update("work", "a", is_home=True, number=4)
    for gate in ("read", "hand", "apply", "deliver", "read", "hand", "apply")[:gates]:
        world.move(gate)
    world.gate.fail_next("lost")
    world.flow()
    finish(world, is_faulty=True)
    assert asked.ended


@pytest.mark.parametrize("do", ["finish", "continue"])
def test_an_end_took_place_though_its_answer_was_lost(world: World, do: str) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.gate.fail_next("lost")
    world.send("a", is_home=True, do=do)
    world.flow()
    world.send("a", is_home=False)
    (chain,) = finish(world, is_faulty=True)["a"]
    assert len(chain.records) == (2 if do == "continue" else 1)


def test_a_child_began_though_the_answer_was_lost(world: World) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.let_reads_through()
    world.move("apply")
    world.gate.fail_next("lost")
    world.move("deliver")  # the parent's turn is durable, so the child is started
    world.flow()
    world.send("kid", is_home=False, do="act")
    (chain,) = finish(world, is_faulty=True)["kid"]
    assert chain.past.acted == ["3"]


def test_a_child_could_not_be_started_while_its_parent_was_being_committed(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.let_reads_through()
    world.move("apply")
    world.move("deliver")  # the child's start waits at the gate
    world.send("a", is_home=True)
    world.gate.fail_next("refused")
    world.move("apply")
    assert finish(world, is_faulty=True)["kid"]


@pytest.mark.parametrize("do", ["try_on", "act"])
def test_an_attempt_could_not_be_recorded(world: World, do: str) -> None:
    """It has not begun, and must begin once it can be recorded."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do=do)
    world.flow()
    world.stage.finish(0, fails=True)
    world.flow()
    world.gate.is_full = True
    world.advance(1)  # the next attempt is due
    world.flow()
    world.gate.mend()
    (chain,) = finish(world, is_faulty=True)["a"]
    assert chain.past.acted == ["2"] if do == "try_on" else ["failed"]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_the_database_could_not_be_read_when_a_run_had_to_be(
    world: World, is_loaded: bool
) -> None:
    world.start("a", is_home=True)
    world.flow()
    if is_loaded:  # a refused commit makes it be read again
        world.send("a", is_home=True)
        world.flow()
        world.gate.fail_next("refused")
        world.send("a", is_home=True)
    else:  # others have taken its place in memory
        world.send("a", is_home=False)
        world.start("b", is_home=True)
        world.flow()
        world.start("c", is_home=True)
        world.flow()
        world.send("a", is_home=False)
    world.gate.is_failing_reads = True
    world.flow()
    world.send("a", is_home=False)
    world.advance(30)
    world.flow()
    (chain,) = finish(world, is_faulty=True)["a"]
    assert len(chain.past.seen) == 4  # with the one that ends it


def test_a_database_that_takes_no_writes_is_not_asked_without_end(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.gate.is_full = True
    sent = world.send("a", is_home=True, do="child", to="kid")
    world.flow()  # which comes to an end
    world.advance(10)
    world.flow()
    assert not sent.ended
    world.gate.mend()
    finish(world, is_faulty=True)
    assert sent.is_acknowledged


def test_a_message_that_was_sent_again_does_not_wait_in_the_inbox_for_ever(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    first = world.send("a", is_home=True)
    world.flow()
    world.send("a", is_home=False, number=first.number, key=first.key)
    world.flow()
    assert not world.gate.database.inbox
    finish(world)


def test_an_update_is_not_answered_by_what_is_not_committed(world: World) -> None:
    """Its turn is refused, because of mail that makes the run go on before it."""
    world.start("a", is_home=True)
    world.flow()
    world.handles.clear()
    leaving = world.update("leave", "a", is_home=False)
    asked = world.update("ask", "a", is_home=True, number=100)
    world.move("read")
    world.move("hand")  # its run is found, and decides
    again = world.update("ask", "a", is_home=True, number=asked.number)
    assert not again.ended
    (chain,) = finish(world)["a"]
    assert len(chain.records) == 2
    assert leaving.ended
    assert asked.answer == again.answer == asked.number


def test_an_update_that_came_twice_by_different_ways_is_one(world: World) -> None:
    world.start("a", is_home=True)
    world.flow()
    direct = world.update("work", "a", is_home=True)
    mailed = world.update("work", "a", is_home=False, number=direct.number)
    finish(world)
    assert direct.answer == mailed.answer == direct.number


def test_what_was_committed_first_is_received_first(world: World) -> None:
    world.start("a", is_home=True)
    world.flow()
    mailed = [world.send("a", is_home=False) for _ in range(2)]
    direct = world.send("a", is_home=True)
    world.let_reads_through()
    late = world.send("a", is_home=False)
    world.move("apply")
    (chain,) = finish(world)["a"]
    order = [chain.past.seen.index(deed.number) for deed in (*mailed, late)]
    assert order == sorted(order)
    assert chain.past.seen.index(direct.number) > order[1]


def test_mail_arrives_as_a_run_passes_its_time(world: World) -> None:
    """The end is refused, looked at again, and recorded once."""
    world.start("a", is_home=True, run_timeout=5)
    world.flow()
    asked = world.update("ask", "a", is_home=False)
    world.advance(6)
    world.send("a", is_home=False)
    (chain,) = finish(world)["a"]
    assert chain.last.status.value == "timed_out"
    assert asked.ended


def test_an_update_is_sent_to_a_run_that_is_past_its_time(world: World) -> None:
    world.start("a", is_home=True, run_timeout=5)
    world.flow()
    world.advance(6)
    asked = world.update("ask", "a", is_home=True)
    mailed = world.update("ask", "a", is_home=False)
    finish(world)
    assert asked.ended
    assert mailed.ended


def test_a_worker_that_drains_lets_no_message_overtake_the_inbox(world: World) -> None:
    """What came directly was to be recorded, and what came before it lay unread."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="continue")
    world.flow()  # a handle that knew the last run now asks the store
    world.send("a", is_home=True, do="")
    world.move("apply")
    world.move("deliver")
    world.send("a", is_home=True, do="")
    world.restart()
    finish(world)


@pytest.mark.parametrize("moves", range(6))
def test_run_that_is_loaded_while_its_worker_drains_is_called_for_again(
    world: World, moves: int
) -> None:
    """The next run of a chain: its row was made to say that it waits for nothing."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="continue")
    for gate in itertools.islice(itertools.cycle(MOVES), moves):
        world.move(gate)
    world.restart()
    finish(world)


def test_an_attempt_fails_while_a_childs_start_is_on_its_way(world: World) -> None:
    """The run's row must go on to say that there is something under way."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="try_beside")
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.let_reads_through()
    world.move("apply")
    world.move("deliver")  # the child's start waits at the gate
    world.stage.finish(0, fails=True)
    world.settle()
    world.move("apply")  # both are recorded; the parent hears of neither
    check_rows(world)
    world.crash()
    finish(world)


def test_an_update_that_is_sent_again_is_refused_again(world: World) -> None:
    """Its reply has the name of one that was read before, and is another."""
    world.start("a", is_home=True)
    world.flow()
    for _ in range(3):
        world.update("ask", "a", is_home=False, number=7)  # the validator says no
        world.flow()
    finish(world)


@pytest.mark.parametrize("do", ["act", "try_on", "child", "continue", "finish"])
@pytest.mark.parametrize("moves", [0, 1, 2, 3, 40])
def test_a_run_gets_mail_before_its_worker_hears_that_it_is_created(
    world: World, do: str, moves: int
) -> None:
    """It is in memory once: what one of two begins, the other takes for lost."""
    world.start("a", is_home=True)
    world.move("apply")  # it is created, and its worker has not heard of it
    world.send("a", is_home=False, do=do, to="kid")
    world.let_reads_through()
    for gate in itertools.islice(itertools.cycle(MOVES), moves):
        world.move(gate)
    world.send("a", is_home=False)
    world.flow()
    (chain,) = finish(world)["a"]
    assert chain.past.acted == (["2"] if do in ("act", "try_on") else [])


def test_a_child_gets_mail_before_its_worker_hears_that_it_is_created(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="child", to="kid")
    world.let_reads_through()
    world.move("apply")
    world.move("deliver")  # the child's start waits at the gate
    world.move("apply")
    world.send("kid", is_home=False, do="act")
    world.let_reads_through()
    world.flow()
    world.send("kid", is_home=False)
    world.flow()
    (chain,) = finish(world)["kid"]
    assert chain.past.acted == ["3"]


@pytest.mark.parametrize("fault", ["lost", "refused"])
def test_a_run_gets_mail_while_its_worker_cannot_tell_whether_it_is_created(
    world: World, fault: str
) -> None:
    world.gate.fail_next(fault)
    world.start("a", is_home=True)
    world.move("apply")
    world.send("a", is_home=False, do="act")
    world.let_reads_through()
    world.flow()
    world.send("a", is_home=False)
    chains = finish(world, is_faulty=True)
    assert [chain.past.acted for chain in chains.get("a", [])] == (
        [["2"]] if fault == "lost" else []
    )


@pytest.mark.parametrize("do", ["act", "finish"])
def test_a_lease_is_lost_before_the_worker_hears_that_a_run_is_created(
    world: World, do: str
) -> None:
    """The run is another worker's by then, if only the next of this process."""
    world.start("a", is_home=True)
    world.move("apply")
    worker = world.home._worker
    assert worker is not None
    world.loop.call_soon(worker.lease_lost, worker.worker_id)
    world.settle()
    world.flow()
    world.send("a", is_home=False, do=do)
    world.flow()
    world.send("a", is_home=True)
    (chain,) = finish(world)["a"]
    assert chain.past.acted == (["2"] if do == "act" else [])


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_process_that_was_stopped_begins_nothing_that_is_another_workers(
    world: World, attempt: int
) -> None:
    """Between the commit that lets an attempt begin and its first line."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="try_on")
    if attempt == 2:
        world.flow()
        world.stage.finish(0, fails=True)
        world.flow()
        world.advance(1)  # the next attempt is due
    world.let_reads_through()
    world.move("apply")  # it may begin
    worker = world.home._worker
    assert worker is not None
    reaping = ReapWorkers(presumed_dead=(worker.worker_id,))
    taking = world.loop.spawn(world.away._store.perform(reaping))
    world.settle()
    assert taking.result() == [worker.worker_id]
    world.move("deliver")
    assert not world.stage.waiting
    world.flow()
    assert len(world.stage.waiting) == 1  # begun once, under the next lease
    finish(world, is_faulty=True)


def test_a_cancelled_attempt_is_over_before_the_next_activity_begins(
    world: World,
) -> None:
    """Both are asked for in one turn; the row must say that one is under way."""
    world.start("a", is_home=True, is_stubborn=True)
    world.flow()
    world.send("a", is_home=False, do="try_on")
    world.crash()
    world.stop("cancel", "a", is_home=False)
    world.send("a", is_home=False, do="try_on")
    world.crash()
    check_rows(world)
    world.crash()
    finish(world)


def test_the_end_of_an_attempt_is_recorded_though_the_database_refused_it_once(
    world: World,
) -> None:
    """Beside the attempt that followed it stood one that had never ended."""
    world.start("a", is_home=True)
    world.flow()
    world.send("a", is_home=True, do="try_on")
    world.flow()
    world.stage.finish(0, fails=True)
    world.gate.fail_next("refused")
    world.flow()
    (chain,) = finish(world, is_faulty=True)["a"]
    assert chain.past.acted == ["2"]


def test_a_run_goes_on_as_another_though_the_answer_of_its_start_was_lost(
    world: World,
) -> None:
    """Its first turn was its last; nobody but its worker may begin the next run."""
    world.gate.fail_next("lost")
    world.start("a", is_home=True, is_hasty=True)
    world.flow()
    world.advance(60)
    world.flow()
    check_rows(world)
    (chain,) = finish(world, is_faulty=True)["a"]
    assert len(chain.records) == 2


def test_an_update_is_answered_though_its_runs_lease_was_lost_as_it_was_committed(
    world: World,
) -> None:
    world.start("a", is_home=True)
    world.flow()
    asked = world.update("ask", "a", is_home=True, number=100)
    world.let_reads_through()
    worker = world.home._worker
    assert worker is not None
    world.loop.call_soon(worker.lease_lost, worker.worker_id)
    world.settle()
    world.flow()
    finish(world, is_faulty=True)
    assert asked.ended


def test_what_a_draining_worker_has_kept_is_not_kept_again_when_it_is_sent_again(
    world: World,
) -> None:
    """It lay in the inbox, was recorded for the next worker, and came once more."""
    world.start("a", is_home=True)
    world.move("apply")
    sent = world.send("a", is_home=False)
    world.let_reads_through()
    world.send("a", is_home=True, number=sent.number, key=sent.key, do="again")
    world.restart()
    (chain,) = finish(world)["a"]
    assert chain.past.seen.count(sent.number) == 1


def test_failure_of_an_activity_is_no_cause_of_what_another_task_raises(
    world: World,
) -> None:
    """The turn is driven where that failure is handled."""
    world.start("a", is_home=True)
    world.move("apply")
    world.send("a", is_home=False, do="act")
    world.let_reads_through()
    world.send("a", is_home=False, do="fail")
    world.send("a", is_home=False, do="finish")
    world.crash()
    world.stage.finish(0, fails=True)
    world.settle()
    finish(world)


def test_a_run_is_terminated_that_has_inputs_which_no_task_has_taken(
    world: World,
) -> None:
    """Its last event belongs to no task, and the terminal one comes after them all."""
    world.start("a", is_home=True)
    world.move("apply")
    world.send("a", is_home=False, do="act")
    world.let_reads_through()
    world.update("work", "a", is_home=False)
    world.crash()
    for _ in range(2):
        world.stage.finish(0)
        world.settle()
    world.stop("terminate", "a", is_home=True)
    world.restart()
    finish(world)

"""What became of a commit whose answer is lost: its own fate, and for good."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pymysql
import pytest

from durable.errors import HistoryTakenError
from durable.store.lease import RegisterWorker
from durable.store.mysql.mysql import MysqlDatabase
from durable.store.mysql.session import MysqlSession
from durable.store.mysql.url import parse
from durable.store.servers.server_clock import ServerClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import make_commit, make_start, make_worker
from tests.store.stage import ignore, make_executor

pytestmark = [pytest.mark.slow]

LEAVE_TRACE = (
    "INSERT INTO durable_changes (session_id, version, changed_at) VALUES ('{}', 7, 0)"
)
FIND_TRACE = "SELECT version FROM durable_changes WHERE session_id = '{}'"


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def url(request: pytest.FixtureRequest) -> str:
    """A database of its own on each server."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def workers(url: str) -> Iterator[tuple[GroupExecutor, GroupExecutor]]:
    one, other = make_executor(url), make_executor(url)
    execute(one, RegisterWorker(make_worker("1"), ignore))
    execute(other, RegisterWorker(make_worker("2"), ignore))
    yield one, other
    one.close()
    other.close()


def execute(executor: GroupExecutor, *operations: Any) -> list[Any]:
    outcomes, _ = executor.execute(list(operations))
    return [result if error is None else error for result, error in outcomes]


def test_the_same_rows_of_another_worker_are_not_ones_own(
    workers: tuple[GroupExecutor, GroupExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever drives a run from one history writes one and the same: seen in a run of
    # many workers under faults, where both then began the same attempt.
    one, other = workers
    execute(one, make_start("r"))
    session = one.open()
    commit = session.commit

    def be_cut_off(**given: Any) -> None:
        raw: Any = session.connection.connection.driver_connection
        raw.close()
        assert execute(other, make_commit("r", 3, 3)) == [None]
        commit(**given)

    monkeypatch.setattr(session, "commit", be_cut_off)

    (outcome,) = execute(one, make_commit("r", 3, 3))

    assert isinstance(outcome, HistoryTakenError)


def open_session(url: str) -> MysqlSession:
    session = MysqlDatabase(parse(url, url), ServerClock(), migrate=True).open_writer()
    assert isinstance(session, MysqlSession)
    return session


def find_trace(session: MysqlSession, name: str) -> bool:
    return session.send({"": FIND_TRACE.format(name)})[""] == ((7,),)


@pytest.fixture
def sessions(mariadb_url: str) -> Iterator[tuple[MysqlSession, MysqlSession]]:
    with (
        closing(open_session(mariadb_url)) as one,
        closing(open_session(mariadb_url)) as other,
    ):
        yield one, other


def write(session: MysqlSession, name: str) -> None:
    session.begin()
    session.begin_with({})
    session.write_later([LEAVE_TRACE.format(name)])


@pytest.mark.parametrize("is_news", [True, False])
@pytest.mark.parametrize("commits_before", [0, 1, 2])
def test_a_commit_that_was_not_found_cannot_happen_later(
    sessions: tuple[MysqlSession, MysqlSession], commits_before: int, is_news: bool
) -> None:
    one, other = sessions
    for number in range(commits_before):
        write(one, f"before {number}")
        one.commit(is_news=is_news)
    write(one, "late")
    send = one.send

    def ask_first(asked: dict[str, str]) -> Any:
        # What was sent is on its way still as the fate is asked for.
        assert one.fate is not None
        assert not other.read_fate(one.fate)
        return send(asked)

    one.send = ask_first  # type: ignore[method-assign]  # stands between the two

    with pytest.raises(pymysql.OperationalError, match="out of range"):
        one.commit(is_news=is_news)

    one.rollback()
    assert not find_trace(other, "late")


@pytest.mark.parametrize("is_news", [True, False])
@pytest.mark.parametrize("commits_before", [0, 1, 2])
def test_a_commit_that_took_place_is_found(
    sessions: tuple[MysqlSession, MysqlSession], commits_before: int, is_news: bool
) -> None:
    one, other = sessions
    for number in range(commits_before + 1):
        write(one, f"before {number}")
        one.commit(is_news=is_news)

    assert one.fate is not None
    assert other.read_fate(one.fate)
    assert other.read_fate(one.fate)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_commit_under_way_is_waited_for(
    sessions: tuple[MysqlSession, MysqlSession], end: str
) -> None:
    one, other = sessions
    write(one, "under way")
    send = one.send

    def stop_before_the_end(asked: dict[str, str]) -> Any:
        *statements, last = asked
        assert asked[last] == "COMMIT"
        answers = send({name: asked[name] for name in statements})
        assert one.fate is not None
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(other.read_fate, one.fate)
            with pytest.raises(TimeoutError):
                found.result(0.2)
            answers |= send({last: end})
            assert found.result() == (end == "COMMIT")
        return answers

    one.send = stop_before_the_end  # type: ignore[method-assign]  # likewise

    one.commit()

    assert find_trace(other, "under way") == (end == "COMMIT")

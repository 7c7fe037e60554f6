"""Which runs a store finds by a condition, in which order; walls of namespaces."""

# ruff: noqa: S101, S311 - these assertions are for pytest, the draws from a seed

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import pytest

from durable.clock import to_datetime
from durable.core.history.payload import PAUSED_TEXT, Payload
from durable.errors import AttributeTypeError
from durable.search.conditions import Attribute, Condition
from durable.search.kinds import pack, to_payload
from durable.search.orders import Order
from durable.search.run_fields import Run
from durable.store.queries import (
    CountRuns,
    FindDueRuns,
    FindRun,
    FindUnowned,
    ListRuns,
    ReadAttributeKinds,
    ReadNamespaces,
    SearchRuns,
)
from durable.store.records import (
    NamespaceRecord,
    ParkRun,
    Properties,
    PutNamespace,
    RunFilter,
    RunRecord,
    RunStatus,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_child,
    make_closing,
    make_commit,
    make_owned,
    make_start,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Opened

MINUTE: Final = 60_000_000
# Some end soon, others after minutes.
ENDS: Final = (8, 9, 12, 14, MINUTE, MINUTE * 2, MINUTE * 3)
CUSTOMER: Final = Attribute("customer", str)
AMOUNT: Final = Attribute("amount", int)
RATE: Final = Attribute("rate", float)
URGENT: Final = Attribute("urgent", bool)
DUE: Final = Attribute("due", datetime)
TAGS: Final = Attribute("tags", list[str])
NOTES: Final = Attribute("notes", str, text=True)

Values: TypeAlias = dict[Attribute[Any], Any]
_Wanted: TypeAlias = tuple[Condition, Callable[[RunRecord, Values], bool]]


def pack_values(values: Values) -> str | None:
    """Pack attributes as the row of a run has them."""
    payloads: dict[str, Payload] = {
        one.name: to_payload(one.kind, value, one.name) for one, value in values.items()
    }
    return pack(payloads)


# What databases have been known to compare in ways of their own.
_TEXTS: Final = [
    "a",
    "A",
    "a ",
    "á",
    "pd-x",
    "pd",
    "x_y",
    "100%",
    "",
    "Z",
    "\U0001f40d",
]
_LISTS: Final = [[], ["a"], ["a", "b", "a"], ["pd-x"]]
_NOTES: Final = ["", "Hello World", "hello", "Größe größer", "pd-x"]
_DRAWN: Final[dict[Attribute[Any], list[Any]]] = {
    CUSTOMER: _TEXTS,
    AMOUNT: [-(2**63), -1, 0, 1, 2, 2**63 - 1],
    RATE: [-1e300, -0.5, -0.0, 0.0, 5e-324, 0.5, 1.0, 1e300],
    URGENT: [True, False],
    DUE: [to_datetime(START + seconds) for seconds in range(3)],
    TAGS: _LISTS,
    NOTES: _NOTES,
}


STUCK, HELD = '{"message":"x"}', PAUSED_TEXT + "}"


class _Draw:
    """Draws runs, and conditions with what plain Python says of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def values(self) -> Values:
        drawn = self._random
        return {
            one: drawn.choice(values)
            for one, values in _DRAWN.items()
            if drawn.random() < 0.6
        }

    def condition(self, depth: int = 3) -> _Wanted:
        kind = self._random.randrange(6 if depth else 2)
        if kind < 2:
            return (
                self._of_attribute() if self._random.random() < 0.7 else self._of_run()
            )
        one, holds = self.condition(depth - 1)
        if kind == 2:
            return ~one, lambda run, values: not holds(run, values)
        other, also = self.condition(depth - 1)
        if kind == 3:
            return one | other, lambda r, v: holds(r, v) or also(r, v)
        return one & other, lambda r, v: holds(r, v) and also(r, v)

    def _of_attribute(self) -> _Wanted:
        drawn = self._random
        one = drawn.choice(list(_DRAWN))
        if drawn.random() < 0.15:
            empty = one.is_null()
            # What has no word, or no text, has nothing to be found by.
            nothing: list[Any] = (
                [None, [], ""] if one is TAGS or one is NOTES else [None]
            )
            return empty, lambda _, values: values.get(one) in nothing
        if one is TAGS:
            tag = drawn.choice(["a", "b", "pd"])
            has_it: Condition = TAGS == tag  # noqa: SIM300 - a condition
            return has_it, lambda _, values: tag in values.get(TAGS, ())
        if one is NOTES:
            word = drawn.choice(["HELLO", "größe", "gr", "pd"])
            if drawn.random() < 0.5:
                is_there: Condition = NOTES == word  # noqa: SIM300 - a condition
                return is_there, lambda _, v: word.lower() in _words(v)
            begins = NOTES.starts_with(word)
            return begins, lambda _, v: any(
                w.startswith(word.lower()) for w in _words(v)
            )
        value, other = drawn.choice(_DRAWN[one]), drawn.choice(_DRAWN[one])
        if one is CUSTOMER and drawn.random() < 0.3:
            begins = CUSTOMER.starts_with(value)
            return begins, lambda _, v: one in v and v[one].startswith(value)
        if drawn.random() < 0.2:
            among = one.in_([value, other])
            return among, lambda _, v: one in v and v[one] in (value, other)
        if one is URGENT or drawn.random() < 0.4:
            return one == value, lambda _, v: one in v and v[one] == value
        if drawn.random() < 0.3:
            within = one.between(value, other)
            return within, lambda _, v: one in v and value <= v[one] <= other
        return one > value, lambda _, v: one in v and v[one] > value

    def _of_run(self) -> _Wanted:
        at = to_datetime(START + self._random.randrange(6))
        table: list[_Wanted] = [
            (Run.status == "failed", lambda r, _: r.status is RunStatus.FAILED),
            (Run.status == "running", lambda r, _: r.status is RunStatus.RUNNING),
            (Run.type != "order", lambda r, _: r.workflow_type != "order"),
            (Run.type == "other", lambda r, _: r.workflow_type == "other"),
            (Run.started >= at, lambda r, _: to_datetime(r.started_at) >= at),
            (Run.id.starts_with("wf-1"), lambda r, _: r.workflow_id.startswith("wf-1")),
            (Run.id == "wf-07", lambda r, _: r.workflow_id == "wf-07"),
            (Run.run_id.in_(["03", "x"]), lambda r, _: r.run_id == "03"),
            (Run.version.is_null(), lambda r, _: r.version is None),
            (Run.version < "2", lambda r, _: r.version is not None and r.version < "2"),
            (Run.version == "10", lambda r, _: r.version == "10"),
            (Run.version.in_(["1", "9"]), lambda r, _: r.version == "1"),
            (Run.queue == "gpu", lambda r, _: r.task_queue == "gpu"),
            (Run.queue == "default", lambda r, _: r.task_queue == "default"),
            (Run.queue.in_(["gpu", "default"]), lambda r, _: True),
            (Run.queue.starts_with("g"), lambda r, _: r.task_queue == "gpu"),
            (Run.parent_run_id == "00", lambda r, _: r.parent_run_id == "00"),
            (Run.parent_id == "wf-00", lambda r, _: r.parent_workflow_id == "wf-00"),
            (
                Run.root_run_id == "00",
                lambda r, _: (r.root_run_id or r.first_run_id) == "00",
            ),
            (Run.first_run_id == "00", lambda r, _: r.first_run_id == "00"),
            (Run.first_run_id == "07", lambda r, _: r.first_run_id == "07"),
            (
                Run.continued_from_run_id.is_null(),
                lambda r, _: r.continued_from_run_id is None,
            ),
            (
                Run.continued_from_run_id == "00",
                lambda r, _: r.continued_from_run_id == "00",
            ),
            (
                Run.duration >= timedelta(minutes=2),
                lambda r, _: lasted(r, 2 * MINUTE, 9 * MINUTE),
            ),
            (
                Run.duration < timedelta(minutes=2),
                lambda r, _: lasted(r, 0, 2 * MINUTE),
            ),
            (Run.stuck == True, lambda r, _: r.stuck == STUCK),  # noqa: E712 - a condition
            (Run.paused == True, lambda r, _: r.stuck == HELD),  # noqa: E712 - a condition
            (Run.closed.is_null(), lambda r, _: r.closed_at is None),
            (
                Run.closed > to_datetime(START + 10),
                lambda r, _: r.closed_at is not None and r.closed_at > START + 10,
            ),
            (
                Run.duration > timedelta(microseconds=9),
                lambda r, _: r.closed_at is not None and r.closed_at - r.started_at > 9,
            ),
        ]
        return self._random.choice(table)

    def run(self, number: int) -> tuple[RunRecord, Values]:
        drawn = self._random
        values = self.values()
        status = drawn.choice(
            [RunStatus.RUNNING, RunStatus.FAILED, RunStatus.COMPLETED]
        )
        is_open = status is RunStatus.RUNNING
        start = make_start(
            f"{number:02}",
            started_at=START + drawn.randrange(5),
            workflow_type=drawn.choice(["order", "other"]),
            status=status,
            closed_at=None if is_open else START + drawn.choice(ENDS),
            task_queue=drawn.choice(["default", "gpu"]),
            stuck=drawn.choice([STUCK, HELD, None]) if is_open else None,
            version=drawn.choice([None, "1", "10", "2"]),
            parent_run_id="00" if number % 5 == 1 else None,
            # A parent that has closed takes no open children.
            parent_workflow_id="wf-00" if number % 5 == 1 and not is_open else None,
            root_run_id="00" if number % 5 == 1 else None,
            first_run_id="00" if number % 5 == 2 else f"{number:02}",
            continued_from_run_id="00" if number % 5 == 2 else None,
            attributes=pack_values(values),
        )
        return start.record, values


def lasted(run: RunRecord, least: int, below: int) -> bool:
    """Whether it took so many microseconds, and less than those."""
    return run.closed_at is not None and least <= run.closed_at - run.started_at < below


def _words(values: Values) -> list[str]:
    text: str = values.get(NOTES, "")
    return text.lower().replace("-", " ").split()


class SearchContract:
    """Conditions, orders and pages; counts; types of attributes; namespaces."""

    @pytest.mark.parametrize("seed", range(5))
    async def test_runs_are_found_as_a_plain_filter_finds_them(
        self, store: Opened, seed: int
    ) -> None:
        draw = _Draw(seed)
        runs = [draw.run(number) for number in range(30)]
        await store.together(*(make_start_of(run) for run, _ in runs))
        order = Order("CloseTime" if seed % 2 else "StartTime", seed < 3)

        for _ in range(40):
            where, holds = draw.condition()
            expected = [r for r, values in runs if holds(r, values)]
            listed = [r for r in expected if order.instant_of(r) is not None]
            listed.sort(
                key=lambda r: (order.instant_of(r) or 0, r.run_id),
                reverse=order.is_descending,
            )

            pages = await read_pages(store, where, order, limit=7)

            assert pages == [run.run_id for run in listed], where
            counts = await store.read(CountRuns(NAMESPACE, where))
            assert (counts.total, counts.is_complete) == (len(expected), True), where

    async def test_pages_of_runs_that_started_at_one_instant_skip_none(
        self, store: Opened
    ) -> None:
        names = [f"{number:03}" for number in range(100)]
        values = pack_values({CUSTOMER: "ann"})
        starts = [make_start(name, attributes=values) for name in names]
        await store.together(*starts)

        for order in (Order(), Order("StartTime", is_descending=False)):
            found = await read_pages(store, CUSTOMER == "ann", order, limit=7)
            assert found == sorted(names, reverse=order.is_descending)

    @pytest.mark.parametrize(
        "order", [Order(), Order("CloseTime", is_descending=False)]
    )
    async def test_pages_repeat_and_skip_none_wherever_the_clock_is_set_meanwhile(
        self, store: Opened, order: Order
    ) -> None:
        """What comes between two pages is older or newer than what they end with."""
        await store.together(*(make_ended(f"m{n}", 10 * n) for n in range(8)))
        found: list[str] = []
        after = None
        while page := await store.read(
            SearchRuns(NAMESPACE, None, order, after, limit=3)
        ):
            found += [run.run_id for run in page]
            after = (order.instant_of(page[-1]) or 0, page[-1].run_id)
            # Of another clock: ids and rows are newer than their instants, or older.
            there = len(found)
            instants = (-there, after[0] - START, 10 * there, 1_000 + there)
            await store.together(
                *(
                    make_ended(f"{name}{there}", instant)
                    for name, instant in zip("azbc", instants, strict=True)
                    if there < 20
                )
            )

        assert len(found) == len(set(found))
        assert {f"m{n}" for n in range(8)} <= set(found)
        listed = await read_pages(store, None, order)
        assert [run_id for run_id in listed if run_id in found] == found

    async def test_attributes_that_a_commit_changes_are_found_at_once(
        self, store: Opened
    ) -> None:
        before = pack_values({CUSTOMER: "ann", TAGS: ["a", "b"]})
        after = pack_values({CUSTOMER: "bob", TAGS: ["c"]})
        await store.perform(make_owned("r1", attributes=before))
        for packed, events in ((after, (3, 3)), (None, (4, 4))):
            properties = Properties(namespace=NAMESPACE, attributes=packed, memo="{}")
            await store.perform(make_commit("r1", *events, properties=properties))

            loaded = await store.load("r1")
            assert (loaded.record.attributes, loaded.record.memo) == (packed, "{}")
            for where in (CUSTOMER == "ann", TAGS == "b"):
                assert await read_pages(store, where) == []
            for where in (CUSTOMER == "bob", TAGS == "c"):
                assert await read_pages(store, where) == ["r1"] * (packed is not None)

    async def test_a_start_and_its_change_in_one_group_are_one_row(
        self, store: Opened
    ) -> None:
        before, after = (pack_values({CUSTOMER: name}) for name in ("ann", "bob"))
        properties = Properties(namespace=NAMESPACE, attributes=after, memo=None)
        await store.together(
            make_owned("r1", attributes=before),
            make_commit("r1", properties=properties),
        )

        assert await read_pages(store, CUSTOMER == "ann") == []
        assert await read_pages(store, CUSTOMER == "bob") == ["r1"]
        assert (await store.load("r1")).record.attributes == after

    async def test_an_attribute_has_one_type_in_a_namespace(
        self, store: Opened
    ) -> None:
        other: Attribute[Any] = Attribute("customer", int)
        wrong = pack_values({other: 1})
        await store.perform(make_owned("r1", attributes=pack_values({CUSTOMER: "ann"})))
        properties = Properties(namespace=NAMESPACE, attributes=wrong, memo=None)

        for refused in (
            make_start("r2", attributes=wrong),
            make_commit("r1", properties=properties),
        ):
            with pytest.raises(AttributeTypeError, match=r"Int here, and a Keyword"):
                await store.perform(refused)
        elsewhere = make_start("r3", namespace="elsewhere", attributes=wrong)
        outcomes = await store.together(
            elsewhere,
            make_start("r4", attributes=pack_values({AMOUNT: 1})),
            make_start("r5", attributes=pack_values({Attribute("amount", str): "1"})),
        )

        assert isinstance(outcomes[2], AttributeTypeError)
        assert await store.read(ReadAttributeKinds(NAMESPACE)) == {
            "amount": "Int",
            "customer": "Keyword",
        }
        assert await store.read(ReadAttributeKinds("elsewhere")) == {"customer": "Int"}
        assert (await store.load("r1")).record.attributes is not None
        assert await store.read(FindRun(NAMESPACE, "wf-r2")) is None

    async def test_runs_are_counted_by_the_value_of_a_field(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("a", attributes=pack_values({CUSTOMER: "ann", AMOUNT: 1})),
            make_owned(
                "b", attributes=pack_values({CUSTOMER: "ann", TAGS: ["x", "y"]})
            ),
            make_owned("c", workflow_type="other"),
            make_closing("c"),
            make_start("d", namespace="elsewhere"),
        )

        for group_by, where, expected in (
            (("ExecutionStatus", True), None, {"running": 2, "completed": 1}),
            (("WorkflowType", True), CUSTOMER == "ann", {"order": 2}),
            (("customer", False), None, {"ann": 2, None: 1}),
            (("tags", False), Run.type == "order", {"x": 1, "y": 1, None: 1}),
        ):
            counts = await store.read(CountRuns(NAMESPACE, where, group_by))
            assert dict(counts.groups) == expected
            assert counts.is_complete

    async def test_nothing_of_one_namespace_is_read_in_another(
        self, store: Opened
    ) -> None:
        values = pack_values({CUSTOMER: "ann"})
        await store.together(
            make_owned("r1", attributes=values, wake_at=START),
            make_start("r2", wake_at=START),
            make_closing("r1", status=RunStatus.FAILED),
            make_child("r4", "r1", "abandon", task_queue="gpu", version="9"),
            make_closing("r4", closed_at=START + 3 * MINUTE),
        )
        parked = make_owned("r3", attributes=values)
        await store.perform(parked)
        await store.perform(ParkRun(run_id="r3", stuck="{}"))

        for where in (
            None,
            CUSTOMER == "ann",
            CUSTOMER.in_(["ann", "bob"]),
            CUSTOMER.starts_with("a"),
            (CUSTOMER == "ann") | (CUSTOMER == "bob"),
            Run.run_id == "r1",
            Run.id == "wf-r1",
            Run.status == "failed",
            Run.type == "order",
            Run.stuck == True,  # noqa: E712 - a condition
            Run.closed > to_datetime(0),
            Run.queue == "gpu",
            Run.version == "9",
            Run.parent_id == "wf-r1",
            Run.root_run_id == "r1",
            Run.duration >= timedelta(minutes=2),
            ~(CUSTOMER == "bob"),
        ):
            assert await store.read(SearchRuns(NAMESPACE, where)) != []
            for order in (Order(), Order("CloseTime")):
                query = SearchRuns("elsewhere", where, order)
                assert await store.read(query) == [], where
            counts = await store.read(
                CountRuns("elsewhere", where, ("customer", False))
            )
            assert (counts.total, counts.groups) == (0, {})
        assert await store.read(ReadAttributeKinds("elsewhere")) == {}
        assert await store.read(ListRuns("elsewhere", RunFilter())) == []
        for run_id in (None, "r1"):
            assert await store.read(FindRun("elsewhere", "wf-r1", run_id)) is None
        assert await store.read(FindUnowned("elsewhere", START + 9, 9)) == []
        assert await store.read(FindDueRuns(START - 1, 9)) == []

    async def test_a_namespace_is_created_once_and_changed(self, store: Opened) -> None:
        first = NamespaceRecord(namespace="eu", created_at=START, retention_days=30)
        changed = NamespaceRecord(
            namespace="eu", created_at=START + 9, description="Größe"
        )
        other = NamespaceRecord(namespace="de", created_at=START)

        assert not await store.perform(PutNamespace(record=first, is_new=False))
        assert await store.perform(PutNamespace(record=first, is_new=True))
        assert not await store.perform(PutNamespace(record=changed, is_new=True))
        assert await store.read(ReadNamespaces()) == [first]
        assert await store.perform(PutNamespace(record=other, is_new=True))
        assert await store.perform(PutNamespace(record=changed, is_new=False))

        found = await store.read(ReadNamespaces())
        assert [one.namespace for one in found] == ["de", "eu"]
        assert found[1].created_at == START
        assert (found[1].retention_days, found[1].description) == (None, "Größe")

    async def test_a_namespace_keeps_the_defaults_of_its_runs(
        self, store: Opened
    ) -> None:
        said = '{"run_timeout":2592000000000,"note":"größer"}'
        eu = NamespaceRecord(namespace="eu", created_at=START, defaults=said)
        bare = msgspec.structs.replace(eu, defaults=None)
        other = NamespaceRecord(namespace="EU", created_at=START)
        await store.perform(PutNamespace(record=eu, is_new=True))
        await store.perform(PutNamespace(record=other, is_new=True))

        assert await store.read(ReadNamespaces("eu")) == [eu]
        assert await store.read(ReadNamespaces("EU")) == [other]
        assert await store.read(ReadNamespaces("de")) == []
        assert await store.read(ReadNamespaces()) == [other, eu]
        await store.perform(PutNamespace(record=bare, is_new=False))
        assert await store.read(ReadNamespaces("eu")) == [bare]
        await store.perform(PutNamespace(record=eu, is_new=False))
        assert await store.read(ReadNamespaces("eu")) == [eu]


def make_start_of(record: RunRecord) -> Any:
    """Build the start of a run that has this row."""
    names = (name for name in record.__struct_fields__ if name != "run_id")
    return make_start(record.run_id, **{name: getattr(record, name) for name in names})


def make_ended(run_id: str, instant: int) -> Any:
    """Build the start of a run that began and closed so long after `START`."""
    at = START + instant
    return make_start(
        run_id, started_at=at, status=RunStatus.COMPLETED, closed_at=at + 1
    )


async def read_pages(
    store: Opened,
    where: Condition | None,
    order: Order = Order(),  # noqa: B008 - it is frozen
    limit: int = 100,
) -> list[str]:
    """Read all pages; return the run ids."""
    found: list[str] = []
    after = None
    while page := await store.read(SearchRuns(NAMESPACE, where, order, after, limit)):
        assert len(page) <= limit
        found += [run.run_id for run in page]
        after = (order.instant_of(page[-1]) or 0, page[-1].run_id)
    return found

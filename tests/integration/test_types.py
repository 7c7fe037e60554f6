"""Unions and zones through a whole run: activities, children, messages, restarts."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from durable import Signal, activity, query, run, signal, sleep, update, workflow
from durable.client.handle import Handle
from durable.testing.environment import TestEnvironment

BERLIN = ZoneInfo("Europe/Berlin")


@dataclasses.dataclass
class Paid:
    receipt: str


@dataclasses.dataclass
class Declined:
    receipt: str
    until: datetime | None = None


@dataclasses.dataclass
class Order:
    id: str | UUID
    due: datetime
    outcomes: list[Paid | Declined] = dataclasses.field(default_factory=list)


later = Signal("types.later", list[Paid | Declined] | None)


@activity(name="types.charge")
async def charge(order: Order, attempt: int | str) -> Paid | Declined:
    if attempt == "first":
        return Declined("r", order.due)
    return Paid("r")


@workflow(name="types.child")
async def child(outcome: Paid | Declined) -> tuple[Paid | Declined, datetime | str]:
    return outcome, datetime(2026, 7, 1, 12, tzinfo=BERLIN)


@workflow(name="types.Shop")
class Shop:
    def __init__(self) -> None:
        self.outcomes: list[Paid | Declined] = []

    @run
    async def buy(self, order: Order) -> Order:
        for attempt in ("first", 2):
            self.outcomes.append(await charge(order, attempt))
            await sleep("1h")
        outcome, _ = await child(self.outcomes[0])
        more = await later.receive()
        return dataclasses.replace(
            order, outcomes=[*self.outcomes, outcome, *(more or [])]
        )

    @signal
    def add(self, outcome: Declined | Paid) -> None:
        self.outcomes.append(outcome)

    @update
    def correct(self, outcome: Paid | Declined) -> Paid | Declined | None:
        self.outcomes[-1] = outcome
        return outcome

    @query
    def last(self) -> Paid | Declined | None:
        return self.outcomes[-1] if self.outcomes else None


async def test_every_value_of_a_run_keeps_its_member_and_its_zone(
    database: str,
) -> None:
    due = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    order = Order(UUID(int=7), due)
    declined = Declined("r", due)
    async with TestEnvironment(database) as env:
        shop = await env.start(Shop.buy(order), id="shop")
        await env.sleep("30m")
        assert await shop.query(Shop.last()) == declined
    async with TestEnvironment(database, clock=env.clock, max_cached_runs=1) as env:
        shop = await env.get("shop", workflow=Shop)
        await shop.signal(Shop.add(Paid("added")))
        assert await shop.update(Shop.correct(Declined("corrected"))) == Declined(
            "corrected"
        )
        await shop.signal(later([declined]))
        found = await shop.result()
        corrected = Declined("corrected")
        members: list[Paid | Declined]
        members = [declined, corrected, Paid("r"), declined, declined]
        assert found == dataclasses.replace(order, outcomes=members)
        assert repr(found) == repr(dataclasses.replace(order, outcomes=members))
        again: Handle[Any] = await env.get("shop")
        assert repr(await again.result()) == repr(found)

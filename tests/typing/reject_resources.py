"""Wrong use of resources: each marked line must be an error in each checker."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from durable import Engine, activity, activity_method, resource, workflow


class Pool: ...


class Client: ...


@activity
async def charge(cents: int, *, pool: Pool = resource(Pool)) -> str:
    return f"{cents} {pool}"


@activity
async def ship(parcel: str, *, pool: Pool = resource(Client)) -> str:  # E
    return f"{parcel} {pool}"


class Shop:
    @activity_method
    async def charge(self, cents: int) -> str:
        return f"{cents}"


shop = Shop()


async def open_resources() -> AsyncGenerator[dict[str, Pool], None]:
    yield {"pool": Pool()}


@workflow
async def place(cents: int) -> str:
    await charge("5")  # E
    await charge(5, pool=Client())  # E
    await Shop.charge("5")  # E
    await Shop.charge(shop, 5)  # E
    await shop.charge()  # E
    number: int = await Shop.charge(5)  # E
    return str(number)


Engine("memory://", resources=Pool())  # E
Engine("memory://", resources=[Pool()])  # E
Engine("memory://", resources=open_resources)  # E

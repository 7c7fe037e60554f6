"""Orders in a table and their workflows: both are there, or neither.

The order and the start of its workflow are one transaction of the program's own. One
order is rolled back, to a savepoint, and another with everything else of its request.
"""

import asyncio
import tempfile
from pathlib import Path

import sqlalchemy as sa

from durable import Engine, OutboxHandle, activity, workflow

orders = sa.Table(
    "orders",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.String(50), nullable=False),
)


@activity
async def send_parcel(order_id: int, customer: str) -> str:
    return f"order {order_id} is on its way to {customer}"


@workflow
async def fulfil(order_id: int, customer: str) -> str:
    return await send_parcel(order_id, customer)


def take_order(
    engine: Engine, connection: sa.Connection, customer: str
) -> OutboxHandle[str]:
    """Store an order and ask for its workflow; the caller commits."""
    insert = sa.insert(orders).values(customer=customer).returning(orders.c.id)
    order_id = connection.execute(insert).scalar_one()
    start = fulfil(order_id, customer)
    return engine.within(connection).start(start, id=f"order-{order_id}")


async def main(folder: Path) -> None:
    url = f"sqlite:///{folder / 'shop.db'}"
    shop = sa.create_engine(url)
    async with Engine(url) as engine:
        orders.create(shop)
        with shop.begin() as connection:
            taken = [take_order(engine, connection, name) for name in ("ann", "bob")]
            try:
                with connection.begin_nested():
                    take_order(engine, connection, "cid")
                    raise ValueError("the card of cid was declined")
            except ValueError as declined:
                print(declined)
        try:
            with shop.begin() as connection:
                take_order(engine, connection, "dan")
                raise ConnectionError("the customer has hung up")
        except ConnectionError as lost:
            print(lost)

        for handle in taken:
            print(await handle.result(timeout=20))
        with shop.connect() as connection:
            count = connection.execute(sa.select(sa.func.count(orders.c.id))).scalar()
        print(f"{count} orders, {(await engine.count()).total} runs")
    shop.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))

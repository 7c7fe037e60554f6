"""Bookings in a table and the results of activities: both are there, or neither.

Each activity writes in the transaction that its result is recorded in. One fails after
it has written, and is run again: its first row is rolled back.
"""

import asyncio
import tempfile
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from durable import (
    Engine,
    RetryPolicy,
    activity,
    activity_info,
    resource,
    workflow,
)


class Base(DeclarativeBase):
    pass


class Entry(Base):
    """A line of the ledger."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    cents: Mapped[int]


@activity(effect="transaction", retry=RetryPolicy(initial_interval="1ms"))
def book(account: str, cents: int, *, session: Session = resource(Session)) -> int:
    """Write a line, and return the account's balance."""
    session.add(Entry(account=account, cents=cents))
    session.flush()
    if account == "bob" and activity_info().attempt == 1:
        raise ConnectionError("lost after the row was written")
    total = sa.select(sa.func.sum(Entry.cents)).where(Entry.account == account)
    return session.scalar(total) or 0


@workflow
async def transfer(source: str, target: str, cents: int) -> tuple[int, int]:
    return await book(source, -cents), await book(target, cents)


async def main(folder: Path) -> None:
    url = f"sqlite:///{folder / 'bank.db'}"
    bank = sa.create_engine(url)
    async with Engine(url) as engine:
        Base.metadata.create_all(bank)
        print("balances:", *await engine.execute(transfer("ann", "bob", 500)))
        print("balances:", *await engine.execute(transfer("bob", "ann", 200)))
        with Session(bank) as session:
            for entry in session.scalars(sa.select(Entry).order_by(Entry.id)):
                print(entry.account, entry.cents)
    bank.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))

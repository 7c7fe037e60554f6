"""Wrong use of messages: each marked line must be an error in each checker."""

from __future__ import annotations

from durable import (
    QueryCall,
    Signal,
    query,
    run,
    set_query_handler,
    set_signal_handler,
    set_update_handler,
    signal,
    update,
    workflow,
)

approved = Signal("approved", bool)
stop = Signal("stop", None)


def take_text(text: str) -> None: ...


@workflow
async def asking() -> None:
    approved("yes")  # E
    approved()  # E
    approved(True, False)  # E
    stop(1)  # E
    text: str = await approved.receive()  # E
    set_signal_handler(approved, take_text)  # E
    set_signal_handler(5, take_text)  # E
    set_signal_handler("poke", take_text, unfinished="forget")  # E
    set_query_handler("status", 5)  # E
    set_update_handler("add", take_text, validater=take_text)  # E
    print(text)


@workflow
class Cart:
    @run
    async def run(self, customer: str) -> float:
        return 1.0

    @signal
    def add(self, item: str, n: int = 1) -> None: ...

    @query
    def count(self) -> int:
        return 1

    @update
    async def checkout(self, code: str) -> float:
        return len(code)

    @checkout.validator  # E
    def check_checkout(self, code: int) -> None: ...

    @checkout.validator  # E
    async def check_later(self, code: str) -> None: ...


class Wrong:
    @run  # E
    def run(self) -> None: ...

    @signal  # E
    def returning(self) -> int:
        return 1

    @signal(dynamic=1)  # E
    def dynamic(self) -> None: ...

    @query(unfinished="warn")  # E
    def asked(self) -> int:
        return 1

    @update(name=5)  # E
    def named(self) -> int:
        return 1


async def main(cart: Cart) -> None:
    Cart.run(5)  # E
    Cart.add(1)  # E
    Cart.add("apple", m=2)  # E
    Cart.count(1)  # E
    Cart.checkout()  # E
    wrong: QueryCall[str] = Cart.count()  # E
    cart.add(1)  # E
    number: int = await cart.checkout("code")  # E
    print(wrong, number)

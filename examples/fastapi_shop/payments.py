"""Stands in for a payment provider, and like a real one charges once for each key."""

import os
import sqlite3
import time
from contextlib import closing

TABLE = (
    "CREATE TABLE IF NOT EXISTS charges"
    " (key TEXT PRIMARY KEY, order_id TEXT NOT NULL, cents INTEGER NOT NULL)"
)


def charge(key: str, order_id: str, cents: int) -> str:
    book = sqlite3.connect(os.environ.get("PAYMENTS", "payments.db"), timeout=30)
    with closing(book), book:
        book.execute(TABLE)
        book.execute(
            "INSERT OR IGNORE INTO charges VALUES (?, ?, ?)", (key, order_id, cents)
        )
    time.sleep(0.1)  # its answer takes a while
    return f"receipt-{order_id}"

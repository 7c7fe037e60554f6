"""The outbox: what callers ask for in their own transactions, and its delivery."""

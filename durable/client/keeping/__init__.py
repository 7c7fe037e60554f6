"""Closed runs: how long they are kept, how they go, and how they move elsewhere."""

"""Signals, queries and updates as values, and the functions that handle them."""

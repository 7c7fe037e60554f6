"""Connections of callers: whether they lead here, and rows that are written by them."""

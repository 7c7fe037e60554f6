"""Entities: objects that live under keys, one call after the other at each."""

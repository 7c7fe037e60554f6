"""Sagas: the steps of a block, and how they are undone."""

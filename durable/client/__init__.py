"""Starts runs and speaks with them."""

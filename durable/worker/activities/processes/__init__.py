"""Processes that plain activities compute in: their lives, and what they are told."""

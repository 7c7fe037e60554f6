"""Attempts that have ended, and whose outcome cannot be recorded for a bug."""

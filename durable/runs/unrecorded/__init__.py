"""Attempts whose outcome cannot be recorded for a bug, and turns that are written later."""

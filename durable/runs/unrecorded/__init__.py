"""Attempts whose outcome cannot be recorded for a bug; turns that are written later."""

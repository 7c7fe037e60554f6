"""Histories as plain data: commands, events, payloads, and their rows."""

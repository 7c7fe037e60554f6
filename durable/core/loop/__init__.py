"""The event loop that workflow code runs on: one order, and no world outside."""

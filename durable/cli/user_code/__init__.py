"""The user's code, as commands need it: imported with care, found by name."""

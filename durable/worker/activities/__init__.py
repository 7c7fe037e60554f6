"""Attempts of activities: places and threads for them, their calls, how they end."""

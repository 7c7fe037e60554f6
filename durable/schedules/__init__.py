"""Schedules: which instants a spec means, and the workflow that acts at them."""

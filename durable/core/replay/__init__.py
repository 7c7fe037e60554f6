"""Runs a workflow's code from its history, one turn at a time."""

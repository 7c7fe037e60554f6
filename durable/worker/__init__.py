"""Drives runs and runs activities in one process."""

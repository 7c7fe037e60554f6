"""Workflows: functions and classes, and what their code may call."""

"""Flows: activities, workflows and functions composed into one."""

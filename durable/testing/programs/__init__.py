"""Workflow programs as data, and the workflow that walks them."""

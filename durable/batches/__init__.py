"""Batches: one action on all runs that a condition holds for, by a workflow."""

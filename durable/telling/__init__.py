"""Runs and numbers in words: what happened, what they wait for, for any reader."""

"""Runs in words: what happened, and what they wait for, for any kind of screen."""

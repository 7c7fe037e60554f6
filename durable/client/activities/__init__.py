"""What clients do to activities: complete, fail and hold them from outside."""

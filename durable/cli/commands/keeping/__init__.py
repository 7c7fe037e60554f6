"""Commands that delete runs, or take them elsewhere."""

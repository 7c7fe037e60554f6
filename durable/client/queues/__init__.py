"""What a task queue may have at once and how fast, changed while workers run."""

"""What a history says by itself: its run's state, found without user code."""

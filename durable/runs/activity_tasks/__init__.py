"""Activities that their run's owner does not run itself: offered, held, and judged."""

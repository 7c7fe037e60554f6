"""Activities that a worker takes from queues: claimed, run, and judged."""

"""State machines: workflows as states and the transitions between them."""

"""What the store's contract says of what operators do to runs."""

"""What the store's contract says of keeping closed runs, and of their going."""

"""What the store's contract says of messages, on their way to runs and waiting."""

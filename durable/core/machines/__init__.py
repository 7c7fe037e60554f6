"""One machine per operation: its states, the commands it sends, the events it takes."""

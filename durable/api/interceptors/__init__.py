"""What surrounds the calls of clients, workflows and activities, and their headers."""

"""What only SQLite needs: its file, its locks, its errors, its statements."""

"""What only PostgreSQL needs: its driver, its locks, its statements, its errors."""

"""What must be true in a database, checked from outside, and mended."""

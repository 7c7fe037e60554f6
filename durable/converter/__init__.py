"""Values to payload bytes and back; exceptions to failures and back."""

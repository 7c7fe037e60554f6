"""The contract of stores, as tests to inherit."""

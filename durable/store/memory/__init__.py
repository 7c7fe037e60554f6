"""The store without a database: rows in dicts."""

"""The store upon a SQL database: its tables, schema, reads and other statements."""

"""The store upon a SQL database: its threads, groups, tables and statements."""

"""The only package that knows a database: protocol, records, SQLite, memory."""

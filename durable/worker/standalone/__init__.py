"""Activities without an engine, a workflow or a database."""

"""The command line: `durable`. Nothing here is public but what the commands do."""

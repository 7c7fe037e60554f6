"""The threads of a store upon a SQL database: who writes, who reads, what a fork is."""

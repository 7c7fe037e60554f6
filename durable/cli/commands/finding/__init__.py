"""Commands that find what is there: runs, and the namespaces that they are in."""

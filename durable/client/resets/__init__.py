"""What an operator does to whole runs: reset, retry, fork, pause, compare."""

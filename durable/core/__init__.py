"""The replay machine: pure, without I/O, clock, threads or logging."""

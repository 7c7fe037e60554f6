"""Live runs as machines: inputs in, effects out; no loop, no store, no clock."""

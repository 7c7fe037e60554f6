"""The deploy gate: recorded runs, replayed on candidate code."""

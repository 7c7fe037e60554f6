"""The commands around a deploy: whether what is recorded fits the code."""

"""Who waits for what of a run, heard and read once for all who wait."""

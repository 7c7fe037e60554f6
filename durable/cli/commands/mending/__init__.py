"""Commands for a run that went wrong: reset, retried, forked, held up, compared."""

"""How workers do, for whoever asks by HTTP."""

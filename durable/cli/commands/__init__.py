"""The commands of `durable`, each imported when it is used."""

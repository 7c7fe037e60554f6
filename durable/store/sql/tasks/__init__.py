"""Activities that anyone may take, in tables: alike on all databases."""

"""Activities that nothing but a client asks for, each in a run of a tiny workflow."""

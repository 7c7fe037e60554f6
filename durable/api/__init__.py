"""What users write against: decorators, operations, and the registry they fill."""

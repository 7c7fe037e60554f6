"""All rows of one database put into another one, and both compared."""

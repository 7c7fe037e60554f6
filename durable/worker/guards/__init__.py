"""What workflow code may not do: looked for before it runs, refused while it runs."""

"""What only MariaDB and MySQL need: their driver, locks, statements and errors."""

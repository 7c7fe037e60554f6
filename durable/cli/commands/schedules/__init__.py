"""`durable schedules`: what starts workflows at given times."""

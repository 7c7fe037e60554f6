"""What users see of runs and their activities, one by one and in listings."""

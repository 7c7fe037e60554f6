"""What stores upon database servers share: time, sessions, what a lock has brought."""

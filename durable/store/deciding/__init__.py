"""What operations change, decided alike for all databases: pure."""

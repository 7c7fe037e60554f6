"""Activities: functions and methods with effects, whose results are recorded."""

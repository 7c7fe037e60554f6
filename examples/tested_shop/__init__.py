"""A small application with a pytest suite: `pytest tested_shop`, from above."""

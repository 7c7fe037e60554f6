"""Runs one workload in this process: `python -m tests.benchmarks.child`."""

import importlib
import sys
from pathlib import Path

from tests.benchmarks.children import answer


def main() -> None:
    subject, workload, directory, size = sys.argv[1:]
    module = importlib.import_module(f"tests.benchmarks.{subject}_workloads")
    answer(module.run(workload, Path(directory), int(size)))


if __name__ == "__main__":
    main()

"""Ends the servers of a run of tests once the run has ended, be it by kill -9.

As a program: `guard.py PID FOLDER` waits for the end of the process and sweeps the
folder. It says a line when it has begun to watch.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

SWEEP_SECONDS_MAX = 30.0


def start_guard(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that sweeps the folder when the process `pid` has ended."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(pid), str(folder)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests
    )
    assert guard.stdout is not None
    with guard.stdout as said:
        assert said.readline(), f"the guard of {folder} did not begin"
    return guard


def processes_in(folder: Path) -> list[int]:
    """List the processes that work in a folder: a server and what it has started."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it is another user's, or has gone
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
    return found


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_all_in(folder: Path) -> None:
    """Kill, as kill -9 does, all that work in a folder, and wait until they are gone.

    Raises:
        TimeoutError: some are still there.
    """
    deadline = time.monotonic() + SWEEP_SECONDS_MAX
    while running := processes_in(folder):
        send(signal.SIGKILL, running)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{running} in {folder} do not die")
        time.sleep(0.005)


def sweep(folder: Path) -> None:
    """Kill all that work in a folder and remove it, with their shared memory."""
    while folder.exists():
        kill_all_in(folder)
        for lock_file in folder.glob("**/postmaster.pid"):
            _remove_shared_memory(lock_file)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_shared_memory(lock_file: Path) -> None:
    """Remove the segment that a killed PostgreSQL has named in its seventh line."""
    lines = lock_file.read_text().splitlines()
    if len(lines) > 6 and lines[6].split():
        ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)  # 0: IPC_RMID


def main() -> None:
    pid, folder = int(sys.argv[1]), Path(sys.argv[2])
    with suppress(ProcessLookupError):  # it has ended already
        watched = os.pidfd_open(pid)
        print("watching", flush=True)
        select.select([watched], [], [])
    sweep(folder)


if __name__ == "__main__":
    main()

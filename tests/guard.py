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
    """List the processes whose commands name a folder, and all they have started.

    Who is root but not privileged, as in a container, sees no more than that of others.
    """
    parents: dict[int, int] = {}
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := parent_if_alive(int(entry.name))):
            parents[int(entry.name)] = parent
            with suppress(OSError):  # it has gone
                if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pid for pid in dict.fromkeys(found) if pid != os.getpid()]


def parent_if_alive(pid: int) -> int | None:
    """The parent of a process that has not ended."""
    with suppress(OSError):
        # As in "7 (a name) S 1 ...", where Z is a zombie.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state not in "ZX":
            return int(parent)
    return None


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze_all_in(folder: Path) -> list[int]:
    """Stop all, as SIGSTOP does, and list them: they start no others any more."""
    send(signal.SIGSTOP, processes_in(folder))
    frozen = processes_in(folder)
    send(signal.SIGSTOP, frozen)
    return frozen


def kill_all_in(folder: Path) -> None:
    """Kill, as kill -9 does, all processes in a folder; wait until they are gone.

    Raises:
        TimeoutError: some are still there.
    """
    running = freeze_all_in(folder)
    send(signal.SIGKILL, running)
    deadline = time.monotonic() + SWEEP_SECONDS_MAX
    while running := [pid for pid in running if parent_if_alive(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{running} in {folder} do not die")
        time.sleep(0.002)


def sweep(folder: Path) -> None:
    """Kill all processes in a folder and remove it, with their shared memory."""
    deadline = time.monotonic() + SWEEP_SECONDS_MAX
    while folder.exists():
        kill_all_in(folder)
        for lock_file in folder.glob("**/postmaster.pid"):
            _remove_shared_memory(lock_file)
        # What is just being started may add a file.
        shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)


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

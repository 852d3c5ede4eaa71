"""Peak memory of a process: its anonymous memory, which no file backs. Pages of mapped files do not count."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECK_EVERY = 0.01  # seconds


def anonymous_memory(pid: int | None) -> float:
    """Return the anonymous memory of a process in bytes; 0 where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0.0)


def run_command(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[float, float]:
    """Run a command, and return its seconds and the peak of its own anonymous memory in bytes, without children.

    Raises:
        RuntimeError: the command failed.
    """
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, env=environment, cwd=folder, **quiet)
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(CHECK_EVERY)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with status {process.returncode}")
    return time.perf_counter() - start, peak


class PeakMemory(threading.Thread):
    """A thread that watches the memory of this process, from its start to `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.largest, self._done = anonymous_memory(os.getpid()), 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        """Watch until `stop` is called."""
        while not self._done.wait(CHECK_EVERY):
            self.largest = max(self.largest, anonymous_memory(os.getpid()))

    def stop(self) -> float:
        """Return the bytes by which the peak exceeded the memory at the start."""
        self._done.set()
        self.join()
        return max(0.0, self.largest - self.before)

"""How a worker process of a batch begins. Imports little, so that it begins soon."""

import os
import signal
import threading
import time

# the signals that end a program, as far as the system has them
ENDING = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))}
LOOK_EVERY = 0.5  # seconds


def begin(parent: int) -> None:
    """Leave the signals that end a program to the process `parent`, and end when that has ended.

    Ctrl-C reaches all processes of a terminal. A worker that it ended in the middle of an answer would keep the parent,
    which waits for the rest of it, for ever. (On Windows, which does not tell of a parent's end, the worker ends once
    it has waited long enough for work.)
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    os._exit(1)

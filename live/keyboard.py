"""ENTER, as it is pressed on standard input."""

import os
import queue
import threading
import time
from collections.abc import Callable

import cli

ONE_PRESS = 0.7  # seconds; a key that is held down repeats after at most so long, on most systems after 0.25 to 0.66
REPEAT = 0.15  # seconds; it goes on to repeat at shorter intervals, 0.03 to 0.1, and nobody presses so fast


class Keyboard:
    """Lines typed on standard input. A thread of its own reads them, so the main thread can record meanwhile.

    On a terminal one press of ENTER counts once, however long it is held down; a program that writes lines into a pipe
    means each of them.
    """

    def __init__(self, descriptor: int | None) -> None:
        """Start to read `descriptor`, that of standard input; None if it is closed."""
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()  # time.monotonic(), line
        self._closed = threading.Event()
        self._by_hand = descriptor is not None and os.isatty(descriptor)
        self._last = float("-inf")  # time.monotonic() of the last line that was taken
        self._perhaps: float | None = None  # that of an ENTER that is a press if no repetition follows
        threading.Thread(target=self._read, args=(descriptor,), daemon=True).start()

    def _read(self, descriptor: int | None) -> None:
        for line in cli.read_lines(descriptor) if descriptor is not None else ():
            if line.endswith(b"\n"):  # text before the end of standard input is no ENTER
                self._lines.put((time.monotonic(), line.decode(errors="replace").strip()))
        self._closed.set()

    def _take(self) -> tuple[float, float, str]:
        """Return the time of the next line, the seconds between it and the one before, and its text."""
        typed, line = self._lines.get()
        since, self._last = typed - self._last, typed
        return typed, since if self._by_hand else float("inf"), line

    @property
    def ended(self) -> bool:
        """Whether standard input has ended and every line of it was taken."""
        return self._closed.is_set() and self._lines.empty()

    def wait(self, meanwhile: Callable[[], None], asked: float = 0.0, after: float = 0.0) -> str | None:
        """Wait for ENTER; return the text typed before it, or None if standard input has ended.

        Args:
            meanwhile: called again and again while nothing is typed.
            asked: time.monotonic() of the question. On a terminal ENTER alone is ignored before it, and while the key
                is still held down.
            after: time.monotonic() before which ENTER alone is ignored, from a pipe, too.
        """
        after = max(after, asked) if self._by_hand else after
        self._perhaps = None
        while True:
            while self._lines.empty():
                if self.ended:
                    return None
                meanwhile()
                time.sleep(0.02)  # no blocking get, because on Windows Ctrl-C cannot end it
            typed, since, line = self._take()
            if line or (typed >= after and since >= ONE_PRESS):
                return line

    def pressed(self) -> bool:
        """Return whether ENTER was pressed since the last call.

        A press soon after the one before counts once it is clear that the key is not held down.
        """
        while not self._lines.empty():
            typed, since, _ = self._take()
            if since >= ONE_PRESS:
                return True
            self._perhaps = typed if since >= REPEAT else None
        if self._perhaps is None or time.monotonic() - self._perhaps < REPEAT:
            return False
        self._perhaps = None
        return True

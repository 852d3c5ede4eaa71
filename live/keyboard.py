"""ENTER, as it is pressed on standard input."""

import queue
import threading
import time
from collections.abc import Callable

import cli


class Keyboard:
    """Lines typed on standard input. A thread of its own reads them, so the main thread can record meanwhile."""

    def __init__(self, descriptor: int | None) -> None:
        """Start to read `descriptor`, that of standard input; None if it is closed."""
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()  # time.monotonic(), line
        self._closed = threading.Event()
        threading.Thread(target=self._read, args=(descriptor,), daemon=True).start()

    def _read(self, descriptor: int | None) -> None:
        for line in cli.read_lines(descriptor) if descriptor is not None else ():
            if line.endswith(b"\n"):  # text before the end of standard input is no ENTER
                self._lines.put((time.monotonic(), line.decode(errors="replace").strip()))
        self._closed.set()

    @property
    def ended(self) -> bool:
        """Whether standard input has ended and every line of it was taken."""
        return self._closed.is_set() and self._lines.empty()

    def wait(self, meanwhile: Callable[[], None], after: float = 0.0) -> str | None:
        """Wait for ENTER; return the text typed before it, or None if standard input has ended.

        Args:
            meanwhile: called again and again while nothing is typed.
            after: time.monotonic() before which ENTER alone is ignored.
        """
        while True:
            while self._lines.empty():
                if self.ended:
                    return None
                meanwhile()
                time.sleep(0.02)  # no blocking get, because on Windows Ctrl-C cannot end it
            typed, line = self._lines.get()
            if line or typed >= after:
                return line

    def pressed(self) -> bool:
        """Return whether ENTER was pressed since the last call."""
        if self._lines.empty():
            return False
        self._lines.get()
        return True

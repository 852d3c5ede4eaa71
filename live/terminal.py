"""The terminal of a show: lines that stay, one line below them that changes, and ENTER."""

import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TextIO

SAME_CTRL_C = 3.0  # seconds in which a program has ended that was told to


def debounce_interrupts() -> None:
    """Take Ctrl-C, or a signal that ends the program, for the same if it comes again while the program ends.

    So a person who presses it twice is still told where the recording is, and nothing is left half done.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # which Windows has not all
        if (number := getattr(signal, name, None)) and callable(handler := signal.getsignal(number)):
            handlers[number] = handler
    heeded = float("-inf")  # time.monotonic()

    def heed(number: int, frame: FrameType | None) -> None:
        nonlocal heeded
        if time.monotonic() - heeded >= SAME_CTRL_C:
            heeded = time.monotonic()
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, heed)


class Screen:
    """Standard output and error as one: lines stay, and below them is a status that changes (`status`).

    Several threads may write. Where standard output is not a terminal there is no status.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = ""
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()

    def hush_libraries(self) -> None:
        """Show nothing any more that C libraries write to standard error: ALSA comments on every device that goes away.

        What Python writes there is shown as before.
        """
        if sys.stderr and not os.environ.get("VOICETOIMG_TRACEBACK"):
            sys.stderr.flush()
            shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            sys.stderr = os.fdopen(shown, "w", buffering=1, encoding=sys.stderr.encoding, errors="surrogateescape")
            os.dup2(nowhere, 2)
            os.close(nowhere)

    @property
    def width(self) -> int:
        """Characters that fit on a line of the terminal now; the last column is left free, lest the line wraps."""
        return shutil.get_terminal_size().columns - 1

    def say(self, line: str) -> None:
        self._write(line, sys.stdout)

    def warn(self, line: str) -> None:
        self._write(line, sys.stderr)

    def status(self, text: str) -> None:
        """Show `text`, as much of it as fits, until the next call; "" takes it away."""
        if self.is_terminal:
            with self._lock:
                self._show(text[: max(0, self.width)])

    def _write(self, line: str, stream: TextIO) -> None:
        with self._lock:
            status = self._shown
            self._show("")
            print(line, file=stream, flush=True)
            self._show(status)

    def _show(self, text: str) -> None:
        if text == self._shown:
            return
        # blanks in place of an escape sequence: every terminal knows them
        blanks = " " * (len(self._shown) - len(text))
        sys.stdout.write(f"\r{text}{blanks}" + "\r" * (not text))
        sys.stdout.flush()
        self._shown = text


class Keyboard:
    """Lines typed on standard input, noticed by a thread of its own while the main thread records."""

    def __init__(self, descriptor: int | None) -> None:
        """`descriptor`: of standard input; None if it is closed."""
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()  # time.monotonic(), what was typed
        self._ended = threading.Event()
        # os.read, since a thread that waits in sys.stdin.readline makes the interpreter abort at its end
        threading.Thread(target=self._listen, args=(descriptor,), daemon=True).start()

    def _listen(self, descriptor: int | None) -> None:
        typed = b""
        try:
            while descriptor is not None and (came := os.read(descriptor, 1024)):
                *lines, typed = (typed + came).split(b"\n")
                for line in lines:
                    self._lines.put((time.monotonic(), line.decode(errors="replace").strip()))
        except OSError:  # the terminal was closed
            pass
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether all was taken that anybody will ever type."""
        return self._ended.is_set() and self._lines.empty()

    def wait(self, meanwhile: Callable[[], None], after: float = 0.0) -> str | None:
        """Wait for ENTER; return what was typed before it, or None if standard input has ended.

        A mere ENTER before the time.monotonic() `after` is left out.
        """
        while True:
            while self._lines.empty():
                if self.ended:
                    return None
                meanwhile()
                time.sleep(0.02)  # not a blocking get: on Windows Ctrl-C would not end it
            typed, line = self._lines.get()
            if line or typed >= after:
                return line

    def pressed(self) -> bool:
        """Whether ENTER was pressed since the last call."""
        if self._lines.empty():
            return False
        self._lines.get()
        return True

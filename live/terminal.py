"""The terminal as a `Display`: lines that stay, and one line below them that changes."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import cli

if TYPE_CHECKING:
    from live.meter import Meter

DEBOUNCE = 3.0  # seconds in which a second Ctrl-C counts as the first; the program ends within that time
# the format of tqdm, but always seconds per step, never steps per second
PROGRESS_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"


def debounce_interrupts() -> None:
    """Ignore Ctrl-C, and signals that end the program, if they come again while the program ends.

    A person who presses Ctrl-C twice still reads where the recording is, and no file is left half written.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has not all of them
        if (number := getattr(signal, name, None)) and callable(handler := signal.getsignal(number)):
            handlers[number] = handler
    last = float("-inf")  # time.monotonic()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= DEBOUNCE:
            last = time.monotonic()
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, handle)


class Terminal:
    """Standard output and error as one `Display`.

    Below the lines there is one line for status, level or progress; the level comes first while a recording goes on.
    If standard output is not a terminal, that line is left out, and the level is printed once a second.
    """

    def __init__(self) -> None:
        """Use the standard output and error of this process."""
        self._lock = threading.RLock()
        self._drawn = ""  # text of the changing line
        self._recording = False
        self._reported_seconds = 0  # of the recording, where the level is printed
        self._progress_start: tuple[float, int] | None = None  # time.monotonic() and step of the first progress
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()

    def silence_libraries(self) -> None:
        """Discard what C libraries write to standard error: ALSA comments on every device that goes away.

        What Python code writes there still appears.
        """
        if sys.stderr and not cli.traceback_wanted():
            sys.stderr.flush()
            kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=sys.stderr.encoding, errors="surrogateescape")
            os.dup2(nowhere, 2)
            os.close(nowhere)

    @property
    def width(self) -> int:
        """Number of characters that fit on a line; the last column stays free, or the line would wrap."""
        return max(0, shutil.get_terminal_size().columns - 1)

    # --- Display ------------------------------------------------------------------------------------------------------
    def say(self, line: str) -> None:
        """Print a line on standard output."""
        self._print(line, sys.stdout)

    def warn(self, line: str) -> None:
        """Print a line on standard error."""
        self._print(line, sys.stderr)

    def status(self, text: str) -> None:
        """Show text below the lines until the next call; "" removes it."""
        if not self._recording:
            self._draw(text)

    def level(self, meter: "Meter | None") -> None:
        """Show the input level; None removes it."""
        self._recording = meter is not None
        if meter is None:
            self._reported_seconds = 0
            self._draw("")
        elif self.is_terminal:
            self._draw(meter.line(self.width))
        elif int(meter.seconds) > self._reported_seconds:
            self._reported_seconds = int(meter.seconds)
            self.say(meter.plain())

    def progress(self, step: int, steps: int) -> None:
        """Show a progress bar with the seconds per step and the time that remains."""
        if self._progress_start is None:
            self._progress_start = (time.monotonic(), step)
        start, first = self._progress_start
        if self.is_terminal and not self._recording:
            self._draw(progress_bar(step, steps, time.monotonic() - start, first))

    def progress_done(self) -> None:
        """Remove the progress bar."""
        self._progress_start = None
        self.status("")

    def preview(self, path: Path) -> None:
        """Show nothing: a terminal has no images, and the file can be watched in a viewer."""

    def image(self, path: Path, seconds: float) -> None:
        """Print where the image is, and how long it took."""
        self.say(f"image: {path} ({seconds:.1f} s from sound to image)")

    # --- drawing ------------------------------------------------------------------------------------------------------
    def _print(self, line: str, stream: TextIO) -> None:
        """Print a line above the changing line."""
        with self._lock:
            drawn = self._drawn
            self._draw("")
            print(line, file=stream, flush=True)
            self._draw(drawn)

    def _draw(self, text: str) -> None:
        """Replace the changing line by as much of `text` as fits."""
        with self._lock:
            text = text[: self.width]
            if not self.is_terminal or text == self._drawn:
                return
            # overwrite with blanks: every terminal understands them, not every one escape sequences
            blanks = " " * (len(self._drawn) - len(text))
            sys.stdout.write(f"\r{text}{blanks}" + "\r" * (not text))
            sys.stdout.flush()
            self._drawn = text


def progress_bar(step: int, steps: int, elapsed: float, first: int = 0) -> str:
    """Return a progress bar as tqdm draws it.

    Args:
        step: steps that are done, of `steps` in all.
        elapsed: seconds since step `first` was done.
        first: the step at which the clock was started.
    """
    from tqdm import tqdm  # takes a tenth of a second to import: only where a bar is drawn

    return tqdm.format_meter(
        step,
        steps,
        elapsed,
        prefix="sampling",
        ascii=not (sys.stdout.encoding or "").lower().startswith("utf"),
        unit="step",
        bar_format=PROGRESS_FORMAT,
        initial=first,
    )

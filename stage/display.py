"""The stage as a display of the live workflow."""

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from live.display import Display

if TYPE_CHECKING:
    from live.meter import Meter

REMEMBERED = 20  # warnings


class Painting(Protocol):
    """Receiver of what happens to an image."""

    def on_progress(self, step: int, steps: int) -> None:
        """Note that `step` of `steps` are done."""

    def on_preview(self, path: Path) -> None:
        """Show a rough version."""

    def on_image(self, path: Path, seconds: float) -> None:
        """Show a finished image, made within `seconds`."""


class StageDisplay:
    """A `Display` that passes lines on to the terminal, and what happens to an image to the show."""

    def __init__(self, terminal: Display) -> None:
        """Keep the terminal; the show sets `painting`."""
        self.terminal = terminal
        self.painting: Painting | None = None
        self.errors: deque[str] = deque(maxlen=REMEMBERED)

    def say(self, line: str) -> None:
        """Print a line."""
        self.terminal.say(line)

    def warn(self, line: str) -> None:
        """Print a warning, and keep it for the artist's page."""
        self.errors.append(f"{time.strftime('%H:%M:%S')} {line}")
        self.terminal.warn(line)

    def status(self, text: str) -> None:
        """Show what the program waits for."""
        self.terminal.status(text)

    def level(self, meter: "Meter | None") -> None:
        """Show nothing: the pages get the waveform of a recording."""

    def progress(self, step: int, steps: int) -> None:
        """Tell the pages how much is done."""
        if self.painting:
            self.painting.on_progress(step, steps)

    def progress_done(self) -> None:
        """Show nothing: the image, or what went wrong, follows."""

    def preview(self, path: Path) -> None:
        """Send a rough version to the pages."""
        if self.painting:
            self.painting.on_preview(path)

    def image(self, path: Path, seconds: float) -> None:
        """Show a finished image on the pages."""
        if self.painting:
            self.painting.on_image(path, seconds)
        self.terminal.image(path, seconds)

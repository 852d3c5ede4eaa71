"""The seam between the live workflow and whoever watches it.

The pipeline, the capture and the client of the scripts report what happens to a `Display` and to nothing else. The
terminal (`live/terminal.py`) is one; a web page can be another. Methods are called from several threads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from live.meter import Meter


class Display(Protocol):
    """Everything that a live run tells people while it goes on."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def warn(self, line: str) -> None:
        """Show a warning, or the reason of a failure, as a line that stays."""

    def status(self, text: str) -> None:
        """Show what the program waits for, until the next call; "" removes it."""

    def level(self, meter: "Meter | None") -> None:
        """Show the input level of the recording that goes on; None: the recording has ended."""

    def progress(self, step: int, steps: int) -> None:
        """Show that `step` of `steps` sampling steps of an image are done."""

    def progress_done(self) -> None:
        """Remove the progress: the image is finished, or failed."""

    def preview(self, path: Path) -> None:
        """Show a rough version of the image that is being sampled; the file is rewritten for each preview."""

    def image(self, path: Path, seconds: float) -> None:
        """Show a finished image, made within `seconds` of the end of its recording."""

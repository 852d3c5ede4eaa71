"""A display that records what it is told."""

from pathlib import Path
from typing import Any

from live.meter import Meter


class RecordingDisplay:
    """A `live.display.Display` whose calls become `events`, each a tuple of the method's name and its arguments."""

    def __init__(self) -> None:
        """Start without events."""
        self.events: list[tuple[Any, ...]] = []

    def say(self, line: str) -> None:
        self.events.append(("say", line))

    def warn(self, line: str) -> None:
        self.events.append(("warn", line))

    def status(self, text: str) -> None:
        self.events.append(("status", text))

    def level(self, meter: Meter | None) -> None:
        self.events.append(("level", meter.seconds if meter else None))

    def progress(self, step: int, steps: int) -> None:
        self.events.append(("progress", step, steps))

    def progress_done(self) -> None:
        self.events.append(("progress_done",))

    def preview(self, path: Path) -> None:
        self.events.append(("preview", path))

    def image(self, path: Path, seconds: float) -> None:
        assert seconds >= 0
        self.events.append(("image", path))

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        """Return the events of some kinds."""
        return [event for event in self.events if event[0] in kinds]

    def lines(self, kind: str) -> list[str]:
        """Return all lines that were said, or warned of."""
        return [event[1] for event in self.of(kind)]
